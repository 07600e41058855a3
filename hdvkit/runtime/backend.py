"""The platform seam: what a host kind must offer so that devices run on it.

Two classes. A :class:`Backend` is the connection to one virtual machine (or to whatever runs it); a :class:`Slot`
is the place of one function in it. The simulated host is one implementation among others.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Protocol

import attrs

from hdvkit.memory import Memory
from hdvkit.native import NativeListener
from hdvkit.pci.msix import Message

if TYPE_CHECKING:
    from hdvkit.runtime.doorbell import Doorbell
    from hdvkit.runtime.function import Function


class Removal(StrEnum):
    """What became of a device that was to be removed. Either way it can reach nothing of the host any more."""

    REMOVED = "removed"
    """The guest has lost it."""
    PARKED = "parked"
    """The platform cannot take it from a running guest: it stays visible and answers with errors."""


@attrs.frozen
class Finding:
    """One thing that was looked at to see whether this machine can do what a host kind needs."""

    what: str
    found: str
    good: bool
    advice: str = ""
    """What to do when it is not good."""


class KickReader(Protocol):
    """A thread that serves queues, as a platform sees it whose kicks come on a socket."""

    def listen(self, socket: int, listener: NativeListener, unheard: Callable[[], None]) -> None:
        """Read kicks from a socket, which is at the beginning of a message.

        At the first message that is no kick ``unheard`` is called, and the socket is the caller's again.
        """
        ...

    def leave(self) -> None:
        """Leave the socket alone from now on; ``unheard`` is not called any more."""
        ...


class Slot(ABC):
    """The place of one function in the machine."""

    memory: Memory
    """The guest's RAM as this function may reach it."""

    @property
    def place(self) -> Mapping[str, str]:
        """Where the guest's side finds the function, for events: ``socket``, ``instance_id``, ``slot``."""
        return {}

    @property
    def hint(self) -> str:
        """What a person can paste on the other side to reach the function; shown by ``hdvkit run``."""
        return ""

    @abstractmethod
    async def attach(self) -> None:
        """Make the function visible. Accesses may arrive before this returns.

        Raises:
            HostError: The platform refused; the slot is unusable.
        """

    @abstractmethod
    async def detach(self) -> Removal:
        """Take the function from the guest, or say that the platform cannot. Does not raise for a dead machine."""

    @abstractmethod
    def interrupt(self, message: Message) -> None:
        """Send an interrupt; called from any thread, must not block or raise. INTX stands for the pin."""

    def doorbell(self, doorbell: "Doorbell") -> bool:
        """Arrange that writes of this kick ring the doorbell without a trip through ``Function.write``.

        False when the platform refuses: the writes then arrive trapped and end in the same event.
        """
        return False

    def dismiss(self, doorbell: "Doorbell") -> None:
        """Undo ``doorbell``; also called for one that was refused."""
        return

    def kick_descriptor(self, doorbell: "Doorbell") -> int:
        """An eventfd, not blocking, that kicks of a doorbell in use are written to, for whoever waits without Python.

        Until ``dismiss`` nobody else reads it. -1 where there is none: then the doorbell rings.
        """
        return -1

    def call_descriptor(self, vector: int) -> int:
        """An eventfd that sends the interrupt of a vector when it is written to; -1 where ``interrupt`` has to.

        The platform tells of another one by ``Function.interrupts_moved``, before it closes this one.
        """
        return -1

    def served_by(self, lane: KickReader | None, doorbells: "Sequence[Doorbell]") -> None:
        """A thread serves the queues of these doorbells now, or none any more. It can read kicks from a socket."""
        return


class Backend(ABC):
    """The connection to one machine. Its constructor's arguments are the options of the host kind."""

    remapped: ClassVar[bool] = False
    """The platform owns the MSI-X table: it is told vector numbers, and masks are its business."""
    interrupt_pin: int = 0
    """1 when the platform can deliver INTx."""
    msix: bool = True
    """Whether to offer MSI-X; without it there must be a pin."""
    packed: bool = True
    """Whether to offer packed rings; drivers that can take them do."""

    @classmethod
    def check(cls) -> Sequence[Finding]:
        """Look at what the platform needs of this machine: rights, services, packages. For ``hdvkit check``."""
        return ()

    @abstractmethod
    async def open(self) -> None:
        """Connect.

        Raises:
            HostError: The platform refused; ``aclose`` need not be called.
        """

    @abstractmethod
    def slot(self, function: "Function") -> Slot:
        """A place for one more function; nothing is visible before ``Slot.attach``."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of the machine; every slot has been detached or is dead with it. Does not raise."""
