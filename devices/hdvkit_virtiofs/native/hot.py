"""What C may answer for a share, and how it comes to know of nodes and files. The C is in share.h.

Every operation that a layer of the policy has a say in is Python's: C answers where the outermost method is that of the
directory itself.
"""

from collections.abc import Callable
from typing import Any, Final

from hdvkit.native import NativeHandler
from hdvkit_virtiofs.fuse import Session, replies
from hdvkit_virtiofs.fuse.spec import Opcode
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.passthrough.files import File
from hdvkit_virtiofs.passthrough.inodes import Inode
from hdvkit_virtiofs.passthrough.linux import Passthrough
from hdvkit_virtiofs.policy import MUTATING, innermost
from hdvkit_virtiofs.server import Server

METHODS: Final[dict[Opcode, str]] = {
    Opcode.LOOKUP: "lookup",
    Opcode.GETATTR: "getattr",
    Opcode.READ: "read_into",
    Opcode.WRITE: "write_from",
    Opcode.STATFS: "statfs",
}
"""What C can answer, and whose method it does that instead of."""


def hot_path(server: Server[Any, Any]) -> NativeHandler | None:
    """Have C answer what it may of this server's requests; None where it was not built, or may nothing."""
    operations = innermost(server.operations)
    opcodes = _opcodes(server, operations)
    if type(operations) is not Passthrough or not opcodes:
        return None
    try:
        from hdvkit_virtiofs.native._hot import ffi, lib
    except ImportError:
        return None
    hot = HotPath(ffi, lib, server, opcodes)
    operations.share_descriptors(hot)
    server.watched_by(hot)
    return hot.handler


def _opcodes(server: Server[Any, Any], operations: Operations[Any, Any]) -> frozenset[Opcode]:
    """Those that no layer stands in front of."""
    outermost = server.operations
    allowed = {code for code, name in METHODS.items() if getattr(outermost, name) == getattr(operations, name)}
    return frozenset(allowed - MUTATING if server.policy.read_only else allowed)


class HotPath:
    """The watch of a server and the sharer of its descriptors: tells C what there is."""

    def __init__(self, ffi: Any, lib: Any, server: Server[Any, Any], opcodes: frozenset[Opcode]) -> None:
        self._lib = lib
        self._times = server.times
        self._opcodes = sum(1 << opcode for opcode in opcodes)
        self._c = ffi.gc(lib.vf_share_new(), lib.vf_share_free)
        if not self._c:
            raise MemoryError
        self.handler = NativeHandler(lib.vf_answer_at, int(ffi.cast("uintptr_t", self._c)))
        # Called for every node and file: bound once.
        self.given: Callable[[int], int] = lambda nodeid: int(lib.vf_share_take_lookups(self._c, nodeid))
        self.dropped: Callable[[int], int] = lambda nodeid: int(lib.vf_share_drop_node(self._c, nodeid))

    # As the watch of the server

    def agreed(self, session: Session) -> None:
        """Answer in sessions, and nothing outside of them."""
        entry, attr = replies.timeout(self._times.entry), replies.timeout(self._times.attr)
        opcodes = self._opcodes if session.ready else 0
        self._lib.vf_share_agree(self._c, (opcodes, entry[0], attr[0], entry[1], attr[1], session.max_write))

    def entered(self, nodeid: int, node: Inode) -> None:
        """A node, with its descriptor if it has one now."""
        self._lib.vf_share_node(self._c, nodeid, max(node.open_as, -1), *node.key, node.type, node.mount is None)

    def opened(self, fh: int, nodeid: int, handle: File, *, readable: bool, writable: bool) -> None:
        """A file; writes that append or wait for the disk are Python's."""
        writable = writable and not handle.appends and not handle.waits
        self._lib.vf_share_file(self._c, fh, nodeid, handle.descriptor, readable, writable)

    def closed(self, fh: int) -> None:
        """Its descriptor is closed next."""
        self._lib.vf_share_drop_file(self._c, fh)

    def cleared(self) -> None:
        """All of them are gone."""
        self._lib.vf_share_clear(self._c)

    # As who shares descriptors

    def reopened(self, device: int, inode: int, descriptor: int, *, named: bool) -> None:
        """The node that has this number, if the guest knows one."""
        self._lib.vf_share_reopened(self._c, device, inode, descriptor, named)

    def disowned(self, device: int, inode: int) -> None:
        """Who had the number is not found by it any more."""
        self._lib.vf_share_disown(self._c, device, inode)

    def changing(self, device: int, inode: int, begins: bool) -> None:
        """Writes wait meanwhile, and C does not."""
        self._lib.vf_share_changing(self._c, device, inode, begins)

    def leaves(self, descriptor: int) -> bool:
        """Nothing leads to the descriptor any more."""
        return bool(self._lib.vf_share_close(self._c, descriptor))

    def wrote(self, descriptor: int) -> bool:
        """Whether C has written to the file."""
        return bool(self._lib.vf_share_take_dirty(self._c, descriptor))
