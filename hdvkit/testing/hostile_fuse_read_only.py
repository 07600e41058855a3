"""Attacks on a read-only share: every request by which a hostile guest could change it, whatever its mount says.

The root of the share holds ``file``, ``dir`` with ``inner`` in it, and ``link``. That all get the same answer, and
which one, stands in the table.
"""

import os
from collections.abc import Mapping
from struct import pack
from typing import Final

from hdvkit.testing.fuse_messages import ROOT_ID, Fattr, Opcode, Open
from hdvkit.testing.hostile_fuse_guest import (
    CREATE_IN,
    MKNOD_IN,
    MODE_IN,
    Attack,
    HostileGuest,
    alike,
    copy_in,
    io,
    request,
    setattr_in,
)


def _ro(opcode: int, body: bytes, name: bytes = b"file") -> Attack:
    async def attack(guest: HostileGuest) -> None:
        entry = await guest.client.lookup(ROOT_ID, name)
        await guest.send(opcode, entry.nodeid, body)

    return attack


async def _ro_write(guest: HostileGuest) -> None:
    entry = await guest.client.lookup(ROOT_ID, b"file")
    opened = await guest.client.open(entry.nodeid, Open.RDONLY)
    node, fh = entry.nodeid, opened.fh
    await alike(
        request(Opcode.WRITE, node, io(fh, 0, 1, b"x")),
        request(Opcode.FALLOCATE, node, pack("<QQQII", fh, 0, 8, 0, 0)),
        request(Opcode.SETATTR, node, setattr_in(Fattr.FH | Fattr.SIZE, fh=fh)),
        request(Opcode.COPY_FILE_RANGE, node, copy_in(fh, node, fh)),
        request(Opcode.COPY_FILE_RANGE_64, node, copy_in(fh, node, fh)),
        request(Opcode.IOCTL, node, pack("<QIIQII", fh, 0, 0x40086602, 0, 8, 0) + bytes(8)),
    )(guest)


async def _ro_setxattr(guest: HostileGuest) -> None:
    entry = await guest.client.lookup(ROOT_ID, b"file")
    await guest.client.setxattr(entry.nodeid, b"user.name", b"v")


async def _ro_link(guest: HostileGuest) -> None:
    entry = await guest.client.lookup(ROOT_ID, b"file")
    await guest.send(Opcode.LINK, ROOT_ID, pack("<Q", entry.nodeid) + b"new\0")


def _openings(opcode: int, name: bytes, *flags: int) -> Attack:
    return alike(*(_ro(opcode, pack("<II", flag, 0), name) for flag in flags))


KILL_SUIDGID = 1  # of FUSE_OPEN: have the server take setuid and setgid from the file

_WORD = pack("<Q", ROOT_ID)
_TIMES = Fattr.ATIME | Fattr.MTIME | Fattr.ATIME_NOW | Fattr.MTIME_NOW
_CHATTR = pack("<QIIQII", 0, 0, 0x40086602, 0, 8, 0) + bytes(8)

READ_ONLY: Final[Mapping[str, Attack]] = {
    "setattr-mode": _ro(Opcode.SETATTR, setattr_in(Fattr.MODE, mode=0o777)),
    "setattr-owner": _ro(Opcode.SETATTR, setattr_in(Fattr.UID | Fattr.GID, owner=1000)),
    "setattr-size": _ro(Opcode.SETATTR, setattr_in(Fattr.SIZE)),
    "setattr-atime": _ro(Opcode.SETATTR, setattr_in(Fattr.ATIME, seconds=1)),
    "setattr-now": _ro(Opcode.SETATTR, setattr_in(_TIMES)),
    "setattr-nothing": _ro(Opcode.SETATTR, setattr_in(0)),
    "symlink": request(Opcode.SYMLINK, body=b"new\0target\0"),
    "mknod": request(Opcode.MKNOD, body=MKNOD_IN + b"new\0"),
    "mkdir": request(Opcode.MKDIR, body=MODE_IN + b"new\0"),
    "unlink": request(Opcode.UNLINK, body=b"file\0"),
    "rmdir": request(Opcode.RMDIR, body=b"dir\0"),
    "rename": request(Opcode.RENAME, body=_WORD + b"file\0new\0"),
    "rename-exchange": request(Opcode.RENAME2, body=_WORD + pack("<II", 2, 0) + b"file\0dir\0"),
    "link": _ro_link,
    "create": request(Opcode.CREATE, body=CREATE_IN + b"new\0"),
    "create-existing": request(Opcode.CREATE, body=pack("<IIII", Open.CREAT, 0o644, 0, 0) + b"file\0"),
    "tmpfile": request(Opcode.TMPFILE, body=CREATE_IN + b"/\0"),
    "setxattr": _ro_setxattr,
    "removexattr": _ro(Opcode.REMOVEXATTR, b"user.name\0"),
    "by-reader": _ro_write,
    "ioctl": _ro(Opcode.IOCTL, _CHATTR),
    "open-writing": _openings(Opcode.OPEN, b"file", Open.WRONLY, Open.RDWR, Open.ACCMODE),
    "open-truncating": _openings(Opcode.OPEN, b"file", Open.TRUNC, Open.RDWR | Open.TRUNC),
    "open-creating": _openings(Opcode.OPEN, b"file", Open.CREAT, Open.APPEND),
    "open-taking-setuid": _ro(Opcode.OPEN, pack("<II", Open.RDONLY, KILL_SUIDGID)),
    "opendir-writing": _openings(Opcode.OPENDIR, b"dir", Open.WRONLY, Open.RDWR, Open.TRUNC),
    "access-write": _ro(Opcode.ACCESS, pack("<II", os.W_OK, 0)),
    "access-all": _ro(Opcode.ACCESS, pack("<II", 7, 0)),
}
"""What a guest must not do, by name."""
