"""A hostile guest of the FUSE plane: requests no kernel sends, each by name with the answer it must get.

The answers are those of a directory that a Linux host shares; what else must hold afterwards (the same mount and all
others still serve, nothing outside the share was touched) is for the caller to check.

The number in a name is the line of the threat model. Three lines are not here: F5 (names that mean something else
to Windows) does not apply to a Linux host, where they are names like others; F7 (a host process that swaps a
directory for a link while the guest looks) takes a second attacker, so it is a test and not a request; F29 (statfs
tells the size of the host's disk) is left as it is, because programs in the guest need the free space.
"""

import stat
from errno import (
    EBADF,
    EFBIG,
    EINVAL,
    EIO,
    EISDIR,
    ELOOP,
    ENAMETOOLONG,
    ENFILE,
    ENODATA,
    ENOENT,
    ENOSYS,
    ENOTDIR,
    ENOTTY,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    EPROTO,
    EROFS,
    ESTALE,
)
from struct import pack
from typing import Final

import attrs

from hdvkit.testing import hostile_fuse_limits as limits
from hdvkit.testing import hostile_fuse_nodes as nodes
from hdvkit.testing.fuse_messages import ROOT_ID, Fattr, Opcode
from hdvkit.testing.hostile_fuse_guest import (
    CREATE_IN,
    DROPPED,
    HIGHEST,
    MODE_IN,
    MOST32,
    MOST64,
    SERVED,
    UNKNOWN_NODE,
    Attack,
    HostileGuest,
    alike,
    by_directory,
    by_handle,
    by_node,
    bytes_of,
    io,
    names_in,
    outcome,
    request,
    setattr_in,
    with_extension,
)
from hdvkit.testing.hostile_fuse_read_only import READ_ONLY


@attrs.frozen
class HostileFuse:
    """One attack on the FUSE plane, and the answer it must get."""

    name: str
    summary: str
    attack: Attack
    answer: int | str
    """An errno, DROPPED or SERVED."""
    mounted: bool = True
    """Whether INIT comes before the attack."""
    read_only: bool = False
    """For a read-only share whose root holds ``file``, ``dir`` with ``inner`` in it, and ``link``."""
    descriptors: int | None = None
    """For a share that keeps at most so many descriptors open for its guest."""


async def answer_of(row: HostileFuse, guest: HostileGuest) -> int | str:
    """Attack, and say what the answer was, to be compared with ``row.answer``.

    Raises:
        ProtocolError: The device broke the protocol, or let something pass that it must not.
    """
    return await outcome(row.attack, guest)


_FORGED = 0xDEAD_BEEF
_LONG = b"n" * 256 + b"\0"
_XATTRS = (b"security.capability", b"trusted.x", b"system.posix_acl_access", b"security.selinux")
_UNTAKEN = (Opcode.BMAP, Opcode.POLL, Opcode.NOTIFY_REPLY, 0, 7, 19, 54, 4096, 1 << 20, MOST32)
_FIRST = {
    Opcode.LOOKUP: b"file\0", Opcode.GETATTR: bytes(16), Opcode.OPEN: bytes(8), Opcode.MKDIR: MODE_IN + b"new\0",
    Opcode.CREATE: CREATE_IN + b"new\0", Opcode.STATFS: b"", Opcode.DESTROY: b"", Opcode.IOCTL: b"", 4096: b"",
}  # fmt: skip

