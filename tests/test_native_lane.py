"""A lane in front of a handler in C: what it answers, what it hands on, and that it lets go of everything."""

import asyncio
import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cffi  # type: ignore[import-untyped]  # ships no annotations
import pytest

import hdvkit
from hdvkit import Queue, native
from hdvkit.native import NativeHandler
from hdvkit.testing import kit
from hdvkit.testing.driver import VirtioDriver
from hdvkit.testing.echo import Echo
from hdvkit.testing.guest import Guest

pytestmark = pytest.mark.skipif(
    not native.native().used or not hasattr(os, "eventfd"), reason=f"{native.native().reason}; and lanes need eventfds"
)

SOURCE = """
#include <unistd.h>
#include "handler.h"
/* Echoes what begins with 'c'. What begins with 'w' says that it is here, and waits until it is told to go on. What
 * begins with 'h' does the same once it may, in a helper; with 'b', both do; with 'd', a helper declines after all. */
static int here, gate;
static hdv_outcome answer(void *context, bool patient, const hdv_chain *chain, uint32_t *written) {
    uint8_t bytes[4096], go;
    size_t size = hdv_chain_read(chain, 0, bytes, sizeof bytes);
    uint8_t kind = size ? bytes[0] : 0;
    (void)context;
    bool stops = kind == 'w' || kind == 'b' || (kind == 'h' && patient);
    if (stops && (write(here, bytes, 1) != 1 || read(gate, &go, 1) != 1))
        return HDV_DECLINED;
    if ((kind == 'h' || kind == 'b' || kind == 'd') && !patient)
        return HDV_WAITS;
    if (kind != 'c' && kind != 'w' && kind != 'b' && kind != 'h')
        return HDV_DECLINED;
    *written = (uint32_t)hdv_chain_write(chain, 0, bytes, size);
    return HDV_ANSWERED;
}
static uintptr_t answer_at(void) { return (uintptr_t)answer; }
static void wait_at(int tell, int wait) { here = tell; gate = wait; }
"""
HELPERS, JOBS = 4, 16  # as lane_internal.h has them
KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


