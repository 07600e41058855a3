"""The double itself, by hand: a device from the handshake to the last callback, and a guest in front of it."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from double.build import BuildError, build_linux, build_windows, exports
from double_bench import INSTANCE, VM, TinyDevice, bench
from double_control import HIGH, MIB, Double
from double_machine import DoubleMachine

pytestmark = pytest.mark.skipif(sys.platform not in ("linux", "win32"), reason="the double knows Linux and Windows")

POWER_ON = ["Initialize", "SetConfiguration", "GetDetails", "Start"]


def test_a_device_from_the_handshake_to_its_last_callback() -> None:
    with bench() as b:
        with b.host() as (system, host):
            device = TinyDevice(b.platform)
            assert device.create(host, INSTANCE) == 0
            assert device.calls == []
            assert b.platform.modify(system, "Add", INSTANCE, Configuration=["a", "é\N{GRINNING FACE}"]) == (0, None)
            assert device.strings == ["a", "é\N{GRINNING FACE}"]
            assert list(dict.fromkeys(call for call in device.calls if call in POWER_ON)) == POWER_ON
            assert device.calls.count("GetDetails") > 1
            assert threading.get_ident() not in device.threads
            assert "Teardown" not in device.calls
        assert device.calls[-1] == "Teardown"
        assert device.calls.count("Teardown") == 1
        assert [line for line in b.double.log() if line.startswith("Hdv")] == [
            "HdvInitializeDeviceHostForProxy",
            "HdvProxyDeviceHost",
            "HdvCreateDeviceInstance",
            "HdvTeardownDeviceHost",
        ]


def test_a_cold_device_is_powered_on_by_the_start() -> None:
    with bench(running=False) as b:
        assert b.guest.cold_slot(INSTANCE) == 0
        with b.host() as (system, host):
            device = TinyDevice(b.platform)
            assert device.create(host, INSTANCE) == 0
            assert b.platform.wait(b.lib.HcsStartComputeSystem, system, b.platform.ffi.NULL) == (0, None)
            assert "Start" in device.calls
            assert b.guest.slot(INSTANCE) is not None
            assert b.guest.stop() == 0
            assert device.calls[-1] == "Stop"
            assert b.guest.slot(INSTANCE) is None


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_accesses_arrive_with_bar_offset_and_length(size: int) -> None:
    with bench() as b, b.attached() as device:
        data = bytes(range(1, size + 1))
        assert b.guest.mmio_write(b.window().address + 64, size, int.from_bytes(data, "little"))
        assert device.writes == [(0, 64, data)]
        assert b.guest.mmio_read(b.window().address + 64, size) == int.from_bytes(data, "little")
        assert b.guest.mmio_read(b.window().address + 4096 * 16, size) == (1 << 8 * size) - 1


async def test_a_machine_has_memory_above_4_gib_registers_and_interrupts() -> None:
    with bench() as b, b.attached() as device:
        async with DoubleMachine(b.guest) as machine:
            assert await machine.slot(INSTANCE) == b.slot
            assert await machine.config_read(b.slot, 0, 4) == 0x105A1AF4
            address = machine.allocate(5000)
            assert address >= HIGH
            machine.ram(address, 5)[:] = b"hello"
            with pytest.raises(ValueError, match="no RAM"):
                machine.ram(3840 * MIB, 1)
            rung: list[int] = []
            message = machine.allocate_msi(lambda: rung.append(threading.get_ident()))
            for at, value in enumerate((message[0], 0, message[1], 0)):
                await machine.mmio_write(b.window(2).address + 4 * at, 4, value)
            await machine.config_write(b.slot, 0x42, 2, 0x8000)
            thread = threading.Thread(target=b.lib.HdvDeliverGuestInterrupt, args=(device.handle, *message))
            thread.start()
            while not rung:
                await machine.config_read(b.slot, 0, 1)
            assert rung == [threading.get_ident()]
            thread.join()
            machine.free(address)
            assert machine.allocated == 0


async def test_a_machine_places_bars_where_the_guest_wants_them() -> None:
    with bench() as b, b.attached() as device:
        async with DoubleMachine(b.guest) as machine:
            window = machine.allocate_bar(4096)
            for register, value in ((0x10, 0xFFFFFFFF), (0x14, 0xFFFFFFFF)):
                await machine.config_write(b.slot, register, 4, value)
            assert await machine.config_read(b.slot, 0x10, 4) == 0xFFFFF004
            assert await machine.config_read(b.slot, 0x14, 4) == 0xFFFFFFFF
            await machine.config_write(b.slot, 0x10, 4, window & 0xFFFFFFFF)
            await machine.config_write(b.slot, 0x14, 4, window >> 32)
            await machine.mmio_write(window, 4, 7)
            assert device.writes == [(0, 0, b"\7\0\0\0")]


def test_reset_forgets_switches_and_reports() -> None:
    double = Double.load()
    with double.fresh(faults=True):
        double.set(slow_ms=1, removal=1)
        double.fail_next("HcsCreateOperation", 0x80004005)
        double.system(VM)
    assert double.get("removal") == 0
    assert double.report() == []
    with pytest.raises(AssertionError, match="no switch nonsense"):
        double.set(nonsense=1)


@pytest.mark.skipif(sys.platform != "linux", reason="built elsewhere")
def test_without_a_compiler_the_error_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    with pytest.raises(BuildError, match="no-such-compiler is not in PATH"):
        build_linux(tmp_path)


@pytest.mark.skipif(shutil.which("x86_64-w64-mingw32-gcc") is None, reason="needs mingw-w64")
def test_the_dlls_of_windows_forward_to_one(tmp_path: Path) -> None:
    built = build_windows(tmp_path)
    assert [path.name for path in built] == ["hdvdouble.dll", "vmdevicehost.dll", "computecore.dll", "vmwpctrl.dll"]
    assert len(exports("vmdevicehost")) == 18
    assert b"hdvdouble.HdvProxyDeviceHost\0" in built[1].read_bytes()
    dump = subprocess.run(
        ["x86_64-w64-mingw32-objdump", "-p", str(built[2])], capture_output=True, text=True, check=True
    ).stdout
    assert dump.count("Forwarder RVA") == len(exports("computecore"))
    assert len(list(tmp_path.iterdir())) == len(built)
