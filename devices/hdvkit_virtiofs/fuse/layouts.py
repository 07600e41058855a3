"""Every structure of the FUSE wire, one row each: field names and offsets as in ``linux/fuse.h``.

Little-endian, as every guest we serve is. Knows bytes and places, no rules.
"""

import struct
from typing import Final, final


@final
class Layout:
    """One structure: ``"name:code ..."`` with the codes of :mod:`struct`.

    Padding and reserved bytes are fields of their own with an ``x`` code: never read, written as zeros.
    A field of an embedded structure has a dotted name. ``since`` is the protocol's minor version that brought
    the structure, or 0 when it is older than all we speak.
    """

    __slots__ = ("fields", "name", "offsets", "pack", "since", "size", "struct", "unpack", "unpack_from")

    def __init__(self, name: str, row: str, *, since: int = 0) -> None:
        self.name = name
        self.since = since
        self.fields = tuple((field, code) for field, _, code in (item.partition(":") for item in row.split()))
        self.struct = struct.Struct("<" + "".join(code for _, code in self.fields))
        self.size = self.struct.size
        self.offsets = self._places()
        self.pack = self.struct.pack
        self.unpack = self.struct.unpack
        self.unpack_from = self.struct.unpack_from

    def _places(self) -> dict[str, int]:
        places, offset = {}, 0
        for field, code in self.fields:
            places[field] = offset
            offset += struct.calcsize("<" + code)
        return places

    def within(self, field: str) -> str:
        """Return the row of this structure as it stands inside another, under ``field``."""
        return " ".join(f"{field}.{name}:{code}" for name, code in self.fields)

    def upto(self, last: str) -> "Layout":
        """Return the shorter structure that ended with ``last`` before the protocol grew."""
        names = [name for name, _ in self.fields]
        kept = self.fields[: names.index(last) + 1]
        return Layout(self.name, " ".join(f"{name}:{code}" for name, code in kept))

    def __repr__(self) -> str:
        return f"<Layout {self.name}, {self.size} bytes>"


EMPTY: Final = Layout("", "")
"""The body of requests that are told by their opcode alone."""

# Headers

IN_HEADER: Final = Layout(
    "fuse_in_header",
    "len:I opcode:I unique:Q nodeid:Q uid:I gid:I pid:I total_extlen:H padding:2x",
)
OUT_HEADER: Final = Layout("fuse_out_header", "len:I error:i unique:Q")

# Parts of several messages

ATTR: Final = Layout(
    "fuse_attr",
    "ino:Q size:Q blocks:Q atime:Q mtime:Q ctime:Q atimensec:I mtimensec:I ctimensec:I "
    "mode:I nlink:I uid:I gid:I rdev:I blksize:I flags:I",
)
SX_TIME: Final = Layout("fuse_sx_time", "tv_sec:q tv_nsec:I __reserved:4x", since=39)
STATX: Final = Layout(
    "fuse_statx",
    "mask:I blksize:I attributes:Q nlink:I uid:I gid:I mode:H __spare0:2x ino:Q size:Q blocks:Q attributes_mask:Q "
    f"{SX_TIME.within('atime')} {SX_TIME.within('btime')} {SX_TIME.within('ctime')} {SX_TIME.within('mtime')} "
    "rdev_major:I rdev_minor:I dev_major:I dev_minor:I __spare2:112x",
    since=39,
)
KSTATFS: Final = Layout(
    "fuse_kstatfs",
    "blocks:Q bfree:Q bavail:Q files:Q ffree:Q bsize:I namelen:I frsize:I padding:4x spare:24x",
)
FILE_LOCK: Final = Layout("fuse_file_lock", "start:Q end:Q type:I pid:I")

# The session

INIT_IN: Final = Layout("fuse_init_in", "major:I minor:I max_readahead:I flags:I flags2:I unused:44x")
INIT_IN_16: Final = INIT_IN.upto("flags")
"""Before 7.36, and from guests that have nothing to say in ``flags2``."""
INIT_IN_8: Final = INIT_IN.upto("minor")
"""All of INIT that any version of the protocol may rely on."""
INIT_OUT: Final = Layout(
    "fuse_init_out",
    "major:I minor:I max_readahead:I flags:I max_background:H congestion_threshold:H max_write:I time_gran:I "
    "max_pages:H map_alignment:H flags2:I max_stack_depth:I request_timeout:H unused:22x",
)
INTERRUPT_IN: Final = Layout("fuse_interrupt_in", "unique:Q")
SYNCFS_IN: Final = Layout("fuse_syncfs_in", "padding:8x", since=34)
STATFS_OUT: Final = Layout("fuse_statfs_out", KSTATFS.within("st"))

# Nodes and names

ENTRY_OUT: Final = Layout(
    "fuse_entry_out",
    f"nodeid:Q generation:Q entry_valid:Q attr_valid:Q entry_valid_nsec:I attr_valid_nsec:I {ATTR.within('attr')}",
)
FORGET_IN: Final = Layout("fuse_forget_in", "nlookup:Q")
FORGET_ONE: Final = Layout("fuse_forget_one", "nodeid:Q nlookup:Q")
BATCH_FORGET_IN: Final = Layout("fuse_batch_forget_in", "count:I dummy:4x")
MKNOD_IN: Final = Layout("fuse_mknod_in", "mode:I rdev:I umask:I padding:4x")
MKDIR_IN: Final = Layout("fuse_mkdir_in", "mode:I umask:I")
RENAME_IN: Final = Layout("fuse_rename_in", "newdir:Q")
RENAME2_IN: Final = Layout("fuse_rename2_in", "newdir:Q flags:I padding:4x")
LINK_IN: Final = Layout("fuse_link_in", "oldnodeid:Q")
ACCESS_IN: Final = Layout("fuse_access_in", "mask:I padding:4x")

