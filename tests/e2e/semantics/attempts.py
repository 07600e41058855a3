"""What cases are made of: users, files of all kinds, calls that may fail, and what can be told of a file."""

import contextlib
import errno
import json
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

OWNER, MEMBER, OTHER, EXTRA = 1000, 1001, 1002, 3000

_IDS = {
    "root": (0, 0, []),
    "owner": (OWNER, OWNER, [EXTRA]),
    "member": (MEMBER, MEMBER, [OWNER]),
    "other": (OTHER, OTHER, []),
}

USERS = tuple(_IDS)
"""Who acts: root, the owner of the files, a member of their group, and somebody else."""

CONTENT = b"content"
KINDS = ("file", "dir", "fifo", "socket", "symlink", "dangling")
"""All that can be made on a share."""

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


@contextlib.contextmanager
def acting_as(user: str) -> Iterator[None]:
    """Be another user, with no capability in effect but root's own, and root again in the end."""
    uid, gid, groups = _IDS[user]
    os.setgroups(groups)
    os.setresgid(gid, gid, 0)
    os.setresuid(uid, uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups([])


def tried(call: Callable[..., object], *arguments: object, **named: object) -> object:
    """What a call returns, or the name of its errno."""
    try:
        return shown(call(*arguments, **named))
    except OSError as error:
        if isinstance(error, TimeoutError) and error.errno is None:
            raise
        return errno.errorcode.get(error.errno or 0, str(error))


def shown(value: object) -> object:
    """A value as JSON knows it."""
    if value is None:
        return "ok"
    if isinstance(value, bytes):
        return value.decode("latin-1") if len(value) < 100 else f"{len(value)} bytes, {hash_of(value)}"
    if isinstance(value, list | tuple):
        return [shown(one) for one in value]
    if isinstance(value, dict):
        return {str(key): shown(one) for key, one in value.items()}
    return value


def hash_of(value: bytes) -> int:
    """Tells long contents apart."""
    return zlib.crc32(value)


def write(name: str, data: bytes = CONTENT) -> None:
    """Make a file, or fill it."""
    Path(name).write_bytes(data)


def make(kind: str, name: str = "x", mode: int | None = None, owner: int = OWNER, group: int | None = None) -> None:
    """Make something that belongs to ``owner``; with the usual mode, unless told."""
    if kind == "missing":
        return
    if kind == "file":
        write(name)
    elif kind in ("dir", "full"):
        os.mkdir(name, 0o755)
        if kind == "full":
            write(f"{name}/inside")
    elif kind in ("fifo", "socket"):
        os.mknod(name, {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK}[kind] | 0o644)
    elif kind == "symlink":
        make("file", f"{name}.target", mode, owner, group)
        os.symlink(f"{name}.target", name)
    elif kind == "dangling":
        os.symlink("nowhere", name)
    os.lchown(name, owner, owner if group is None else group)
    if mode is not None and kind not in ("symlink", "dangling"):
        os.chmod(name, mode)


def look(name: str | int = "x") -> str:
    """Kind, mode, owner, number of names and size; of directories no size, which is their file system's business."""
    try:
        status = os.fstat(name) if isinstance(name, int) else os.lstat(name)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return described(status)


def described(status: os.stat_result) -> str:
    """The same of what ``stat`` returned."""
    kind = _TYPES[stat.S_IFMT(status.st_mode)]
    size = "" if kind == "dir" else f" {status.st_size} bytes"
    owner = f"{status.st_uid}:{status.st_gid}"
    return f"{kind} {stat.S_IMODE(status.st_mode):04o} {owner} {status.st_nlink} names{size}"


def opens(name: str, flags: int, mode: int = 0o666) -> object:
    """Whether it can be opened. Never waits for the other end of a fifo."""
    try:
        descriptor = os.open(name, flags | os.O_NONBLOCK, mode)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    os.close(descriptor)
    return "ok"


@contextlib.contextmanager
def opened(name: str, flags: int = os.O_RDWR, mode: int = 0o666) -> Iterator[int]:
    """A descriptor that is closed in the end."""
    descriptor = os.open(name, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def in_child(function: Callable[[], object]) -> object:
    """What a function returns in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, json.dumps(tried(function)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer) if answer else "the child died"