ATTACKS: Final = (
    HostileFuse("F1-length-short", "header.len is less than what came",
                alike(request(Opcode.LOOKUP, body=b"name\0", length=44), request(Opcode.STATFS, length=39),
                      request(Opcode.STATFS, length=0)), EINVAL),
    HostileFuse("F1-length-long", "header.len is more than what came",
                alike(request(Opcode.LOOKUP, body=b"name\0", length=46), request(Opcode.STATFS, length=MOST32)),
                EINVAL),
    HostileFuse("F1-extension-cut", "extensions that end too early, or are longer than they say",
                alike(*map(with_extension, (b"\0", bytes(7), bytes(8), pack("<II", 4, 0), pack("<II", 16, 32),
                                            pack("<II", 12, 0) + bytes(8), pack("<II", MOST32 - 7, 32)))), EINVAL),
    HostileFuse("F1-extension-groups", "groups whose number is not true",
                alike(*(with_extension(pack("<IIII", 16, 32, count, 0)) for count in (2, 1 << 30, MOST32)),
                      with_extension(pack("<II", 8, 32)), with_extension(pack("<IIII", 16, 32, 1, MOST32))), EINVAL),
    HostileFuse("F1-extension-contexts", "security contexts that are not there, or have no name or no end",
                alike(*(with_extension(pack("<II", 8, count)) for count in (1, 31, 33, MOST32)),
                      with_extension(pack("<IIII", 24, 1, MOST32, 0) + b"name\0val"),
                      with_extension(pack("<IIII", 24, 1, 4, 0) + b"\0" + bytes(7)),
                      with_extension(pack("<IIII", 24, 1, 0, 0) + b"security")), EINVAL),
    HostileFuse("F1-extension-elsewhere", "extensions of requests that make nothing",
                alike(request(Opcode.LOOKUP, body=b"file\0" + pack("<IIII", 16, 32, 1, 0), extlen=2),
                      request(Opcode.LINK, body=pack("<Q", ROOT_ID) + b"n\0" + pack("<II", 8, 0), extlen=1),
                      request(Opcode.GETATTR, body=bytes(16) + pack("<II", 8, 0), extlen=1)), EINVAL),
    HostileFuse("F1-no-header", "less than a header", alike(*(bytes_of(bytes(size)) for size in (0, 1, 39))), DROPPED),
    HostileFuse("F1-body-short", "less than the arguments",
                alike(*(request(opcode, body=bytes(7)) for opcode in
                        (Opcode.GETATTR, Opcode.SETATTR, Opcode.OPEN, Opcode.READ, Opcode.WRITE, Opcode.MKDIR,
                         Opcode.RENAME2, Opcode.LINK, Opcode.CREATE, Opcode.FALLOCATE, Opcode.LSEEK, Opcode.ACCESS,
                         Opcode.COPY_FILE_RANGE, Opcode.GETXATTR, Opcode.SETXATTR, Opcode.IOCTL))), EINVAL),
    HostileFuse("F1-body-long", "more than the arguments",
                alike(request(Opcode.GETATTR, body=bytes(17)), request(Opcode.OPEN, body=bytes(4096)),
                      request(Opcode.STATFS, body=b"x"), request(Opcode.READLINK, body=b"name\0")), EINVAL),
    HostileFuse("F1-body-huge", "a megabyte of arguments", request(Opcode.GETXATTR, body=bytes(1 << 20)), EINVAL),
    HostileFuse("F1-no-room", "no room for the header of an answer",
                alike(*(request(Opcode.STATFS, room=room) for room in (0, 1, 15))), DROPPED),
    HostileFuse("F1-little-room", "room for the header of an answer only",
                alike(request(Opcode.STATFS, room=16), request(Opcode.GETATTR, body=bytes(16), room=119)), EIO),
    HostileFuse("F2-before-init", "requests before INIT",
                alike(*(request(opcode, body=body) for opcode, body in _FIRST.items())), EIO, mounted=False),
    HostileFuse("F2-forget-before-init", "FORGET before INIT", request(Opcode.FORGET, body=bytes(8)), DROPPED,
                mounted=False),
    HostileFuse("F2-init-twice", "a second INIT", lambda guest: guest.init(), EIO),
    HostileFuse("F2-init-old-major", "INIT of FUSE 0 and 6",
                alike(lambda guest: guest.init(major=0), lambda guest: guest.init(major=6)), EPROTO, mounted=False),
    HostileFuse("F2-init-new-major", "INIT of FUSE 8", limits.answers_major_7, SERVED, mounted=False),
    HostileFuse("F2-init-old-minor", "INIT of FUSE 7.26", lambda guest: guest.init(minor=26), EPROTO, mounted=False),
    HostileFuse("F2-init-short", "INIT cut off",
                alike(*(request(Opcode.INIT, 0, pack("<II", 7, 38) + bytes(more)) for more in (4, 12, 55, 57))),
                EINVAL, mounted=False),
    HostileFuse("F2-init-everything", "INIT that offers every flag and 4 GiB of read-ahead", limits.offers_everything,
                SERVED, mounted=False),
    HostileFuse("F2-after-destroy", "requests after DESTROY", nodes.after_destroy, EIO),
    HostileFuse("F3-old-node", "a node from before DESTROY and INIT", nodes.old_node, ESTALE),
    HostileFuse("F3-old-handle", "an open file from before DESTROY and INIT", nodes.old_handle, EBADF),
    HostileFuse("F4-name-empty", "the empty name", names_in(b"\0"), EINVAL),
    HostileFuse("F4-name-dot", "the name .", names_in(b".\0"), EINVAL),
    HostileFuse("F4-name-dotdot", "the name ..", names_in(b"..\0"), EINVAL),
    HostileFuse("F4-name-with-slash", "a path as a name", names_in(b"../outside\0"), EINVAL),
    HostileFuse("F4-name-absolute", "an absolute path as a name", names_in(b"/etc/passwd\0"), EINVAL),
    HostileFuse("F4-name-slash-last", "a name that ends in a slash", names_in(b"name/\0"), EINVAL),
    HostileFuse("F4-name-256", "a name of 256 bytes", names_in(_LONG), ENAMETOOLONG),
    HostileFuse("F4-name-without-nul", "a name without its end",
                alike(*(request(opcode, body=b"name") for opcode in (Opcode.LOOKUP, Opcode.UNLINK, Opcode.RMDIR)),
                      request(Opcode.MKDIR, body=MODE_IN + b"name"), request(Opcode.SYMLINK, body=b"name\0target"),
                      request(Opcode.RENAME, body=pack("<Q", ROOT_ID) + b"old\0new")), EINVAL),
    HostileFuse("F4-names-in-one", "two names where one belongs, one where two do",
                alike(request(Opcode.LOOKUP, body=b"a\0b\0"), request(Opcode.MKDIR, body=MODE_IN + b"a\0b\0"),
                      request(Opcode.RENAME, body=pack("<Q", ROOT_ID) + b"old\0"),
                      request(Opcode.SYMLINK, body=b"name\0")), EINVAL),
    HostileFuse("F4-name-of-a-megabyte", "a name of 1 MiB", request(Opcode.LOOKUP, body=b"n" * (1 << 20)), EINVAL),
    HostileFuse("F6-open-link", "open and create through a symlink to a host file", nodes.open_link, ELOOP),
    HostileFuse("F6-walk-link", "a symlink to a host directory as a directory", nodes.walk_link, ENOTDIR),
    HostileFuse("F6-link-targets", "targets that lead out are stored, never followed", nodes.stores_targets, SERVED),
    HostileFuse("F6-chmod-link", "chmod of a symlink to a host file", nodes.change_link, EOPNOTSUPP),
    HostileFuse("F8-mknod-device", "host devices by MKNOD",
                alike(nodes.node_of(stat.S_IFCHR), nodes.node_of(stat.S_IFBLK)), EPERM),
    HostileFuse("F8-mknod-type", "a type that MKNOD does not make",
                alike(*(nodes.node_of(kind) for kind in (0, stat.S_IFDIR, stat.S_IFLNK, 0o170000))), EINVAL),
    HostileFuse("F8-open-socket", "open of a socket", nodes.open_special(stat.S_IFSOCK), ENXIO),
    HostileFuse("F8-whiteout", "a device node by RENAME_WHITEOUT is no device", nodes.whiteout, SERVED),
    HostileFuse("F9-node-forged", "numbers of nodes that were never given",
                alike(*(by_node(nodeid) for nodeid in (0, _FORGED, UNKNOWN_NODE, HIGHEST, MOST64))), ESTALE),
    HostileFuse("F9-node-forgotten", "a node after its last FORGET", nodes.forgotten_node, ESTALE),
    HostileFuse("F9-handle-forged", "numbers of open files that were never given",
                alike(*(one(ROOT_ID, fh) for fh in (0, _FORGED, MOST64) for one in (by_handle, by_directory))), EBADF),
    HostileFuse("F9-handle-closed", "an open file after RELEASE", nodes.closed_handle, EBADF),
    HostileFuse("F9-handle-of-another", "the open file of another node", nodes.handle_of_another, EBADF),
    HostileFuse("F10-directory-as-file", "a directory's handle where a file's belongs", nodes.directory_as_file, EBADF),
    HostileFuse("F10-file-as-directory", "a file's handle where a directory's belongs", nodes.file_as_directory, EBADF),
    HostileFuse("F10-write-by-reader", "writing by a handle opened to read, and the reverse",
                nodes.write_by_reader, EBADF),
    HostileFuse("F11-forget-too-many", "more references given back than there are", nodes.forget_too_many, ESTALE),
    HostileFuse("F11-forget-root", "FORGET of the root", nodes.forget_root, SERVED),
    HostileFuse("F11-forget-open", "FORGET of a node that is open", nodes.forget_open, SERVED),
    HostileFuse("F11-batch-count", "BATCH_FORGET with a count that is not true",
                alike(*(request(Opcode.BATCH_FORGET, 0, pack("<II", count, 0) + bytes(16), hiprio=True)
                        for count in (0, 2, MOST32))), DROPPED),
    HostileFuse("F11-forget-short", "FORGET without a count",
                alike(request(Opcode.FORGET, hiprio=True), request(Opcode.BATCH_FORGET, 0, hiprio=True)), DROPPED),
    HostileFuse("F12-lookup-storm", "lookups without end and no FORGET", limits.lookup_storm, SERVED, descriptors=300),
    HostileFuse("F12-open-storm", "opens without end and no RELEASE", limits.open_storm, ENFILE, descriptors=300),
    HostileFuse("F13-read-4-gib", "READ of 4 GiB", limits.huge(Opcode.READ, directory=False), SERVED),
    HostileFuse("F13-readdir-4-gib", "READDIR of 4 GiB", limits.huge(Opcode.READDIR, directory=True), SERVED),
    HostileFuse("F13-readdirplus-4-gib", "READDIRPLUS of 4 GiB",
                limits.huge(Opcode.READDIRPLUS, directory=True), SERVED),
    HostileFuse("F13-getxattr-4-gib", "GETXATTR of 4 GiB",
                request(Opcode.GETXATTR, body=pack("<II", MOST32, 0) + b"user.x\0"), ENODATA),
    HostileFuse("F13-listxattr-4-gib", "LISTXATTR of 4 GiB",
                request(Opcode.LISTXATTR, body=pack("<II", MOST32, 0)), SERVED),
    HostileFuse("F13-read-offset", "READ behind the last byte a file can have",
                alike(*map(limits.reading, (HIGHEST, HIGHEST + 1, MOST64))), EINVAL),
    HostileFuse("F14-offset-forged", "READDIR at offsets that were never given", limits.forged_offsets, SERVED),
    HostileFuse("F14-directory-changed", "READDIR while the names go away", limits.changed_directory, SERVED),
    HostileFuse("F14-readdir-no-room", "READDIR with room for no name",
                alike(limits.on_directory(Opcode.READDIR, lambda fh: io(fh, 0, 0)),
                      request(Opcode.LOOKUP, body=b"\0")), EINVAL),
    HostileFuse("F15-write-size", "WRITE whose size is not that of the data",
                alike(*(limits.writing(0, size) for size in (0, 3, 5, MOST32))), EINVAL),
    HostileFuse("F15-write-offset", "WRITE past the last byte a file can have",
                alike(*map(limits.writing, (HIGHEST - 3, HIGHEST, HIGHEST + 1, MOST64))), EFBIG),
    HostileFuse("F15-write-max", "WRITE of more than max_write", limits.too_long_a_write, EINVAL),
    HostileFuse("F15-append", "WRITE at 0 by a handle opened to append", limits.append, SERVED),
    HostileFuse("F16-every-bit", "SETATTR with bits that nobody defined",
                alike(limits.set_attributes(setattr_in(MOST32)), limits.set_attributes(setattr_in(1 << 12))), EINVAL),
    HostileFuse("F16-nanoseconds", "a second of 10^9 nanoseconds and more",
                alike(*(limits.set_attributes(setattr_in(bit, nanoseconds=number)) for number in (10**9, MOST32)
                        for bit in (Fattr.ATIME, Fattr.MTIME, Fattr.CTIME))), EINVAL),
    HostileFuse("F16-time-far", "times at both ends of time",
                alike(*(limits.set_attributes(setattr_in(Fattr.ATIME | Fattr.MTIME, seconds=seconds))
                        for seconds in (HIGHEST, HIGHEST + 1, MOST64))), SERVED),
    HostileFuse("F16-size", "a size no file can have",
                alike(*(limits.set_attributes(setattr_in(Fattr.SIZE, size=size)) for size in (HIGHEST + 1, MOST64))),
                EFBIG),
    HostileFuse("F16-size-of-directory", "a size for a directory",
                limits.set_attributes(setattr_in(Fattr.SIZE, size=0), directory=True), EISDIR),
    HostileFuse("F16-owner", "owner and group -1",
                alike(*(limits.set_attributes(setattr_in(bit, owner=MOST32)) for bit in (Fattr.UID, Fattr.GID))),
                EINVAL),
    HostileFuse("F17-allocate-everything", "FALLOCATE past the last byte a file can have",
                alike(limits.allocating(4096, HIGHEST), limits.allocating(4096, MOST64)), EFBIG),
    HostileFuse("F17-allocate-nothing", "FALLOCATE of no byte, and from behind the last one",
                alike(limits.allocating(0, 0), limits.allocating(MOST64, 1)), EINVAL),
    HostileFuse("F17-allocate-mode", "FALLOCATE modes that move data, and unknown ones",
                alike(*(limits.allocating(0, 4096, mode) for mode in (0x02, 0x08, 0x20, 0x40, 0x80, MOST32))),
                EOPNOTSUPP),
    HostileFuse("F18-setxattr", "extended attributes with a meaning to the host",
                alike(*map(nodes.set_attribute, _XATTRS),
                      *(request(Opcode.REMOVEXATTR, body=name + b"\0") for name in _XATTRS)), EOPNOTSUPP),
    HostileFuse("F19-killpriv", "set-user-id bits go with a write if INIT promised it", nodes.keeps_its_word, SERVED),
    HostileFuse("F20-foreign-node", "link, move and walk into another share", nodes.foreign_node, ESTALE),
    HostileFuse("F20-foreign-handle", "copy from and to another share", nodes.foreign_handle, EBADF),
    HostileFuse("F21-opcodes", "opcodes that are unknown, or not of this device",
                alike(*(request(opcode, body=bytes(48)) for opcode in _UNTAKEN)), ENOSYS),
    HostileFuse("F21-ioctl", "controls of terminals, disks and file systems, with room for 4 GiB",
                alike(*(limits.control(command, out_size=MOST32)
                        for command in (0, 0x5401, 0x541B, 0xC0045877, 0x40806685, 0x6611, MOST32))), ENOTTY),
    HostileFuse("F21-ioctl-flags", "controls that ask for the guest's memory, or are of 32 bits",
                alike(*(limits.control(0x80086601, flags=flags, out_size=4) for flags in (1, 2, 8, MOST32))), ENOTTY),
    HostileFuse("F21-ioctl-sizes", "an argument that is not as long as it says",
                alike(*(limits.control(0x40086602, bytes(4), in_size=size) for size in (0, 3, 5, 8, MOST32))), EINVAL),
    HostileFuse("F21-ioctl-directory", "a file's control on a directory, and the reverse",
                alike(limits.control(0x80086601, flags=16, out_size=4),
                      limits.control(0x80086601, directory=True, out_size=4)), EBADF),
    HostileFuse("F22-interrupt-unknown", "INTERRUPT of requests that are not there",
                alike(*(request(Opcode.INTERRUPT, 0, pack("<Q", unique), hiprio=True)
                        for unique in (0, 2, _FORGED, MOST64))), SERVED),
    HostileFuse("F22-interrupt-itself", "INTERRUPT of itself", limits.interrupt_itself, SERVED),
    HostileFuse("F22-interrupt-flood", "500 INTERRUPTs", limits.interrupt_flood, SERVED),
    HostileFuse("F23-requests-on-hiprio", "LOOKUP and READ on the hiprio queue", limits.on_hiprio, SERVED),
    HostileFuse("F23-init-on-hiprio", "a second INIT on the hiprio queue", limits.init_on_hiprio, EIO),
    HostileFuse("F23-forget-on-requests", "FORGET on a request queue, with room for an answer",
                request(Opcode.FORGET, body=pack("<Q", 1)), DROPPED),
    HostileFuse("F24-open-fifo", "open of a FIFO that nobody writes", nodes.open_special(stat.S_IFIFO), ENXIO),
    *(HostileFuse(f"F25-{name}", f"{name} on a share that is read-only, whatever the guest's mount says", attack, EROFS,
                  read_only=True) for name, attack in READ_ONLY.items()),
    HostileFuse("F26-nesting", f"{limits.DEPTH} directories deep, {limits.DEPTH * 200} bytes of path",
                limits.nest, SERVED),
    HostileFuse("F26-links", f"{limits.STORM} names for one file", limits.many_links, SERVED),
    HostileFuse("F27-tmpfile", "TMPFILE, left open", request(Opcode.TMPFILE, body=CREATE_IN + b"/\0"), SERVED),
    HostileFuse("F27-tmpfile-forged", "TMPFILE in directories that were never given",
                alike(*(request(Opcode.TMPFILE, nodeid, CREATE_IN + b"/\0")
                        for nodeid in (0, _FORGED, UNKNOWN_NODE, MOST64))), ESTALE),
    HostileFuse("F27-tmpfile-name", "TMPFILE without a name, with two, of a directory or a device",
                alike(request(Opcode.TMPFILE, body=CREATE_IN), request(Opcode.TMPFILE, body=CREATE_IN + b"/"),
                      request(Opcode.TMPFILE, body=CREATE_IN + b"a\0b\0"),
                      *(request(Opcode.TMPFILE, body=pack("<IIII", 2, kind | 0o644, 0, 0) + b"/\0")
                        for kind in (stat.S_IFDIR, stat.S_IFCHR, stat.S_IFLNK))), EINVAL),
    HostileFuse("F27-revive", "LINK of a file whose last name is gone", nodes.revive, ENOENT),
    HostileFuse("F28-setupmapping", "DAX mappings, which are not offered",
                alike(*(request(Opcode.SETUPMAPPING, body=pack("<5Q", 0, offset, length, 3, 1 << 40))
                        for offset in (0, MOST64) for length in (0, 4096, MOST64)),
                      request(Opcode.REMOVEMAPPING, body=pack("<II2Q", 1, 0, 0, MOST64))), ENOSYS),
    HostileFuse("F30-lock-range", "locks that end before they begin or behind the last byte, and of no kind",
                alike(*(limits.locking(*lock) for lock in ((0, 1, 0), (1, 0, HIGHEST + 1), (0, MOST64, MOST64),
                                                           (3, 0, 1), (MOST32, 0, 1)))), EINVAL),
    HostileFuse("F30-lock-flood", "200 locks waited for at once, all interrupted", limits.lock_flood, SERVED),
    HostileFuse("F30-lock-storm", f"{limits.STORM} locks on one file, closed with it", limits.lock_storm, SERVED),
)  # fmt: skip
"""Every attack."""
