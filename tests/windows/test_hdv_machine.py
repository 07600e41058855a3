"""Opening a machine, sharing it, and the end: what Windows is asked, in which order, and what it refuses."""

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from double_control import Double
from hdv_on_double import machine, opened, plug, plugins, started, until

import hdvkit
from hdvkit import HostError, UsageError
from hdvkit.hosts.hdv import owner
from hdvkit.hosts.hdv.abi import proxy
from hdvkit.hosts.hdv.abi.hresult import HdvError
from hdvkit.testing.echo import Echo


def open_host(name: str, **options: Any) -> Any:
    return hdvkit.open_host("double", plugins=plugins(), system=name, memory_mb=4096, **options)


async def test_everything_is_asked_in_the_order_that_windows_wants(double: Double) -> None:
    async with opened(double) as host:
        await started(host, Echo())
    calls = [line for line in double.log() if not line.startswith(("GetDetails", "IVm", "Co", "GetVm", "HdvRegister"))]
    assert calls == [
        "system started",
        "HcsOpenComputeSystem",
        "HcsGetComputeSystemProperties",
        "HcsGetComputeSystemProperties",
        "HdvInitializeDeviceHostForProxy",
        "HdvProxyDeviceHost",
        "HdvCreateDeviceInstance",
        "HcsModifyComputeSystem",
        "Initialize of device 0",
        "SetConfiguration of device 0",
        "Start of device 0",
        "HcsModifyComputeSystem",
        "HdvTeardownDeviceHost",
        "Teardown of device 0",
        "HcsCloseComputeSystem",
        "system GracefulExit",
    ]


async def test_nothing_is_left(double: Double) -> None:
    for _ in range(5):
        async with opened(double) as host:
            for number in range(3):
                await started(host, Echo(), name=f"echo {number}")
    for counter in ("operations", "strings", "com", "systems", "hosts", "events", "waits", "apertures", "doorbells"):
        assert double.count(f"{counter}_live") == 0, counter
    assert proxy._referenced == set()


async def test_two_hosts_for_one_machine_share_its_device_host(double: Double) -> None:
    name, _ = machine(double)
    async with open_host(name) as one, open_host(name) as other:
        first, second = await one.add(Echo()), await other.add(Echo())
        assert double.log().count("HdvInitializeDeviceHostForProxy") == 1
        await one.aclose()
        assert "HdvTeardownDeviceHost" not in double.log()
        assert (str(first.state), str(second.state)) == ("closed", "attached")
    assert double.log().count("HdvTeardownDeviceHost") == 1


async def test_a_second_machine_is_refused_unless_it_is_asked_for(double: Double) -> None:
    (one, _), (other, _) = machine(double), machine(double)
    async with open_host(one):
        with pytest.raises(UsageError, match=r"this process serves another machine already.*several_machines=true"):
            await open_host(other)
        async with open_host(other, several_machines=True) as host:
            await host.add(Echo())
    assert double.count("systems_live") == 0


async def test_the_same_machine_in_another_way_is_refused(double: Double) -> None:
    name, _ = machine(double)
    async with open_host(name):
        with pytest.raises(UsageError, match="apertures=448 already: say the same here"):
            await open_host(name, apertures=100)
    assert double.count("systems_live") == 0


