"""Who owns a file and what its mode is, where NTFS keeps neither: from the options, or as WSL keeps them. Pure.

With ``metadata`` owner, group, mode and device number are extended attributes of the file, by the names and in the
form of WSL, so ``chmod`` here is seen there and the other way round.
"""

import stat
import struct
from typing import Final

import attrs

from hdvkit_virtiofs.fuse.answers import Attributes, Context
from hdvkit_virtiofs.passthrough.windows import layouts, times
from hdvkit_virtiofs.passthrough.windows.layouts import Facts, Row

UID: Final = b"$LXUID"
GID: Final = b"$LXGID"
MODE: Final = b"$LXMOD"
DEVICE: Final = b"$LXDEV"
NAMES: Final = (UID, GID, MODE, DEVICE)

PERMISSIONS: Final = 0o7777
WRITE_BITS: Final = 0o222

# Tags of reparse points; those of WSL stand for what Windows has not.
TAG_MOUNT_POINT: Final = 0xA000_0003
TAG_SYMLINK: Final = 0xA000_000C
TAG_LX_SYMLINK: Final = 0xA000_001D
TAG_AF_UNIX: Final = 0x8000_0023
TAG_LX_FIFO: Final = 0x8000_0024
TAG_LX_CHR: Final = 0x8000_0025
TAG_LX_BLK: Final = 0x8000_0026
_NAME_SURROGATE: Final = 0x2000_0000

_TYPES: Final = {
    TAG_AF_UNIX: stat.S_IFSOCK,
    TAG_LX_FIFO: stat.S_IFIFO,
    TAG_LX_CHR: stat.S_IFCHR,
    TAG_LX_BLK: stat.S_IFBLK,
}
TAGS: Final = {kind: tag for tag, kind in _TYPES.items()}

_ELSEWHERE: Final = layouts.OFFLINE | layouts.RECALL_ON_OPEN | layouts.RECALL_ON_DATA_ACCESS

_WORD = struct.Struct("<I")
_MAJOR_MINOR = struct.Struct("<II")


@attrs.frozen
class Owners:
    """The options of a share that say what files look like."""

    uid: int = 0
    gid: int = 0
    fmask: int = 0
    dmask: int = 0
    metadata: bool = False

    def attributes(self, facts: Facts, ino: int, eas: dict[bytes, bytes]) -> Attributes:
        """Put what Windows says into the guest's words; ``eas`` may be empty."""
        kind = kind_of(facts)
        return Attributes(
            ino=ino,
            mode=kind | self._mode(kind, facts.attributes, eas),
            size=0 if kind == stat.S_IFDIR else facts.size,
            nlink=0 if facts.is_deleted else max(facts.links, 1),
            uid=_word(eas.get(UID), self.uid),
            gid=_word(eas.get(GID), self.gid),
            rdev=_device(eas.get(DEVICE)) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
            blocks=-(-facts.allocation // 512),
            atime_ns=times.to_unix(facts.access),
            mtime_ns=times.to_unix(facts.write),
            ctime_ns=times.to_unix(facts.change),
        )

    def _mode(self, kind: int, attributes: int, eas: dict[bytes, bytes]) -> int:
        if kind == stat.S_IFLNK:
            return 0o777
        mode = 0o777 & ~(self.dmask if kind == stat.S_IFDIR else self.fmask)
        mode = _word(eas.get(MODE), mode) & PERMISSIONS
        # A directory's bit only says that Explorer shows it in a way of its own.
        return mode & ~WRITE_BITS if attributes & layouts.READONLY and kind != stat.S_IFDIR else mode

    def born(self, mode: int, parent: Attributes, context: Context, rdev: int = 0) -> list[tuple[bytes, bytes]]:
        """The extended attributes of a new file of the caller; none without ``metadata``."""
        if not self.metadata:
            return []
        gid = context.gid
        if parent.mode & stat.S_ISGID:  # as Linux: the group goes on, and in directories so does the bit
            gid = parent.gid
            mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
        values = [(UID, _WORD.pack(context.uid)), (GID, _WORD.pack(gid)), (MODE, _WORD.pack(mode))]
        if stat.S_ISCHR(mode):
            values.append((DEVICE, _MAJOR_MINOR.pack(rdev >> 8 & 0xFFF, rdev & 0xFF | rdev >> 12 & 0xFFF00)))
        return values


def changed(before: Attributes, mode: int | None, uid: int | None, gid: int | None) -> list[tuple[bytes, bytes]]:
    """The extended attributes that chmod and chown write. A new owner takes setuid and setgid, see ``chown(2)``."""
    values = []
    if mode is None and (uid is not None or gid is not None) and not stat.S_ISDIR(before.mode):
        kept = before.mode & ~stat.S_ISUID
        mode = kept & ~stat.S_ISGID if kept & stat.S_IXGRP else kept
    if mode is not None:
        values.append((MODE, _WORD.pack(stat.S_IFMT(before.mode) | mode & PERMISSIONS)))
    for name, value in ((UID, uid), (GID, gid)):
        if value is not None:
            values.append((name, _WORD.pack(value)))
    return values


def kind_of(file: Facts | Row) -> int:
    """The type bits of a file. What stands for another place is a link, whether or not its target can be told."""
    if file.tag in _TYPES:
        return _TYPES[file.tag]
    if file.tag & _NAME_SURROGATE:
        return stat.S_IFLNK
    return stat.S_IFDIR if file.attributes & layouts.DIRECTORY else stat.S_IFREG


def is_elsewhere(file: Facts) -> bool:
    """Whether reading would fetch the content from a cloud or a tape first, which may take for ever."""
    return bool(file.attributes & _ELSEWHERE)


def allows(attributes: Attributes, mask: int, context: Context) -> bool:
    """Whether the mode bits let the caller do what ``mask`` says, see ``access(2)``."""
    if context.uid == 0:
        return bool(stat.S_ISDIR(attributes.mode) or attributes.mode & 0o111) or not mask & 1
    if context.uid == attributes.uid:
        granted = attributes.mode >> 6
    elif context.gid == attributes.gid:
        granted = attributes.mode >> 3
    else:
        granted = attributes.mode
    return not mask & ~granted & 0o7


def _word(value: bytes | None, otherwise: int) -> int:
    return int.from_bytes(value, "little") if value is not None and len(value) == _WORD.size else otherwise


def _device(value: bytes | None) -> int:
    """The kernel's 32-bit encoding of major and minor."""
    if value is None or len(value) != _MAJOR_MINOR.size:
        return 0
    major, minor = (int(number) for number in _MAJOR_MINOR.unpack(value))
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & 0xFFF00) << 12