@pytest.fixture(scope="module")
def handler(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The handler, compiled."""
    here = Path(native.__file__).parent
    ffi = cffi.FFI()
    ffi.cdef("uintptr_t answer_at(void); void wait_at(int, int);")
    ffi.set_source("_echoing", SOURCE, sources=[str(here / "chain.c")], include_dirs=[str(here)])
    built = ffi.compile(tmpdir=str(tmp_path_factory.mktemp("handler")))
    spec = importlib.util.spec_from_file_location("_echoing", built)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gate(handler: ModuleType) -> Iterator[tuple[int, int]]:
    """Where the handler says that it is here, and where it is told to go on."""
    (here, tell), (wait, go) = os.pipe(), os.pipe()
    handler.lib.wait_at(tell, wait)
    yield here, go
    for descriptor in (here, tell, wait, go):
        os.close(descriptor)


class Echoing(Echo):
    """Echoes in C, and what C declines in Python, and counts that."""

    def __init__(self, handler: ModuleType) -> None:
        self.handler = NativeHandler(handler.lib.answer_at(), 0)
        self.declined: list[bytes] = []

    def native_handler(self) -> NativeHandler:
        """The one in C."""
        return self.handler

    async def serve(self, queue: Queue) -> None:
        """Echo."""
        async for chain in queue:
            with chain:
                self.declined.append(chain.read())
                chain.write(self.declined[-1])


def threads_of_c() -> int:
    """Those that Python knows nothing of."""
    return len([*Path("/proc/self/task").iterdir()]) - threading.active_count()


async def echoed(driver: VirtioDriver, data: bytes, queue: int = 0) -> None:
    async with asyncio.timeout(30):  # so that what hangs has a name
        assert (await driver.queues[queue].submit([data], [len(data)])).data == data


@KINDS
async def test_c_answers_what_it_can_and_python_the_rest(handler: ModuleType, packed: bool) -> None:
    threads = threading.active_count()
    device = Echoing(handler)
    async with hdvkit.open_host("sim", memory_mb=64) as host:
        share = await host.add(device)
        async with Guest.of(host).drive(share, packed=packed) as driver:
            for number in range(100):
                await echoed(driver, b"c%d" % number)
                await echoed(driver, b"python %d" % number, queue=1)
            many = [b"%s%d" % (b"cp"[number % 2 :][:1], number) for number in range(200)]
            await asyncio.gather(*(echoed(driver, data) for data in many))
            first, second = share.stats().queues
            assert (first.chains, second.chains) == (300, 100)
            assert first.taken == first.given == sum(map(len, many)) + sum(len(b"c%d" % n) for n in range(100))
            assert first.interrupts > 0
        assert len(device.declined) == 200
        assert not [data for data in device.declined if data.startswith(b"c")]
        assert share.stats().leases == 0
    assert threading.active_count() == threads


@KINDS
@pytest.mark.parametrize("kind", [b"w", b"h"], ids=["lane", "helper"])
async def test_a_reset_waits_for_what_c_is_doing(
    handler: ModuleType, gate: tuple[int, int], packed: bool, kind: bytes
) -> None:
    here, go = gate
    async with hdvkit.open_host("sim", memory_mb=64) as host:
        share = await host.add(Echoing(handler))
        async with Guest.of(host).drive(share, packed=packed) as driver:
            await echoed(driver, b"c")
            waiting = asyncio.create_task(driver.queues[0].submit([kind], [1]))
            async with asyncio.timeout(30):
                assert await asyncio.to_thread(os.read, here, 1) == kind
            resetting = asyncio.create_task(driver.reset())
            done, _ = await asyncio.wait([resetting], timeout=0.05)
            assert not done, "C still has a chain"
            os.write(go, b"g")
            await resetting
            waiting.cancel()
            await asyncio.wait([waiting])
            assert share.stats().leases == 0
            await driver.probe()
            await driver.start()
            await echoed(driver, b"c again")


@KINDS
async def test_what_waits_holds_up_nothing_else(handler: ModuleType, gate: tuple[int, int], packed: bool) -> None:
    """Four helpers wait, as many again wait for them; what comes behind, and what is too much, goes on."""
    here, go = gate
    threads = threads_of_c()
    device = Echoing(handler)
    async with hdvkit.open_host("sim", memory_mb=64) as host:
        share = await host.add(device)
        async with Guest.of(host).drive(share, packed=packed) as driver:
            waiting = [asyncio.create_task(echoed(driver, b"h%d" % number)) for number in range(JOBS)]
            async with asyncio.timeout(30):
                begun = [await asyncio.to_thread(os.read, here, 1) for _ in range(HELPERS)]
                assert begun == [b"h"] * HELPERS
            await echoed(driver, b"c")  # so those before it were taken
            await echoed(driver, b"c", queue=1)
            assert device.declined == []
            await echoed(driver, b"h too many")
            assert device.declined == [b"h too many"]
            assert not [task for task in waiting if task.done()]
            assert share.stats().queues[0].in_flight == JOBS
            os.write(go, b"g" * JOBS)
            async with asyncio.timeout(30):
                await asyncio.gather(*waiting)
            await echoed(driver, b"d")
            assert device.declined.pop() == b"d", "a helper may decline what it cannot do either"
            assert share.stats().queues[0].chains == JOBS + 3
            assert share.stats().queues[0].in_flight == 0
        assert share.stats().leases == 0
    async with asyncio.timeout(30):
        while threads_of_c() > threads:  # noqa: ASYNC110 - a thread that was joined takes a moment to be gone
            await asyncio.sleep(0.001)


@KINDS
async def test_removal_stops_c_first(handler: ModuleType, packed: bool) -> None:
    async with hdvkit.open_host("sim", memory_mb=64, removable=False) as host:
        device = Echoing(handler)
        share = await host.add(device)
        async with Guest.of(host).drive(share, packed=packed) as driver:
            await echoed(driver, b"c")
            assert await host.remove(share) is hdvkit.Removal.PARKED
            async with asyncio.timeout(30):
                assert (await driver.queues[0].submit([b"c"], [1])).data == b"\xff", "what Echo refuses by"
        assert device.declined == []


async def test_removal_while_c_makes_up_its_mind(handler: ModuleType, gate: tuple[int, int]) -> None:
    """It had taken the request before, so it answers, in a helper."""
    here, go = gate
    async with hdvkit.open_host("sim", memory_mb=64, removable=False) as host:
        device = Echoing(handler)
        share = await host.add(device)
        async with Guest.of(host).drive(share) as driver:
            asked = asyncio.create_task(echoed(driver, b"b"))
            async with asyncio.timeout(30):
                assert await asyncio.to_thread(os.read, here, 1) == b"b"
                removing = asyncio.create_task(host.remove(share))
                done, _ = await asyncio.wait([removing], timeout=0.05)
                assert not done, "C still has a chain"
                os.write(go, b"gg")
                await asked
                assert await removing is hdvkit.Removal.PARKED
        assert device.declined == []


async def test_what_no_helper_has_begun_is_taken_back(handler: ModuleType, gate: tuple[int, int]) -> None:
    """By Python when memory changes, by nobody when the driver resets the device."""
    here, go = gate
    device = Echoing(handler)
    async with hdvkit.open_host("sim", memory_mb=64) as host:
        share = await host.add(device)
        async with Guest.of(host).drive(share) as driver:

            async def fill() -> list[asyncio.Task[None]]:
                asked = [asyncio.create_task(echoed(driver, b"h%d" % number)) for number in range(HELPERS + 3)]
                async with asyncio.timeout(30):
                    for _ in range(HELPERS):
                        await asyncio.to_thread(os.read, here, 1)
                await echoed(driver, b"c")  # so all of them were taken
                return asked

            asked = await fill()
            share.slot.memory.watchers[0]()  # as when a region comes
            async with asyncio.timeout(30):
                await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                while len(device.declined) < 3:  # noqa: ASYNC110 - the lane hands on, the loop answers
                    await asyncio.sleep(0.001)
                os.write(go, b"g" * HELPERS)
                await asyncio.gather(*asked)
            asked = await fill()
            resetting = asyncio.create_task(driver.reset())
            done, _ = await asyncio.wait([resetting], timeout=0.05)
            assert not done, "helpers still have chains"
            os.write(go, b"g" * HELPERS)  # and no more
            async with asyncio.timeout(30):
                await resetting
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        assert len(device.declined) == 3
        assert share.stats().leases == 0


async def test_what_is_replaced_is_let_go_of_under_load(handler: ModuleType) -> None:
    async with hdvkit.open_host("sim", memory_mb=64) as host:
        share = await host.add(Echoing(handler))
        async with Guest.of(host).drive(share) as driver:

            async def flood() -> None:
                while True:
                    await driver.queues[0].submit([b"c" * 2000], [2000])

            floods = [asyncio.create_task(flood()) for _ in range(60)]
            memory = share.slot.memory
            for _ in range(20):
                await echoed(driver, b"c")
                before = memory.leases
                memory.watchers[0]()  # as when a region comes
                async with asyncio.timeout(30):
                    while memory.leases > before + 400:  # noqa: ASYNC110 - C lets go on its own thread
                        await asyncio.sleep(0.001)
            for task in floods:
                task.cancel()
            await asyncio.gather(*floods, return_exceptions=True)
        assert share.stats().leases == 0


async def exchange_c(driver: VirtioDriver) -> None:
    await echoed(driver, b"c")


async def test_a_lane_outlives_hostile_guests(handler: ModuleType) -> None:
    report = await kit.check_device(lambda: Echoing(handler), exchange=exchange_c)
    report.raise_for_failures()
    assert len(report.results) > 200
