"""An open directory in the guest: its names piece by piece, and the way back to a place in it."""

from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import ProtocolError
from hdvkit.testing.fuse_replies import Dirent


class GuestDirectory:
    """What ``GuestMount.opendir`` gives, for as long as its block lasts; each method raises what ``call`` raises."""

    def __init__(self, client: FuseClient, nodeid: int, fh: int, size: int) -> None:
        """``size`` is what one READDIR asks for."""
        self._client = client
        self._nodeid = nodeid
        self._fh = fh
        self._size = size
        self._offset = 0

    async def read(self, size: int | None = None) -> list[Dirent]:
        """The next names in ``size`` bytes, "." and ".." among them; nothing means the end."""
        batch = await self._client.readdir(self._nodeid, self._fh, self._offset, self._size if size is None else size)
        if batch:
            self._offset = forward(self._offset, batch[-1])
        return batch

    def tell(self) -> int:
        """Where reading goes on. ``Dirent.off`` is the same for the place behind a name."""
        return self._offset

    def seek(self, offset: int) -> None:
        """Go to a place that ``tell`` or an entry named; 0 is the beginning, and lists the directory anew."""
        self._offset = offset


def forward(offset: int, last: Dirent) -> int:
    """Where to read on; a device that leads back to the same place would keep the guest busy for ever."""
    if last.off == offset:
        raise ProtocolError(f"the directory goes on at {offset}, where it was just read")
    return last.off
