"""Interrupts of one client: eventfds it gave, told from any thread, and remembered while there is none."""

import asyncio
import contextlib
import errno
import os
import select
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

from hdvkit_vfio_user.protocol import Refused, SetIrqsRequest
from hdvkit_vfio_user.protocol.spec import Irq, IrqFlag, SetIrqs


class Vectors:
    """The MSI-X vectors. The client owns table and masks, so a vector without an eventfd is one between two owners."""

    flags = IrqFlag.EVENTFD
    """No NORESIZE: with it QEMU takes all vectors back for each one it adds."""

    def __init__(self, count: int, moved: Callable[[], None]) -> None:
        self.count = count
        self._moved = moved
        self._lock = Lock()
        self._fds: dict[int, int] = {}
        self._latched: set[int] = set()

    def signal(self, vector: int) -> None:
        """Signal a vector, now or as soon as it has an eventfd."""
        with self._lock:
            fd = self._fds.get(vector)
            if fd is None:
                self._latched.add(vector)
            else:
                _write(fd)

    def descriptor(self, vector: int) -> int:
        """The eventfd of a vector, for whoever signals it without asking; -1 when it has none. On the loop's thread."""
        return self._fds.get(vector, -1)

    def connect(self, start: int, fds: Sequence[int]) -> None:
        """These vectors have these eventfds now, ours to close."""
        with self._lock:
            old = [self._fds.pop(vector, None) for vector in range(start, start + len(fds))]
            for vector, fd in enumerate(fds, start):
                self._fds[vector] = fd
                if vector in self._latched:
                    self._latched.discard(vector)
                    _write(fd)
        self._close(old)

    def disconnect(self, start: int, count: int) -> None:
        """These vectors have no eventfds any more."""
        with self._lock:
            old = [self._fds.pop(vector, None) for vector in range(start, start + count)]
        self._close(old)

    def off(self) -> None:
        """MSI-X is off: nothing is left, not even what was remembered."""
        self.disconnect(0, self.count)
        self.forget()

    def forget(self) -> None:
        """The device was reset: what was to be signalled is not any more."""
        with self._lock:
            self._latched.clear()

    def _close(self, fds: Sequence[int | None]) -> None:
        self._moved()  # before their numbers can be anybody's
        for fd in fds:
            if fd is not None:
                os.close(fd)


