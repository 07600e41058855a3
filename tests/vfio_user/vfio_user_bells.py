"""What the tests of a vfio-user server's interrupts share: eventfds of the client, and requests to use them."""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence

import pytest
from hdvkit_vfio_user.irqs import Irqs
from hdvkit_vfio_user.protocol import Refused, SetIrqsRequest
from hdvkit_vfio_user.protocol.spec import SetIrqs

VECTORS = 3
INTX, MSI, MSIX, ERR, REQ = range(5)
NONE, BOOL, EVENTFD = SetIrqs.DATA_NONE, SetIrqs.DATA_BOOL, SetIrqs.DATA_EVENTFD
MASK, UNMASK, TRIGGER = SetIrqs.MASK, SetIrqs.UNMASK, SetIrqs.TRIGGER


class Bells:
    """The client's eventfds. What is handed out is a copy that the server owns; we keep looking at our own."""

    def __init__(self) -> None:
        self._ours: list[int] = []

    def new(self) -> int:
        """Number of a bell; ``give`` it away as often as you like."""
        self._ours.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        return len(self._ours) - 1

    def give(self, bell: int | None = None) -> int:
        """A descriptor for the server."""
        return os.dup(self._ours[self.new() if bell is None else bell])

    def ring(self, bell: int, times: int = 1) -> None:
        """Ring it ourselves."""
        os.eventfd_write(self._ours[bell], times)

    def heard(self, bell: int = -1) -> int:
        """How often it was rung since we last looked."""
        try:
            return os.eventfd_read(self._ours[bell])
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close ours; begin again with bell 0."""
        for fd in self._ours:
            os.close(fd)
        self._ours.clear()


class Line:
    """What a device wants of its interrupt pin."""

    def __init__(self) -> None:
        self.wanted = False

    def __call__(self) -> bool:
        """What the server asks."""
        return self.wanted


def do(
    irqs: Irqs,
    irq: int,
    action: SetIrqs,
    data: SetIrqs,
    start: int = 0,
    number: int = 1,
    fds: Sequence[int] = (),
    bools: bytes = b"",
) -> None:
    irqs.set(SetIrqsRequest(irq, action, data, start, number, bools), fds)


def refused(irqs: Irqs, request: SetIrqsRequest, fds: Sequence[int] = ()) -> int:
    """The errno of a request that must be refused and leave its descriptors to us, who close them."""
    with pytest.raises(Refused) as raised:
        irqs.set(request, fds)
    for fd in fds:
        os.close(fd)
    return raised.value.errno


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Interrupt a system call that waits."""

    def late(*_: object) -> None:
        raise TimeoutError("a signal waited for its eventfd")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
