"""One descriptor chain: buffers the driver lent for one request, completed exactly once. No I/O.

The device reads the readable part, writes the writable part, and gives the chain back. Both parts are byte
streams: how the driver cut them into buffers means nothing ("Message Framing").
"""

import warnings
from collections.abc import Callable
from types import TracebackType

from hdvkit.errors import UsageError
from hdvkit.memory import Lease


class Chain:
    """One request of the guest. A context manager: leaving it completes the chain, whatever happened.

    It may be handed to another task and completed later and out of order. The views are valid until then.
    """

    __slots__ = (
        "_complete",
        "_leases",
        "_taken",
        "head",
        "readable",
        "readable_size",
        "slots",
        "writable",
        "writable_size",
        "written",
    )

    def __init__(
        self,
        head: int,
        slots: int,
        readable: list[Lease],
        writable: list[Lease],
        complete: "Callable[[Chain], None]",
    ) -> None:
        self.head = head
        """Names the chain to the driver."""
        self.slots = slots
        """How many places of a packed ring it takes."""
        self.readable = [lease.view for lease in readable]
        """The guest's bytes for the device, in order."""
        self.writable = [lease.view for lease in writable]
        """Where the device's answer goes, in order."""
        self.readable_size = sum(map(len, self.readable))
        self.writable_size = sum(map(len, self.writable))
        self.written = 0
        """Bytes of the writable part that hold an answer; the driver is told this number."""
        self._taken = 0
        self._leases = readable + writable
        self._complete: Callable[[Chain], None] | None = complete

    @property
    def completed(self) -> bool:
        """Whether the chain was given back."""
        return self._complete is None

    def read(self, size: int | None = None) -> bytes:
        """Copy the next ``size`` readable bytes (all that are left by default); fewer at the end.

        What the guest may change while you look at it, check in this copy only.
        """
        self._check_open()
        left = self.readable_size - self._taken
        size = left if size is None else max(0, min(size, left))
        data = b"".join(cut(self.readable, self._taken, size))
        self._taken += size
        return data

    def unread(self) -> list[memoryview]:
        """The readable bytes that ``read`` has not taken, as the guest's own memory."""
        self._check_open()
        return cut(self.readable, self._taken, self.readable_size - self._taken)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append to the answer; returns how much of ``data`` there was room for."""
        self._check_open()
        views = cut(self.writable, self.written, min(len(data), self.writable_size - self.written))
        done = 0
        for view in views:
            view[:] = data[done : done + len(view)]
            done += len(view)
        self.written += done
        return done

    def room(self, skip: int = 0, size: int | None = None) -> list[memoryview]:
        """The guest's own memory for the answer behind ``written + skip``, at most ``size`` bytes of it.

        Fill it, then say how far with ``written``.
        """
        self._check_open()
        start = min(self.written + skip, self.writable_size)
        left = self.writable_size - start
        return cut(self.writable, start, left if size is None else min(size, left))

    def rewind(self) -> None:
        """Start again: read the request, and write the answer, from the first byte."""
        self._taken = 0
        self.written = 0

    def complete(self) -> None:
        """Give the chain back to the driver with ``written`` bytes of answer.

        Raises:
            UsageError: It was completed before, or ``written`` is more than there was room for.
            HostError: The platform would not take the answer; the guest sees an empty one.
        """
        complete = self._check_open()
        self._complete = None
        problem = self._let_go()
        if problem is None and not 0 <= self.written <= self.writable_size:
            problem = UsageError(
                f"chain {self.head} claims {self.written} bytes written, it has room for {self.writable_size}"
            )
        if problem is not None:
            self.written = 0  # the guest gets its buffers back whatever happened
        complete(self)
        if problem is not None:
            raise problem

    def _let_go(self) -> Exception | None:
        leases, self._leases = self._leases, []
        self.readable = []
        self.writable = []
        return release_all(leases)

    def _check_open(self) -> "Callable[[Chain], None]":
        if self._complete is None:
            raise UsageError(f"chain {self.head} is back with the driver: a chain is completed once")
        return self._complete

    def __enter__(self) -> "Chain":
        return self

    def __del__(self) -> None:
        # A guest waits for every chain; one that nobody holds any more would hang it, and the reset after it.
        if self._complete is not None:
            self.rewind()
            self.complete()
            warnings.warn(f"chain {self.head} was dropped without being completed", ResourceWarning, stacklevel=1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._complete is None:
            return
        if kind is not None:
            self.rewind()  # an answer that was not finished is none
        self.complete()


def release_all(leases: list[Lease]) -> Exception | None:
    """Give all leases back. One that fails does not keep the others; the last failure is returned."""
    problem = None
    for lease in leases:
        try:
            lease.release()
        except Exception as error:
            problem = error
    return problem


def cut(views: list[memoryview], start: int, size: int) -> list[memoryview]:
    """The bytes from ``start`` on, ``size`` of them, as parts of ``views``."""
    parts: list[memoryview] = []
    for view in views:
        if size <= 0:
            break
        length = len(view)
        if start >= length:
            start -= length
            continue
        if start or size < length:
            view = view[start : start + size]
            start = 0
        parts.append(view)
        size -= len(view)
    return parts
