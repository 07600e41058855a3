"""What a hostile guest is, and what it holds: a driver that is up, its machine, raw registers and RAM.

The guest's side only: it knows the device through :class:`Machine` and the driver, like any program in a guest.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import chain, count, repeat

import attrs

from hdvkit.testing.driver import DriverQueue, Status, VirtioDriver
from hdvkit.testing.machine import Machine

SPLIT = ("split",)
PACKED = ("packed",)
BOTH = SPLIT + PACKED
REGISTERS: tuple[str, ...] = ()
"""For an attack that has nothing to do with how rings are laid out."""

CAPABILITIES = 0x34
VENDOR_CAPABILITY = 0x09
MSIX_CAPABILITY = 0x11
COMMON, NOTIFY, ISR, DEVICE, PCI_ACCESS = range(1, 6)
AREAS = ("queue_desc", "queue_driver", "queue_device")
MSI_WINDOW = 0xFEE00000
ABOVE_RAM = 1 << 52
ADDRESS_SPACE = 1 << 64
PAGE = 4096

EAGER_LOOKS = 1000
PAUSE = 0.001
AT_ONCE = 4
SETTLE = 30
"""Turns of the event loop that are enough for a device to stumble."""


class Answer(StrEnum):
    """What a sound device does about a hostile guest."""

    IGNORED = "ignored"
    """Nothing changes; the accesses are counted as dropped."""
    SERVED = "served"
    """Odd, but legal or harmless: the device goes on serving."""
    NEEDS_RESET = "needs-reset"
    """The device sets DEVICE_NEEDS_RESET, and an event says why."""
    REFUSED = "refused"
    """The value is not taken: FEATURES_OK stays clear, or the register keeps what it had."""


class Surprise(Exception):
    """An attack saw what no sound device shows. The message says what."""


Exchange = Callable[[VirtioDriver], Awaitable[None]]
"""Does one good request, and raises when the answer is wrong."""

Attack = Callable[["Intruder"], Awaitable[None]]
"""Ends when the device has answered: it returned what it was given, ignored it, or needs a reset.