class Pin:
    """INTx: once signalled it is masked until the client unmasks it, and signals again if the device still wants."""

    flags = IrqFlag.EVENTFD | IrqFlag.MASKABLE | IrqFlag.AUTOMASKED
    count = 1

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self._wanted = wanted
        self._lock = Lock()
        self._fd: int | None = None
        self._masked = False
        self._resample: int | None = None

    def signal(self) -> None:
        """The device wants the pin. Masked or not connected, ``unmask`` or ``connect`` looks again."""
        with self._lock:
            if self._fd is not None and not self._masked:
                self._masked = True
                _write(self._fd)

    def connect(self, fd: int) -> None:
        """The pin has this eventfd now, ours to close."""
        with self._lock:
            self._drop()
            self._fd = fd
        self.unmask()

    def off(self) -> None:
        """The pin leads nowhere."""
        with self._lock:
            self._drop()
        self.resample_by(None)

    def mask(self) -> None:
        """Nothing is signalled until ``unmask``."""
        with self._lock:
            self._masked = True

    def unmask(self) -> None:
        """The guest has looked: signal again if the device still wants something."""
        with self._lock:
            self._masked = False
        if self._wanted():
            self.signal()

    def resample_by(self, fd: int | None) -> None:
        """From now on this eventfd unmasks too, as KVM tells the end of an interrupt. Ours to close. Loop thread."""
        loop = asyncio.get_running_loop()
        if self._resample is not None:
            loop.remove_reader(self._resample)
            os.close(self._resample)
        self._resample = fd
        if fd is not None:
            loop.add_reader(fd, self._resampled, fd)

    def _resampled(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(fd)
        self.unmask()

    def _drop(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Irqs:
    """All interrupts of one client, and what SET_IRQS does to them."""

    def __init__(self, vectors: int, wanted: Callable[[], bool], moved: Callable[[], None]) -> None:
        self.vectors = Vectors(vectors, moved)
        self.pin = Pin(wanted)

    def info(self, index: int) -> tuple[IrqFlag, int]:
        """Flags and count of one kind of interrupt.

        Raises:
            Refused: EINVAL: there is no such kind.
        """
        match index:
            case Irq.INTX:
                return self.pin.flags, self.pin.count
            case Irq.MSIX:
                return self.vectors.flags, self.vectors.count
            case Irq.MSI | Irq.ERR | Irq.REQ:
                return IrqFlag(0), 0
        raise Refused(errno.EINVAL)

    def set(self, request: SetIrqsRequest, fds: Sequence[int]) -> None:
        """Carry out SET_IRQS. The descriptors are ours when this returns, and still the caller's when it raises.

        Raises:
            Refused: EINVAL: there is no such interrupt, or that cannot be done to it.
        """
        _, count = self.info(request.irq)
        if request.start + request.number > count:
            raise Refused(errno.EINVAL)
        act = _ACTIONS.get((request.irq, request.action, request.data))
        if act is None:
            raise Refused(errno.EINVAL)
        if not all(_is_eventfd(fd) for fd in fds):
            raise Refused(errno.EINVAL)
        act(self, request, fds)

    def close(self) -> None:
        """The client is gone."""
        self.vectors.off()
        self.pin.off()

    # SET_IRQS, by kind of interrupt, action and data

    def _connect_vectors(self, request: SetIrqsRequest, fds: Sequence[int]) -> None:
        if fds:
            self.vectors.connect(request.start, fds)
        else:
            self.vectors.disconnect(request.start, request.number)

    def _trigger_vectors(self, request: SetIrqsRequest, fds: Sequence[int]) -> None:
        if not request.number:
            self.vectors.off()
        for vector in _chosen(request):
            self.vectors.signal(vector)

    def _connect_pin(self, request: SetIrqsRequest, fds: Sequence[int]) -> None:
        if fds:
            self.pin.connect(fds[0])
        else:
            self.pin.off()

    def _trigger_pin(self, request: SetIrqsRequest, fds: Sequence[int]) -> None:
        if not request.number:
            self.pin.off()
        for _ in _chosen(request):
            self.pin.signal()

    def _mask_pin(self, request: SetIrqsRequest, fds: Sequence[int]) -> None:
        for _ in _chosen(request):
            self.pin.mask()

    def _unmask_pin(self, request: SetIrqsRequest, fds: Sequence[int]) -> None:
        for _ in _chosen(request):
            self.pin.unmask()

    def _resample_pin(self, request: SetIrqsRequest, fds: Sequence[int]) -> None:
        self.pin.resample_by(fds[0] if fds else None)


_ACTIONS: dict[tuple[int, SetIrqs, SetIrqs], Callable[[Irqs, SetIrqsRequest, Sequence[int]], None]] = {
    (Irq.MSIX, SetIrqs.TRIGGER, SetIrqs.DATA_EVENTFD): Irqs._connect_vectors,
    (Irq.MSIX, SetIrqs.TRIGGER, SetIrqs.DATA_NONE): Irqs._trigger_vectors,
    (Irq.MSIX, SetIrqs.TRIGGER, SetIrqs.DATA_BOOL): Irqs._trigger_vectors,
    (Irq.INTX, SetIrqs.TRIGGER, SetIrqs.DATA_EVENTFD): Irqs._connect_pin,
    (Irq.INTX, SetIrqs.TRIGGER, SetIrqs.DATA_NONE): Irqs._trigger_pin,
    (Irq.INTX, SetIrqs.TRIGGER, SetIrqs.DATA_BOOL): Irqs._trigger_pin,
    (Irq.INTX, SetIrqs.MASK, SetIrqs.DATA_NONE): Irqs._mask_pin,
    (Irq.INTX, SetIrqs.MASK, SetIrqs.DATA_BOOL): Irqs._mask_pin,
    (Irq.INTX, SetIrqs.UNMASK, SetIrqs.DATA_NONE): Irqs._unmask_pin,
    (Irq.INTX, SetIrqs.UNMASK, SetIrqs.DATA_BOOL): Irqs._unmask_pin,
    (Irq.INTX, SetIrqs.UNMASK, SetIrqs.DATA_EVENTFD): Irqs._resample_pin,
}


def _chosen(request: SetIrqsRequest) -> Sequence[int]:
    """The vectors a request means: all it names, or those whose byte is not 0."""
    named = range(request.start, request.start + request.number)
    if request.data is not SetIrqs.DATA_BOOL:
        return named
    return [vector for vector, chosen in zip(named, request.bools, strict=True) if chosen]


def _is_eventfd(fd: int) -> bool:
    """Anything else may block us, or wake us for ever."""
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink()) == "anon_inode:[eventfd]"
    except OSError:
        return False


def _write(fd: int) -> None:
    """Signal an eventfd; one that is full is signalled already. Whether it blocks is the client's choice."""
    if os.get_blocking(fd) and not select.select((), (fd,), (), 0)[1]:
        return
    with contextlib.suppress(BlockingIOError):
        os.eventfd_write(fd, 1)
