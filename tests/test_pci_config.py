"""Configuration space against bytes derived by hand from the type-0 header of the PCI specification."""

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdvkit.errors import UsageError
from hdvkit.pci import Bar, Capability, Command, ConfigSpace, Identity

IDENTITY = Identity(
    vendor_id=0x1AF4,
    device_id=0x105A,
    class_code=0x018000,
    revision_id=1,
    subsystem_vendor_id=0x1AF4,
    subsystem_id=0x0040,
)
FULL_WRITE = 0xFFFFFFFF


def space(bars: Sequence[Bar] = (), capabilities: Sequence[Capability] = (), **options: int) -> ConfigSpace:
    return ConfigSpace(IDENTITY, bars, capabilities, **options)


def read(config: ConfigSpace, offset: int, size: int) -> int:
    return int.from_bytes(config.read(offset, size), "little")


def write(config: ConfigSpace, offset: int, size: int, value: int) -> None:
    config.write(offset, value.to_bytes(size, "little"))


def probed(config: ConfigSpace) -> tuple[int, ...]:
    """Size the BARs as a guest does: all ones into every register, read, put back."""
    words = []
    for offset in range(0x10, 0x28, 4):
        before = config.read(offset, 4)
        config.write(offset, b"\xff" * 4)
        words.append(read(config, offset, 4))
        config.write(offset, before)
    return tuple(words)


def test_header_after_power_on_is_this_byte_for_byte() -> None:
    config = space([Bar(0, 0x4000), Bar(2, 0x1000)], [Capability(9, b"\3")], interrupt_pin=1)
    golden = struct.pack(
        "<HHHHB3sBBBB6I I HH I B7s BBBB",
        *(0x1AF4, 0x105A),  # vendor, device
        *(0x0000, 0x0010),  # command, status: nothing enabled, a capability list
        *(1, b"\x00\x80\x01"),  # revision; interface, subclass, base class
        *(0, 0, 0, 0),  # cache line, latency, header type 0, BIST
        *(0x4, 0, 0x4, 0, 0, 0),  # two 64-bit BARs, not prefetchable
        0,  # CardBus
        *(0x1AF4, 0x0040),  # subsystem
        0,  # no expansion ROM
        *(0x40, b"\0" * 7),  # first capability
        *(0, 1, 0, 0),  # line, pin A, min_gnt, max_lat
    )
    assert len(golden) == 64
    assert b"".join(config.read(at, 4) for at in range(0, 64, 4)) == golden


def test_only_the_writable_bits_of_the_header_take_ones() -> None:
    config = space()
    before = b"".join(config.read(at, 4) for at in range(0, 256, 4))
    for at in range(0, 256, 4):
        config.write(at, b"\xff" * 4)
    after = b"".join(config.read(at, 4) for at in range(0, 256, 4))
    changed = {at: new for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}
    # command 0x0546: memory, bus master, parity, SERR, INTx disable; cache line, latency, interrupt line
    assert changed == {0x04: 0x46, 0x05: 0x05, 0x0C: 0xFF, 0x0D: 0xFF, 0x3C: 0xFF}


def test_writable_bits_take_zeroes_again_and_bytes_can_be_written_one_by_one() -> None:
    config = space()
    write(config, 0x04, 2, 0x0406)
    assert config.command == Command.MEMORY | Command.BUS_MASTER | Command.INTX_DISABLE
    write(config, 0x05, 1, 0)
    assert config.command == Command.MEMORY | Command.BUS_MASTER
    write(config, 0x04, 4, 0xFFFF0002)
    assert read(config, 0x04, 4) == 0x00100002


def test_status_bits_are_cleared_by_writing_ones_and_by_nothing_else() -> None:
    config = space()
    raised = 0xF900  # parity, SERR, master abort, target aborts, master parity
    config._data[6:8] = (raised | 0x10).to_bytes(2, "little")  # nothing of ours raises them
    write(config, 0x06, 2, 0)
    assert read(config, 0x06, 2) == raised | 0x10, "zeroes leave them"
    write(config, 0x04, 4, 0x0100_0002)
    assert read(config, 0x06, 2) == 0xF810, "a one clears its own bit alone"
    write(config, 0x06, 2, 0xFFFF)
    assert read(config, 0x06, 2) == 0x0010, "read-only bits stay"


@pytest.mark.parametrize(
    ("bars", "words"),
    [
        ([], (0, 0, 0, 0, 0, 0)),
        (
            [Bar(0, 0x1000), Bar(2, 0x1000)],
            (0xFFFFF004, 0xFFFFFFFF, 0xFFFFF004, 0xFFFFFFFF, 0, 0),
        ),
        ([Bar(0, 0x4000, wide=False)], (0xFFFFC000, 0, 0, 0, 0, 0)),
        ([Bar(5, 0x100000, wide=False, prefetchable=True)], (0, 0, 0, 0, 0, 0xFFF00008)),
        ([Bar(1, 0x1000, prefetchable=True)], (0, 0xFFFFF00C, 0xFFFFFFFF, 0, 0, 0)),
        ([Bar(4, 1 << 32)], (0, 0, 0, 0, 0x00000004, 0xFFFFFFFF)),
        ([Bar(0, 1 << 36, prefetchable=True)], (0x0000000C, 0xFFFFFFF0, 0, 0, 0, 0)),
        ([Bar(0, 1 << 31, wide=False), Bar(1, 0x8000, wide=False)], (0x80000000, 0xFFFF8000, 0, 0, 0, 0)),
    ],
)
def test_probe_words_are_what_probing_reads_back(bars: list[Bar], words: tuple[int, ...]) -> None:
    config = space(bars)
    assert config.probe_words() == words
    assert probed(config) == words


