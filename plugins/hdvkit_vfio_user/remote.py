"""Guest memory that came without a descriptor, reached by messages: much slower than a mapping, otherwise the same.

Buffers are bounced: a readable one is filled before its chain is handed out, a writable one is sent when it is given
back. Rings are mirrored: what the device stored is sent at each memory barrier, in the order of the stores. Then they
are fetched until they stand still, and whoever serves them is told to look.
"""

import asyncio
from collections.abc import Callable, Iterator

from hdvkit import GuestError
from hdvkit.memory import Lease, MemoryArriving, MemoryBusy
from hdvkit_vfio_user.transfers import Transfers

BUDGET = 64 << 20
"""Bytes of buffers that may be out or on their way at once: two of the longest chains."""
MOST = 4096
"""Buffers that may be out or on their way when another is leased: four of the longest chains."""
GRAIN = 64
"""Bytes of a mirror that are compared at once, to find what was stored."""

Settled = Callable[[GuestError | None], None]


class Mirror:
    """One area of a ring: as the device sees and changes it, and as the guest has it, for all we know."""

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.data = bytearray(size)
        self.known = bytes(size)

    def stores(self) -> Iterator[tuple[int, bytes]]:
        """Address and bytes of each store since the last call."""
        if self.data == self.known:
            return
        before, self.known = self.known, bytes(self.data)
        for start in range(0, len(before), GRAIN):
            old, new = before[start : start + GRAIN], self.known[start : start + GRAIN]
            for at, end in _differences(old, new):
                yield self.address + start + at, new[at:end]

    def show(self, fetched: bytes) -> None:
        """The guest has this now."""
        self.data[:] = self.known = fetched


