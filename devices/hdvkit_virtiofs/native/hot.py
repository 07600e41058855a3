"""What C may answer for a share, and how it and Python tell each other of nodes and files. The C is in share.h.

Every operation that a layer of the policy has a say in is Python's: C answers where the outermost method is that of the
directory itself.
"""

from collections.abc import Callable
from typing import Any, Final

from hdvkit.native import NativeHandler, native
from hdvkit_virtiofs.fuse import Session, replies
from hdvkit_virtiofs.fuse.spec import Opcode
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.passthrough.files import File
from hdvkit_virtiofs.passthrough.inodes import Inode
from hdvkit_virtiofs.passthrough.lending import LENT
from hdvkit_virtiofs.passthrough.linux import Passthrough
from hdvkit_virtiofs.policy import MUTATING, innermost, refusal
from hdvkit_virtiofs.server import Server
from hdvkit_virtiofs.watch import Taken

GIVES_NODES: Final = ("lookup", "forget")
LISTS: Final = ("opendir", "readdir", "releasedir", *GIVES_NODES)
METHODS: Final[dict[Opcode, tuple[str, ...]]] = {
    Opcode.LOOKUP: ("lookup",),
    Opcode.FORGET: GIVES_NODES,
    Opcode.BATCH_FORGET: GIVES_NODES,
    Opcode.GETATTR: ("getattr",),
    Opcode.MKDIR: ("mkdir", *GIVES_NODES),
    Opcode.UNLINK: ("unlink",),
    Opcode.OPEN: ("open", "release"),
    Opcode.READ: ("read_into",),
    Opcode.WRITE: ("write_from",),
    Opcode.STATFS: ("statfs",),
    Opcode.RELEASE: ("open", "release", "setlk"),
    Opcode.FSYNC: ("fsync",),
    Opcode.FLUSH: ("open", "flush", "setlk"),
    Opcode.OPENDIR: LISTS,
    Opcode.READDIR: LISTS,
    Opcode.READDIRPLUS: LISTS,
    Opcode.RELEASEDIR: LISTS,
    Opcode.FSYNCDIR: ("fsyncdir",),
    Opcode.CREATE: ("create", "release", *GIVES_NODES),
}
"""What C can answer, and whose methods it does that instead of."""

MODULE: Final = "hdvkit_virtiofs.native._hot"
MAKES: Final = {Opcode.MKDIR, Opcode.CREATE}
OPENS: Final = {Opcode.OPEN, Opcode.CREATE}
CAPABILITY: Final = b"security.capability"
"""Guests ask for it whenever they write to a file they have not written to before."""


def hot_path(server: Server[Any, Any]) -> NativeHandler | None:
    """Have C answer what it may of this server's requests; None where it was not built, or may nothing."""
    operations = innermost(server.operations)
    if type(operations) is not Passthrough:
        return None
    opcodes = _opcodes(server, operations)
    if not opcodes or not native(MODULE).used:
        return None
    from hdvkit_virtiofs.native._hot import ffi, lib  # only where it was built

    hot = HotPath(ffi, lib, server, operations, opcodes | {Opcode.GETXATTR})
    server.watched_by(hot)
    return hot.handler


def _opcodes(server: Server[Any, Any], operations: Passthrough) -> frozenset[Opcode]:
    """Those that no layer stands in front of, and no option of the directory asks more of."""
    outermost: Operations[Any, Any] = server.operations
    own = {
        code
        for code, names in METHODS.items()
        if all(getattr(outermost, name) == getattr(operations, name) for name in names)
    }
    if server.policy.read_only:
        own -= MUTATING
    if not operations.makes_plainly:
        own -= MAKES
    if not operations.opens_plainly:
        own -= OPENS
    return frozenset(own)