@given(
    st.permutations([0, 2, 4]),
    st.lists(
        st.tuples(st.integers(12, 40), st.booleans(), st.booleans()),
        max_size=3,
    ),
)
def test_any_bars_probe_to_their_words_and_to_their_size(
    indices: list[int], shapes: list[tuple[int, bool, bool]]
) -> None:
    bars = [
        Bar(index, 1 << (exponent if wide else min(exponent, 31)), wide=wide, prefetchable=prefetchable)
        for index, (exponent, wide, prefetchable) in zip(indices, shapes, strict=False)
    ]
    config = space(bars)
    words = probed(config)
    assert words == config.probe_words()
    for bar in bars:
        low = words[bar.index]
        assert low & 0xF == 4 * bar.wide + 8 * bar.prefetchable
        high = words[bar.index + 1] if bar.wide else FULL_WRITE
        assert (1 << 64) - (high << 32 | low & ~0xF) == bar.size


def test_a_bar_keeps_its_place_and_its_type_bits() -> None:
    config = space([Bar(0, 0x4000), Bar(2, 0x1000, wide=False, prefetchable=True)])
    write(config, 0x10, 4, 0xE0007FFF)
    write(config, 0x14, 4, 0x00000001)
    write(config, 0x18, 4, 0xFEDCBA98)
    assert read(config, 0x10, 4) == 0xE0004004, "aligned down to its size, 64-bit memory"
    assert config.bar_address(0) == 0x1_E000_4000
    assert read(config, 0x18, 4) == 0xFEDCB008
    assert config.bar_address(2) == 0xFEDCB000
    write(config, 0x1C, 4, FULL_WRITE)
    assert read(config, 0x1C, 4) == 0, "no BAR there"


def test_reset_is_power_on_again() -> None:
    config = space([Bar(0, 0x4000)], [Capability(9, b"\4\0", b"\0\xff")])
    before = b"".join(config.read(at, 4) for at in range(0, 256, 4))
    for at in range(0, 256, 4):
        config.write(at, b"\xff" * 4)
    config.reset()
    assert b"".join(config.read(at, 4) for at in range(0, 256, 4)) == before


@pytest.mark.parametrize("express", [False, True])
def test_only_aligned_accesses_of_1_2_or_4_bytes_inside_are_made(express: bool) -> None:
    config = space(express=express)
    end = 4096 if express else 256
    assert config.size == end
    for offset in (*range(-2, 10), *range(end - 5, end + 5)):
        for size in range(10):
            good = size in (1, 2, 4) and offset % max(size, 1) == 0 and offset >= 0 and offset + size <= end
            before = config.dropped
            assert len(config.read(offset, size)) == size
            config.write(offset, b"\xff" * size)
            assert config.dropped - before == (0 if good else 2), (offset, size)
    assert config.read(0, 8) == bytes(8)
    assert config.read(0x01, 2) == bytes(2)
    assert config.read(0, -1) == b""
    assert len(config.read(0, 1 << 40)) == end, "an answer is never longer than the space"


def test_a_refused_write_changes_nothing() -> None:
    config = space()
    config.write(0x3B, b"\xff\xff")
    config.write(0x04, b"\xff" * 8)
    config.write(0x0C, b"\xff" * 3)
    assert config.dropped == 3
    assert read(config, 0x3C, 1) == read(config, 0x04, 2) == read(config, 0x0C, 2) == 0


@pytest.mark.parametrize("size", [0, 1, 2048, 4095, 4097, 0x3000, -4096])
def test_a_bar_of_no_power_of_two_or_below_a_page_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match="power of two of at least 4096"):
        Bar(0, size)


@pytest.mark.parametrize("index", [-1, 6])
def test_a_bar_that_no_header_has_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="index"):
        Bar(index, 4096)


@pytest.mark.parametrize(
    "bars",
    [
        [Bar(5, 0x1000)],  # its upper half would be the CardBus register
        [Bar(0, 0x1000), Bar(1, 0x1000, wide=False)],  # in the upper half of BAR 0
        [Bar(0, 0x1000), Bar(0, 0x2000)],
    ],
)
def test_bars_that_share_a_register_are_refused(bars: list[Bar]) -> None:
    with pytest.raises(UsageError, match="BAR"):
        space(bars)


def test_a_32_bit_bar_of_4_gib_is_refused() -> None:
    with pytest.raises(UsageError, match="32-bit"):
        Bar(0, 1 << 32, wide=False)