class RemoteMemory:
    """What lies in those ranges of one client that have no descriptor.

    Arguments:
        transfers: Who carries out what is asked.
        changed: Called when the driver stored something in a ring.
        delivered: Called when what the device stored has reached the driver. An eventfd is not in order with
            messages, so the driver must be interrupted again.
        lost: Called with address and size of a ring that cannot be read.
    """

    def __init__(
        self,
        transfers: Transfers,
        changed: Callable[[], None],
        delivered: Callable[[], None],
        lost: Callable[[int, int], None],
    ) -> None:
        self.leases = 0
        self._transfers = transfers
        self._changed = changed
        self._delivered = delivered
        self._lost = lost
        self._mirrors: list[Mirror] = []
        self._tables: dict[tuple[int, int], bytes] = {}
        self._arriving: set[asyncio.Future[bytes]] = set()
        self._settled: list[Settled] = []
        self._writing: set[asyncio.Future[bytes]] = set()
        self._delivering: list[Callable[[], None]] = []
        self._problem: GuestError | None = None
        self._out = 0  # bytes of buffers
        self._sends = 0
        self._follower: asyncio.Task[None] | None = None
        self._again = False

    # What memory is asked for

    def lease(self, address: int, size: int, *, writable: bool, taken: Callable[[], bool] = lambda: False) -> Lease:
        """Lease a buffer; raises MemoryBusy when too much is out. Nothing is written to memory that was ``taken``."""
        if self._out and self._out + size > BUDGET:
            raise MemoryBusy(f"{self._out} bytes of guest memory are on loan already, {BUDGET} may be")
        if self.leases + len(self._writing) > MOST:
            raise MemoryBusy(f"{self.leases} pieces of guest memory are on loan already, {MOST} may be")
        data = bytearray(size)
        view = memoryview(data)

        def back() -> None:
            self.leases -= 1
            if writable and not taken():
                self._store(address, bytes(data))
            else:
                self._out -= size

        def arrived(content: bytes) -> None:
            data[:] = content

        if not writable:
            self._fetch(address, size, arrived)
        self.leases += 1
        self._out += size
        return Lease(view, back)

    def mirror(self, address: int, size: int) -> Lease:
        """Lease an area of a ring."""
        mirror = Mirror(address, size)

        def back() -> None:
            self.leases -= 1
            self._mirrors.remove(mirror)
            self._tables.clear()  # one that nobody came back for belongs to a ring that is gone

        self.leases += 1
        self._mirrors.append(mirror)
        self.look()
        return Lease(memoryview(mirror.data), back)

    def copy(self, address: int, size: int) -> bytes:
        """Copy a table; raises MemoryArriving when it has to be fetched first."""
        table = self._tables.pop((address, size), None)
        if table is None:
            self._fetch(address, size, lambda content: self._tables.update({(address, size): content}))
            raise MemoryArriving(f"{size} bytes at {address:#x} are on their way")
        return table

    def settled(self, then: Settled) -> bool:
        """Whether no buffer is on its way; if one is, ``then`` is called when the last has arrived."""
        if self._arriving:
            self._settled.append(then)
        return not self._arriving

    def delivered(self, then: Callable[[], None]) -> bool:
        """Whether no buffer is on its way back; if one is, ``then`` is called when the last has arrived."""
        if self._writing:
            self._delivering.append(then)
        return not self._writing

    def barrier(self) -> None:
        """Send what was stored, then see what the driver has stored."""
        self._send_stores()
        self.look()

    def look(self) -> None:
        """See what the driver has stored."""
        self._again = True
        if self._follower is None and self._mirrors:
            self._follower = asyncio.create_task(self._follow(), name="mirror rings")

    def close(self) -> None:
        """The client is gone."""
        if self._follower is not None:
            self._follower.cancel()

    # Buffers

    def _fetch(self, address: int, size: int, use: Callable[[bytes], None]) -> None:
        def arrived(content: "asyncio.Future[bytes]") -> None:
            self._arriving.discard(content)
            if content.cancelled():
                self._problem = GuestError("the machine went away")
            elif (error := content.exception()) is not None:
                self._problem = GuestError(f"{size} bytes at {address:#x} cannot be read: {error}")
            else:
                use(content.result())
            if not self._arriving:
                self._tell()

        content = self._transfers.read(address, size)
        self._arriving.add(content)
        content.add_done_callback(arrived)

    def _store(self, address: int, data: bytes) -> None:
        def written(done: "asyncio.Future[bytes]") -> None:
            self._writing.discard(done)
            self._out -= len(data)
            if not self._writing:
                waiting, self._delivering = self._delivering, []
                for then in waiting:
                    then()

        done = self._transfers.write(address, data)
        self._writing.add(done)
        done.add_done_callback(written)

    def _tell(self) -> None:
        waiting, self._settled = self._settled, []
        problem, self._problem = self._problem, None
        for then in waiting:
            then(problem)

    # Rings

    def _send_stores(self) -> None:
        stores = [store for mirror in self._mirrors for store in mirror.stores()]
        for address, data in stores:
            written = self._transfers.write(address, data)
        if stores:
            self._sends += 1
            written.add_done_callback(lambda _: self._delivered())

    async def _follow(self) -> None:
        """Fetch the rings as often as there is a reason to."""
        try:
            while self._again and self._mirrors:
                self._again = False
                if await self._fetch_rings():
                    self._changed()
        finally:
            self._follower = None

    async def _fetch_rings(self) -> bool:
        """Fetch until two copies are the same, and nothing was stored between: a store seen half is no store."""
        seen = {mirror: mirror.known for mirror in self._mirrors}
        first = True
        while True:
            self._send_stores()
            sends = self._sends
            now = await self._copies()
            self._send_stores()
            if all(seen.get(mirror) == copy for mirror, copy in now.items()) and sends == self._sends:
                break
            seen, first = now, False
        for mirror in self._mirrors:
            if mirror in now:
                mirror.show(now[mirror])
        return not first

    async def _copies(self) -> dict[Mirror, bytes]:
        # Backwards: an available ring is read before the descriptors it names.
        mirrors = self._mirrors[::-1]
        reads = [self._transfers.read(mirror.address, len(mirror.data)) for mirror in mirrors]
        copies = await asyncio.gather(*reads, return_exceptions=True)
        for mirror, copy in zip(mirrors, copies, strict=True):
            if isinstance(copy, BaseException) and mirror in self._mirrors:
                self._lost(mirror.address, len(mirror.data))
        return {mirror: copy for mirror, copy in zip(mirrors, copies, strict=True) if isinstance(copy, bytes)}


def _differences(old: bytes, new: bytes) -> Iterator[tuple[int, int]]:
    """Where two pieces of one length differ, as spans."""
    at = 0
    while at < len(new):
        end = at
        while end < len(new) and old[end] != new[end]:
            end += 1
        if end > at:
            yield at, end
        at = end + 1