# Extensions, behind the names of what is made

EXT_HEADER: Final = Layout("fuse_ext_header", "size:I type:I", since=38)
"""Since 7.36 it is ``fuse_secctx_header``, whose second field counts the contexts that follow."""
SECCTX: Final = Layout("fuse_secctx", "size:I padding:4x", since=36)
"""The name follows, with its NUL, then ``size`` bytes of value, padded to 8 bytes together."""
SUPP_GROUPS: Final = Layout("fuse_supp_groups", "nr_groups:I", since=38)
"""The groups follow, padded to 8 bytes together."""

# Attributes

GETATTR_IN: Final = Layout("fuse_getattr_in", "getattr_flags:I dummy:4x fh:Q")
ATTR_OUT: Final = Layout("fuse_attr_out", f"attr_valid:Q attr_valid_nsec:I dummy:4x {ATTR.within('attr')}")
SETATTR_IN: Final = Layout(
    "fuse_setattr_in",
    "valid:I padding:4x fh:Q size:Q lock_owner:Q atime:Q mtime:Q ctime:Q atimensec:I mtimensec:I ctimensec:I "
    "mode:I unused4:4x uid:I gid:I unused5:4x",
)
STATX_IN: Final = Layout("fuse_statx_in", "getattr_flags:I reserved:4x fh:Q sx_flags:I sx_mask:I", since=39)
STATX_OUT: Final = Layout(
    "fuse_statx_out",
    f"attr_valid:Q attr_valid_nsec:I flags:I spare:16x {STATX.within('stat')}",
    since=39,
)

# Extended attributes

SETXATTR_IN: Final = Layout("fuse_setxattr_in", "size:I flags:I setxattr_flags:I padding:4x")
"""With ``InitFlag.SETXATTR_EXT``."""
SETXATTR_IN_8: Final = SETXATTR_IN.upto("flags")
"""Without."""
GETXATTR_IN: Final = Layout("fuse_getxattr_in", "size:I padding:4x")
GETXATTR_OUT: Final = Layout("fuse_getxattr_out", "size:I padding:4x")

# Open files

OPEN_IN: Final = Layout("fuse_open_in", "flags:I open_flags:I")
OPEN_OUT: Final = Layout("fuse_open_out", "fh:Q open_flags:I backing_id:i")
CREATE_IN: Final = Layout("fuse_create_in", "flags:I mode:I umask:I open_flags:I")
RELEASE_IN: Final = Layout("fuse_release_in", "fh:Q flags:I release_flags:I lock_owner:Q")
FLUSH_IN: Final = Layout("fuse_flush_in", "fh:Q unused:4x padding:4x lock_owner:Q")
READ_IN: Final = Layout("fuse_read_in", "fh:Q offset:Q size:I read_flags:I lock_owner:Q flags:I padding:4x")
WRITE_IN: Final = Layout("fuse_write_in", "fh:Q offset:Q size:I write_flags:I lock_owner:Q flags:I padding:4x")
WRITE_OUT: Final = Layout("fuse_write_out", "size:I padding:4x")
FSYNC_IN: Final = Layout("fuse_fsync_in", "fh:Q fsync_flags:I padding:4x")
LK_IN: Final = Layout("fuse_lk_in", f"fh:Q owner:Q {FILE_LOCK.within('lk')} lk_flags:I padding:4x")
LK_OUT: Final = Layout("fuse_lk_out", FILE_LOCK.within("lk"))
FALLOCATE_IN: Final = Layout("fuse_fallocate_in", "fh:Q offset:Q length:Q mode:I padding:4x")
LSEEK_IN: Final = Layout("fuse_lseek_in", "fh:Q offset:Q whence:I padding:4x")
LSEEK_OUT: Final = Layout("fuse_lseek_out", "offset:Q")
COPY_FILE_RANGE_IN: Final = Layout(
    "fuse_copy_file_range_in",
    "fh_in:Q off_in:Q nodeid_out:Q fh_out:Q off_out:Q len:Q flags:Q",
    since=28,
)
COPY_FILE_RANGE_OUT: Final = Layout("fuse_copy_file_range_out", "bytes_copied:Q", since=45)
IOCTL_IN: Final = Layout("fuse_ioctl_in", "fh:Q flags:I cmd:I arg:Q in_size:I out_size:I")
IOCTL_OUT: Final = Layout("fuse_ioctl_out", "result:i flags:I in_iovs:I out_iovs:I")

# Directory listings; the name follows, padded to 8 bytes

DIRENT: Final = Layout("fuse_dirent", "ino:Q off:Q namelen:I type:I")
DIRENTPLUS: Final = Layout("fuse_direntplus", f"{ENTRY_OUT.within('entry_out')} {DIRENT.within('dirent')}")
