"""Eventfds by which a client may kick instead of writing to a register: DEVICE_GET_REGION_IO_FDS. Loop thread only."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence, Set

from hdvkit.runtime import Doorbell
from hdvkit_vfio_user.protocol.spec import IOEVENTFD, SUB_REGION


class Kicks:
    """One eventfd for each doorbell, made when the client asks for them. ``kicked`` is called after each kick."""

    def __init__(self, doorbells: Sequence[Doorbell], served: Set[Doorbell], kicked: Callable[[], None]) -> None:
        self._doorbells = doorbells
        self._served = served
        self._told = kicked
        self._loop = asyncio.get_running_loop()
        self._fds: dict[Doorbell, int] = {}
        self._lent: set[Doorbell] = set()

    @property
    def told(self) -> bool:
        """Whether the client has eventfds."""
        return bool(self._fds)

    def describe(self, bar: int) -> tuple[list[bytes], tuple[int, ...]]:
        """The sub-regions of a BAR that have eventfds, and the descriptors to pass along. They stay ours."""
        mine = [doorbell for doorbell in self._doorbells if doorbell.bar == bar]
        if not self._fds:
            self._fds = {doorbell: self._watch(doorbell) for doorbell in mine}
        # Two bytes of any value: each queue has an address of its own. Longer writes arrive as writes.
        parts = [SUB_REGION.pack(one.offset, 2, index, IOEVENTFD, 0, 0, 0) for index, one in enumerate(mine)]
        return parts, tuple(self._fds[one] for one in mine)

    def lend(self, doorbell: Doorbell) -> int:
        """Let somebody else wait for an eventfd, who then does what the doorbell would; -1 when there is none."""
        fd = self._fds.get(doorbell, -1)
        if fd >= 0:
            self._lent.add(doorbell)
            self._loop.remove_reader(fd)
        return fd

    def take_back(self, doorbell: Doorbell) -> None:
        """Wait for it again."""
        if doorbell in self._lent:
            self._lent.discard(doorbell)
            self._loop.add_reader(self._fds[doorbell], self._kicked, self._fds[doorbell], doorbell)

    def ring_all(self) -> None:
        """The driver may have kicked any queue."""
        for doorbell in tuple(self._served):
            doorbell.ring()

    def close(self) -> None:
        """The client is gone."""
        for fd in self._fds.values():
            self._loop.remove_reader(fd)
            os.close(fd)
        self._fds = {}
        self._lent = set()

    def _watch(self, doorbell: Doorbell) -> int:
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop.add_reader(fd, self._kicked, fd, doorbell)
        return fd

    def _kicked(self, fd: int, doorbell: Doorbell) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(fd)
        if doorbell in self._served:
            doorbell.ring()
            self._told()