REFUSALS = {
    "no rights": ("HcsOpenComputeSystem", 0x80070005, "Administrators or Hyper-V Administrators"),
    "no service": ("HcsOpenComputeSystem", 0x80370114, "start the service vmcompute"),
    "properties": ("HcsGetComputeSystemProperties", 0x8037011E, "open the host again"),
    "properties fail": ("HcsGetComputeSystemProperties.result", 0x80370106, "the machine has stopped"),
    "no proxy": ("HdvInitializeDeviceHostForProxy", 0x80070005, "have one device host in a process"),
    "not registered": ("HdvProxyDeviceHost", 0xC0370030, "has a device host for the machine already"),
    "an unknown code": ("HdvProxyDeviceHost", 0x8BADF00D, "0x8badf00d"),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_what_windows_refuses_is_said_with_what_to_do(double: Double, case: str) -> None:
    export, code, sentence = REFUSALS[case]
    name, _ = machine(double)
    double.fail_next(export, code)
    with pytest.raises(HdvError, match=sentence) as caught:
        await open_host(name)
    assert caught.value.hresult == code
    assert f"{code:#010x}" in str(caught.value)
    async with open_host(name):
        pass
    assert proxy._referenced == set()


async def test_a_machine_that_is_not_there_is_named(double: Double) -> None:
    with pytest.raises(HdvError, match="opening compute system 'nobody' failed with HCS_E_SYSTEM_NOT_FOUND"):
        await open_host("nobody")


@pytest.mark.parametrize(
    ("properties", "sentence"),
    [
        ({"SystemType": "Container", "RuntimeId": "5a3e2f1d-8c47-4b9a-9e21-0f6d7c8b9a10"}, "is a Container"),
        ({"SystemType": "VirtualMachine", "State": "Created"}, "has no RuntimeId; its state is Created"),
        ({"SystemType": "VirtualMachine", "RuntimeId": "not a guid"}, "cannot be read"),
        ([], "cannot be read"),
        ("", "cannot be read"),
    ],
)
async def test_a_system_that_is_no_running_machine_is_refused(double: Double, properties: Any, sentence: str) -> None:
    name, system = machine(double)
    system.properties(json.dumps(properties) if properties != "" else "no json")
    with pytest.raises(HostError, match=sentence):
        await open_host(name)
    assert double.count("systems_live") == 0


async def test_a_device_that_is_refused_says_what_the_service_said_and_others_go_on(double: Double) -> None:
    async with opened(double) as host:
        driver = await started(host, Echo(), name="first")
        double.fail_next("HcsModifyComputeSystem.result", 0x80370105, document='{"Error": "not now"}')
        with pytest.raises(
            HdvError, match=r"HCS_E_INVALID_STATE.*the service says: .*not now.*must be running"
        ) as caught:
            await host.add(Echo(), name="second")
        assert json.loads(caught.value.document) == {"Error": "not now"}
        assert [function.name for function in host.devices] == ["first"]
        await started(host, Echo(), name="second")
        assert (await driver.queues[0].submit([b"on"], [2])).data == b"on"


async def test_a_device_that_cannot_be_made_is_never_torn_down(double: Double) -> None:
    async with opened(double) as host:
        double.fail_next("HdvCreateDeviceInstance", 0x80070057)
        with pytest.raises(HdvError, match="E_INVALIDARG"):
            await host.add(Echo())
    assert not [line for line in double.log() if line.startswith("Teardown")]


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_machine_that_ends_takes_its_devices_along_and_the_host_closes(
    double: Double, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    name, system = machine(double)
    async with open_host(name) as host:
        function = await host.add(Echo())
        getattr(system, end)()
        assert await host.remove(function) is hdvkit.Removal.PARKED
        with pytest.raises(HostError):
            await host.add(Echo())
    assert double.count("systems_live") == 0
    assert caplog.records == []


async def test_the_loop_never_waits_for_windows(double: Double) -> None:
    double.loop_thread()
    for export in ("HcsOpenComputeSystem", "HcsModifyComputeSystem.result", "HdvTeardownDeviceHost"):
        double.delay(export, 100)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    counting = asyncio.create_task(count())
    async with opened(double) as host:
        await host.add(Echo())
    counting.cancel()
    assert turns > 100


async def test_an_opening_that_is_cancelled_leaves_nothing(double: Double) -> None:
    name, _ = machine(double)
    double.delay("HdvProxyDeviceHost", 50)
    opening = asyncio.ensure_future(open_host(name))
    await until(lambda: "HdvProxyDeviceHost" in double.log())
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert double.count("hosts_live") == double.count("systems_live") == 0


async def test_the_guest_finds_devices_by_what_the_event_says(double: Double) -> None:
    async with opened(double) as host:
        listening = asyncio.create_task(anext(host.events()))
        await asyncio.sleep(0)
        function = await host.add(Echo())
        event = await listening
        assert event.place == {"instance_id": function.place["instance_id"]}
        domain = function.place["instance_id"].split("-")[1]
        assert f"/sys/bus/pci/devices/{domain}:00:00.0" in event.hint
        assert domain != "0000"
        await plug(host, function)


async def test_each_device_has_a_pci_domain_of_its_own(double: Double) -> None:
    async with opened(double) as host:
        functions = [await host.add(Echo(), name=str(number)) for number in range(10)]
        assert len({function.place["instance_id"].split("-")[1] for function in functions}) == 10


async def test_a_process_that_forgets_to_close_tears_its_device_host_down(double: Double) -> None:
    """Windows calls back on threads of its own, which must not happen while the interpreter goes."""
    script = """
import asyncio, atexit
from double_control import Double
from hdv_on_double import machine, plugins
import hdvkit
from hdvkit.testing.echo import Echo
double = Double.load()
double.reset()
atexit.register(lambda: print(double.log()))  # runs after what is registered later
async def forget():
    global host
    host = await hdvkit.open_host("double", plugins=plugins(), system=machine(double)[0], memory_mb=4096)
    await host.add(Echo())
import warnings
warnings.simplefilter("ignore")
asyncio.new_event_loop().run_until_complete(forget())  # asyncio.run would close
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    assert "HdvTeardownDeviceHost" in done.stdout, done.stderr


async def test_a_call_that_fails_does_not_take_the_thread_along(caplog: pytest.LogCaptureFixture) -> None:
    owner.submit(lambda: [][0])
    async with asyncio.timeout(30):
        assert await owner.call(lambda: "still there") == "still there"
    assert "IndexError" in caplog.text
