"""One device's place: a socket that is listened on, and the one client that may be connected to it."""

import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hdvkit.memory import RegionMemory
from hdvkit.pci import Message
from hdvkit.runtime import INTX, Doorbell, Function, KickReader, Removal, Slot
from hdvkit_vfio_user import qemu
from hdvkit_vfio_user.listener import Listener
from hdvkit_vfio_user.refusals import Refusals
from hdvkit_vfio_user.session import Session

log = logging.getLogger("hdvkit_vfio_user")


class VfioUserSlot(Slot):
    """Waits for a machine, serves it until it goes, and waits for the next."""

    def __init__(self, function: Function, path: Path, over: "Callable[[VfioUserSlot], None]") -> None:
        self.function = function
        self.path = path
        self.memory = RegionMemory()  # nothing, before the first client
        self._listener: Listener | None = None
        self._session: Session | None = None
        self._over = over
        self._served: set[Doorbell] = set()
        self._refusals = Refusals()

    @property
    def place(self) -> Mapping[str, str]:
        """Where a machine connects."""
        return {"socket": str(self.path)}

    @property
    def hint(self) -> str:
        """How to start QEMU with the device."""
        return qemu.command_line(self.path)

    async def attach(self) -> None:
        """Listen."""
        try:
            self._listener = Listener(self.path, self._accepted)
        except BaseException:
            self._over(self)
            raise

    async def detach(self) -> Removal:
        """Listen no more. A machine that is connected keeps a device that refuses everything, until it lets go."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._refusals.close()
        if self._session is not None:
            return Removal.PARKED
        self._over(self)
        return Removal.REMOVED

    def release(self) -> None:
        """Cut off the machine that is connected."""
        if self._session is not None:
            self._session.close("the host is closed")

    def interrupt(self, message: Message) -> None:
        """Signal an eventfd of the client, or remember that it is to be signalled."""
        session = self._session
        if session is None:
            return
        if message == INTX:
            session.irqs.pin.signal()
        else:
            session.irqs.vectors.signal(message.vector)

    def doorbell(self, doorbell: Doorbell) -> bool:
        """Kicks by eventfd ring it, if the client asked for eventfds; all others arrive as writes."""
        self._served.add(doorbell)
        return self._session is not None and self._session.kicks.told

    def dismiss(self, doorbell: Doorbell) -> None:
        """Its eventfd means nothing from now on."""
        self._served.discard(doorbell)
        if self._session is not None:
            self._session.kicks.take_back(doorbell)

    def kick_descriptor(self, doorbell: Doorbell) -> int:
        """The eventfd that the client was given for it."""
        return -1 if self._session is None else self._session.kicks.lend(doorbell)

    def call_descriptor(self, vector: int) -> int:
        """The eventfd that the client gave for a vector."""
        return -1 if self._session is None else self._session.irqs.vectors.descriptor(vector)

    def served_by(self, lane: KickReader | None, doorbells: Sequence[Doorbell]) -> None:
        """Kicks that the client posts are read by the lane."""
        if self._session is not None:
            self._session.served_by(lane, doorbells)

    def _accepted(self, connection: socket.socket) -> None:
        if self._session is not None:
            log.warning("%s: a second client is turned away, one is connected", self.path)
            self._refusals.add(connection)
            return
        self._session = Session(connection, self.function, self._served, self._ended)
        self.memory = self._session.memory

    def _ended(self, reason: str) -> None:
        log.info("%s: %s", self.path, reason)
        self._session = None
        if self._listener is None:
            self._over(self)
            self.function.gone()