It raises :class:`Surprise` for an answer that only the attack can see. A device that was not broken by it must be
left with the driver up and nothing in flight, unless the answer is REFUSED.
"""


@attrs.frozen
class Hostile:
    """One broken guest by name."""

    name: str
    """Its line in the threat model, then what it does: ``R1-next-outside-table``."""
    summary: str
    """One sentence."""
    answer: Answer
    attack: Attack = attrs.field(repr=False)
    rings: tuple[str, ...] = BOTH
    """The ring kinds it applies to; none when it only works on registers."""
    or_else: Answer | None = None
    """Another answer that is as good, where it depends on how the device goes about its chains."""
    reason: str = ""
    """A regular expression found in the reason of the needs-reset event: it was this rule, and not the next."""
    event_idx: bool = True
    indirect: bool = True
    """Features that the driver accepts."""

    @property
    def line(self) -> str:
        """The line of the threat model: ``R1``."""
        return self.name.partition("-")[0]


class Gallery:
    """The hostile guests of one file, in the order of their definition."""

    def __init__(self) -> None:
        self.guests: list[Hostile] = []

    def hang(self, *guests: Hostile) -> None:
        """Add finished ones."""
        self.guests += guests

    def add(
        self,
        name: str,
        answer: Answer,
        *,
        rings: tuple[str, ...] = BOTH,
        or_else: Answer | None = None,
        reason: str = "",
        event_idx: bool = True,
    ) -> Callable[[Attack], Attack]:
        """Decorate an attack; its docstring is the summary."""

        def take(attack: Attack) -> Attack:
            summary = attack.__doc__ or ""
            self.guests.append(Hostile(name, summary, answer, attack, rings, or_else, reason, event_idx))
            return attack

        return take


@attrs.define(eq=False)
class Intruder:
    """The guest that attacks. Its driver is up, and has used no queue yet."""

    driver: VirtioDriver
    machine: Machine
    slot: int
    packed: bool
    exchange: Exchange
    """Does one good request."""
    target: int = 0
    """Index of the queue to attack."""
    _buffers: list[int] = attrs.field(factory=list)

    @property
    def queue(self) -> DriverQueue:
        """The queue to attack."""
        return self.driver.queues[self.target]

    async def restart(self, queues: Iterable[int] | None = None) -> None:
        """Reset the device and bring the driver up again, with those queues only if told."""
        await self.driver.probe()
        await self.driver.start(queues)

    def buffer(self, size: int = PAGE, align: int = PAGE) -> int:
        """Take zeroed RAM until ``free``."""
        address = self.machine.allocate(size, align)
        self._buffers.append(address)
        return address

    def free(self) -> None:
        """Give all RAM back; the device must have let go of it."""
        while self._buffers:
            self.machine.free(self._buffers.pop())

    def end_of_ram(self) -> int:
        """An address at which RAM ends, found by looking."""
        start = self.buffer()
        size = next(size for size in (1 << bit for bit in range(4, 64)) if not self._is_ram(start, size))
        step = size // 2
        size = step
        while step:
            if self._is_ram(start, size + step):
                size += step
            step //= 2
        return start + size

    def _is_ram(self, address: int, size: int) -> bool:
        try:
            self.machine.ram(address, size)
        except ValueError:
            return False
        return True

    # Registers

    async def read(self, offset: int, size: int) -> int:
        """Read configuration space."""
        return await self.machine.config_read(self.slot, offset, size)

    async def write(self, offset: int, size: int, value: int) -> None:
        """Write configuration space."""
        await self.machine.config_write(self.slot, offset, size, value)

    async def capability(self, identity: int, kind: int | None = None) -> int | None:
        """Where a capability lies in configuration space, of a virtio structure kind if told; None without one."""
        at = await self.read(CAPABILITIES, 1)
        for _ in range(48):
            if not at:
                break
            if await self.read(at, 1) == identity and (kind is None or await self.read(at + 3, 1) == kind):
                return at
            at = await self.read(at + 1, 1)
        return None

    async def structure(self, kind: int) -> tuple[int, int] | None:
        """Guest-physical address and length of a virtio structure; None when the device has none."""
        at = await self.capability(VENDOR_CAPABILITY, kind)
        if at is None:
            return None
        bar, offset, length = await self.read(at + 4, 1), await self.read(at + 8, 4), await self.read(at + 12, 4)
        return self.driver.bars[bar][0] + offset, length

    async def common(self) -> int:
        """Guest-physical address of the common configuration."""
        found = await self.structure(COMMON)
        if found is None:
            raise Surprise("the device has no common configuration")
        return found[0]

    async def msix(self) -> tuple[int, int]:
        """Where the MSI-X capability lies in configuration space, and its table in guest-physical memory."""
        at = await self.capability(MSIX_CAPABILITY)
        if at is None:
            raise Surprise("the device has no MSI-X capability")
        where = await self.read(at + 4, 4)
        return at, self.driver.bars[where & 7][0] + (where & ~7)

    async def keeps(self, name: str, value: int, expected: int) -> None:
        """Write a common register and see that it has, or keeps, the value expected."""
        await self.driver.common_write(name, value)
        found = await self.driver.common_read(name)
        if found != expected:
            raise Surprise(f"{name} reads {found:#x} after a write of {value:#x}, expected {expected:#x}")

    async def enable(self, areas: Sequence[int]) -> None:
        """Enable the queue to attack, its three areas at these addresses."""
        await self.driver.common_write("queue_select", self.target)
        for name, address in zip(AREAS, areas, strict=True):
            await self.driver.common_write(name, address)
        await self.driver.common_write("queue_enable", 1)

    # Waiting

    async def until_zero(self, name: str) -> None:
        """Wait until a common register reads 0."""
        for pause in _pauses():
            if not await self.driver.common_read(name):
                return
            await asyncio.sleep(pause)

    async def broken(self) -> bool:
        """Whether the device needs a reset."""
        return bool(await self.driver.status() & Status.NEEDS_RESET)

    async def until(self, done: Callable[[], bool]) -> bool:
        """Wait until ``done``, or until the device needs a reset; gives whether it is done."""
        for pause in _pauses():
            if done():
                return True
            if await self.broken():
                return False
            await asyncio.sleep(pause)
        raise AssertionError  # the pauses never end

    async def until_broken(self) -> None:
        """Wait until the device needs a reset."""
        await self.until(lambda: False)

    async def settle(self) -> None:
        """Give the device some turns to do what it must not do, and start anew unless it is broken."""
        for _ in range(SETTLE):
            if await self.broken():
                return
            await asyncio.sleep(0)
        await self.restart()

    async def requests_behind_which(self, attack: Callable[[], Awaitable[None]]) -> None:
        """Good requests and the attack reach the device together, and it breaks; none of them may be lost."""

        async def request() -> None:
            await self.exchange(self.driver)

        requests = [asyncio.create_task(request()) for _ in range(AT_ONCE)]
        await asyncio.sleep(0)  # they are posted, and the device has not had its turn
        await attack()
        await self.until_broken()
        await asyncio.gather(*requests, return_exceptions=True)

    async def polled_request(self) -> None:
        """One request of 16 bytes with room for 64 that needs no interrupt, only the ring."""
        queue = self.queue
        token = queue.post([bytes(16)], [64])
        await queue.kick(force=True)

        def returned() -> bool:
            queue.collect()
            return token.reply is not None or bool(token.failure)

        await self.until(returned)
        if token.reply is None:
            raise Surprise(f"a good request was not returned: {token.failure or 'the device needs a reset'}")


def _pauses() -> Iterator[float]:
    """Without end: whoever runs an attack has the clock."""
    return chain(repeat(0.0, EAGER_LOOKS), (PAUSE for _ in count()))
