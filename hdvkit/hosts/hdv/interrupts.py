"""Message interrupts into the guest, and on request their repetition."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from hdvkit.hosts.hdv.abi.hresult import HdvError
from hdvkit.hosts.hdv.abi.vmdevicehost import HdvDevice
from hdvkit.hosts.hdv.machine import Machine
from hdvkit.pci.msix import Message

log = logging.getLogger("hdvkit.hdv")

ACTIVE_TICK = 0.005
IDLE_TICK = 0.05
ACTIVE_FOR = 0.1
"""Seconds after an interrupt in which it is repeated at the quick pace."""
MOST_MESSAGES = 2048
"""Messages that are remembered to be repeated: as many as an MSI-X table has entries."""


class Interrupts:
    """The interrupts of one device.

    A virtio device loses none, so none has to be repeated. Repeating is for machines where one is suspected of
    getting lost all the same: a driver that is told twice looks, and finds nothing new.
    """

    def __init__(self, machine: Machine, clock: Callable[[], float] = time.monotonic) -> None:
        self.device: HdvDevice | None = None
        self.sent = 0
        self.refused = 0
        """Windows did not take them."""
        self.repeated = 0
        self.rounds = 0
        """Times that there was a look at what to repeat."""
        self._machine = machine
        self._clock = clock
        self._last = 0.0
        self._messages: dict[Message, None] = {}
        self._repeating: asyncio.Task[None] | None = None

    def send(self, message: Message) -> None:
        """Send one; called from any thread, never raises. An entry that the guest never filled in is not sent."""
        if message.address:
            self._last = self._clock()
            self.sent += 1
            self._deliver(message)
            if self._repeating is not None and len(self._messages) < MOST_MESSAGES:
                self._messages[message] = None

    def repeat(self) -> None:
        """From now on repeat every message that was ever sent: quickly while some are sent, else slowly."""
        self._repeating = asyncio.create_task(self._repeat(), name="repeat interrupts")

    def forget(self) -> None:
        """The guest's driver went away: what it programmed may mean something else to the next."""
        self._messages.clear()

    async def aclose(self) -> None:
        """Stop repeating."""
        if self._repeating is not None:
            self._repeating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._repeating

    async def _repeat(self) -> None:
        while True:
            active = self._clock() - self._last <= ACTIVE_FOR
            await asyncio.sleep(ACTIVE_TICK if active else IDLE_TICK)
            self.rounds += 1
            for message in tuple(self._messages):
                self.repeated += 1
                self._deliver(message)

    def _deliver(self, message: Message) -> None:
        if self.device is None or not self._machine.alive:
            return
        try:
            self.device.deliver_interrupt(message.address, message.data)
        except HdvError as error:
            self.refused += 1
            if self.refused == 1:  # the guest chooses what is sent, so the log hears of it once
                log.warning("%s", error)
