"""Guest memory of the double: where RAM is, what apertures show, how many there are."""

import pytest
from double_bench import Bench, bench
from double_control import HIGH, MIB

PAGE = 4096
END_OF_LOW = 3840 * MIB


def bytes_at(b: Bench, address: object, size: int) -> bytes:
    return bytes(b.platform.ffi.buffer(address, size))


def test_an_aperture_is_the_guests_own_page() -> None:
    with bench() as b, b.attached() as device:
        for gpa in (HIGH, MIB, END_OF_LOW - PAGE, HIGH + 63 * MIB + 17 * PAGE):
            b.guest.ram(gpa, 5)[:] = b"hello"
            code, va = b.aperture(device, gpa)
            assert code == 0
            assert bytes_at(b, va, 5) == b"hello"
            b.platform.ffi.buffer(va, PAGE)[PAGE - 5 : PAGE] = b"there"
            assert bytes(b.guest.ram(gpa + PAGE - 5, 5)) == b"there"
            assert b.lib.HdvDestroyGuestMemoryAperture(device.handle, va) == 0
        assert b.double.count("apertures") == 4
        assert b.double.count("apertures_live") == 0


@pytest.mark.parametrize(
    ("gpa", "size"),
    [
        (END_OF_LOW, PAGE),
        (END_OF_LOW - PAGE, 2 * PAGE),
        (HIGH - PAGE, 2 * PAGE),
        (HIGH + 64 * MIB, PAGE),
        (2**64 - PAGE, PAGE),
    ],
)
def test_there_is_no_aperture_where_there_is_no_ram(gpa: int, size: int) -> None:
    with bench() as b, b.attached() as device:
        assert b.aperture(device, gpa, size) == (0x80070057, b.platform.ffi.NULL)


@pytest.mark.parametrize(("gpa", "size"), [(HIGH + 1, PAGE), (HIGH, 0)])
def test_what_is_no_page_is_refused(gpa: int, size: int) -> None:
    with bench(faults=True) as b, b.attached() as device:
        assert b.aperture(device, gpa, size)[0] == 0x80070057
        assert "are no pages" in b.double.warnings()[0]


def test_the_quota_is_of_the_machine() -> None:
    with bench() as b, b.attached() as device:
        held = [b.aperture(device, HIGH + at * PAGE) for at in range(513)]
        assert [code for code, _ in held] == [0] * 512 + [0x80070718]
        assert b.lib.HdvDestroyGuestMemoryAperture(device.handle, held[7][1]) == 0
        assert b.aperture(device, HIGH)[0] == 0
        assert b.double.count("apertures_peak") == 512
        b.double.set(aperture_quota=4)
        assert b.aperture(device, HIGH)[0] == 0x80070718
        report = b.double.report()
        assert report[-1].startswith("leak: 512 apertures") or "leak: 512 apertures" in report


def test_what_is_left_is_mentioned() -> None:
    with bench() as b:
        with b.attached() as device:
            assert b.aperture(device, HIGH)[0] == 0
        assert b.double.report() == ["info: device 0 left 1 apertures to the platform"]


def test_creation_fails_as_often_as_it_was_told_to() -> None:
    with bench() as b, b.attached() as device:
        b.double.fail_next("HdvCreateGuestMemoryAperture", 0x80070718, 2)
        assert [b.aperture(device, HIGH)[0] for _ in range(3)] == [0x80070718, 0x80070718, 0]


def test_pages_that_nobody_backed_may_be_stale() -> None:
    with bench() as b, b.attached() as device:
        b.double.set(stale_pages=1)
        b.guest.ram(HIGH, 1)
        assert b.guest.backed(HIGH)
        assert not b.guest.backed(HIGH + PAGE)
        _, backed = b.aperture(device, HIGH)
        _, stale = b.aperture(device, HIGH + PAGE)
        b.guest.ram(HIGH, 3)[:] = b"new"
        b.guest.ram(HIGH + PAGE, 3)[:] = b"new"
        assert bytes_at(b, backed, 3) == b"new"
        assert bytes_at(b, stale, 3) == b"\0\0\0"
        assert b.double.count("apertures_stale") == 1
        _, fresh = b.aperture(device, HIGH + PAGE)
        assert bytes_at(b, fresh, 3) == b"new"


def test_destroy_wants_an_address_of_its_own() -> None:
    with bench(faults=True) as b, b.attached() as device:
        code, va = b.aperture(device, HIGH, 2 * PAGE)
        assert code == 0
        destroy = b.lib.HdvDestroyGuestMemoryAperture
        assert destroy(device.handle, va + PAGE) < 0
        assert destroy(device.handle, va) == 0
        assert destroy(device.handle, va) < 0


def test_a_restricted_host_copies_nothing() -> None:
    with bench() as b, b.attached() as device:
        buffer = b.platform.ffi.new("uint8_t[16]")
        for copy in (b.lib.HdvReadGuestMemory, b.lib.HdvWriteGuestMemory):
            assert copy(device.handle, HIGH, 16, buffer) & 0xFFFFFFFF == 0x80070005


def test_a_small_machine_has_low_memory_only() -> None:
    with bench(memory_mb=64) as b:
        assert b.guest.ram_sizes == (64 * MIB, 0)
        assert len(b.guest.ram(64 * MIB - 8, 8)) == 8
        for gpa in (64 * MIB, HIGH):
            with pytest.raises(ValueError, match="no RAM"):
                b.guest.ram(gpa, 1)