class HotPath:
    """The watch of a server and the sharer of its descriptors: tells C what there is, and takes over what C found."""

    def __init__(
        self, ffi: Any, lib: Any, server: Server[Any, Any], directory: Passthrough, opcodes: frozenset[Opcode]
    ) -> None:
        self._ffi, self._lib = ffi, lib
        self._server = server
        self._root = directory.root
        self._opcodes = opcodes
        self._capability = refusal(server.operations, CAPABILITY)
        self._c = ffi.gc(lib.vf_share_new(), lib.vf_share_free)
        if not self._c:
            raise MemoryError
        self.handler = NativeHandler(lib.vf_answer_at, int(ffi.cast("uintptr_t", self._c)))
        self._lending = directory.share_descriptors(self)
        # Called for every node and file: bound once.
        self.given: Callable[[int], int] = lambda nodeid: int(lib.vf_share_take_lookups(self._c, nodeid))
        self.dropped: Callable[[int], int] = lambda nodeid: int(lib.vf_share_drop_node(self._c, nodeid))
        self.count: Callable[[], int] = lambda: int(lib.vf_share_nodes(self._c))

    # As the watch of the server

    def agreed(self, session: Session) -> None:
        """Answer in sessions, and nothing outside of them."""
        if session.ready:
            self._lending.borrow()
        self._lib.vf_share_agree(self._c, self._terms(session))

    def _terms(self, session: Session) -> Any:
        lending, times = self._lending, self._server.times
        entry, attr = replies.timeout(times.entry), replies.timeout(times.attr)
        mount, mount_id = lending.mount if Opcode.FORGET in self._opcodes and lending.borrowed.nodes else (-1, 0)
        device, inode = self._root.key
        group = lending.makes_for_root
        return self._ffi.new(
            "vf_terms *",
            {
                "opcodes": sum(1 << opcode for opcode in self._opcodes) if session.ready else 0,
                "entry_valid": entry[0],
                "entry_valid_nsec": entry[1],
                "attr_valid": attr[0],
                "attr_valid_nsec": attr[1],
                "device": device,
                "inode": inode,
                "max_write": session.max_write,
                "open_flags": times.open_flags,
                "host_flags": lending.noatime,
                "nodes": lending.borrowed.nodes,
                "files": lending.borrowed.files,
                "capability": self._capability,
                "mount": mount,
                "mount_id": mount_id,
                "numbers": lending.numbers,
                "read_only": self._server.policy.read_only,
                "anybody": lending.makes_for_anybody,
                "root": group is not None,
                "gid": group or 0,
            },
        )

    def entered(self, nodeid: int, node: Inode) -> int:
        """A node, with its descriptor if it has one now."""
        named = node.mount is None
        return int(self._lib.vf_share_enter(self._c, nodeid, max(node.open_as, -1), *node.key, node.type, named))

    def met(self, nodeid: int) -> Inode | None:
        """A node that C found, with its descriptor if it has one now."""
        who = self._ffi.new("vf_who *")
        if not self._lib.vf_share_adopt(self._c, nodeid, who):
            return None
        head = self._ffi.offsetof("vf_handle", "data")
        handle = bytes(self._ffi.buffer(self._ffi.addressof(who.handle), head + who.handle.bytes))
        node = self._lending.met(who.device, who.inode, who.type, handle, who.descriptor)
        if node.open_as >= 0:
            self.reopened(*node.key, node.open_as, named=False)
        return node

    def forgotten(self, nodeid: int, count: int) -> None:
        """What C alone knows is closed here, where there are threads for what takes long."""
        descriptor = self._lib.vf_share_forget(self._c, nodeid, count)
        if descriptor >= 0:
            self._lending.close(descriptor)

    def opened(self, fh: int, nodeid: int, handle: File, *, readable: bool, writable: bool) -> None:
        """A file; writes that append or wait for the disk are Python's."""
        writable = writable and not handle.appends and not handle.waits
        self._lib.vf_share_file(self._c, fh, nodeid, handle.descriptor, readable, writable)

    def taken(self, fh: int, nodeid: int) -> Taken[File] | None:
        """A file that C opened."""
        file = self._ffi.new("vf_file *")
        if not self._lib.vf_share_adopt_file(self._c, fh, nodeid, file):
            return None
        handle = self._lending.opened(file.descriptor, file.flags, directory=file.directory)
        return Taken(handle, file.flags, file.directory)

    def closed(self, fh: int) -> None:
        """Its descriptor is closed next."""
        self._lib.vf_share_drop_file(self._c, fh)

    def cleared(self) -> None:
        """All of them are gone."""
        descriptors = self._ffi.new("int[]", LENT)
        for at in range(self._lib.vf_share_clear(self._c, descriptors, LENT)):
            self._lending.close(descriptors[at])
        self._lending.give_back()

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

    def locked(self, device: int, inode: int) -> None:
        """Closing it means more than closing."""
        self._lib.vf_share_locked(self._c, device, inode)

    def unnaming(self, descriptor: int) -> None:
        """A name of this file is about to go."""
        self._lib.vf_share_hold(self._c, descriptor)

    def has_open(self) -> int:
        """Of nodes and files that C found and opened."""
        return int(self._lib.vf_share_held(self._c))

    def leaves(self, descriptor: int) -> bool:
        """Nothing leads to the descriptor any more."""
        return bool(self._lib.vf_share_close(self._c, descriptor))

    def wrote(self, descriptor: int) -> bool:
        """Whether C has written to the file."""
        return bool(self._lib.vf_share_take_dirty(self._c, descriptor))
