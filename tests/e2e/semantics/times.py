"""Times: who may set them to what, and which of the three a call changes."""

import ctypes
import mmap
import os

from attempts import CONTENT, KINDS, USERS, acting_as, look, make, opened, shown, tried
from calls import STATX_BASIC, STATX_BTIME, fallocate, statx
from cases import case, octal

OLD = (1_000_000_000_123_456_789, 900_000_000_987_654_321)
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2
VALUES = {"now": NOW, "omit": OMIT, "set": 555}
AT_SYMLINK_NOFOLLOW = 0x100
LIBC = ctypes.CDLL(None, use_errno=True)


def utimensat(name, atime, mtime, flags=0):
    """With seconds 77 and the nanoseconds, which say what to do."""
    times = (ctypes.c_long * 4)(77, atime, 77, mtime)
    if LIBC.utimensat(-100, name.encode(), times, flags) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@case(user=USERS, kind=("file", "dir"), mode=octal(0o644, 0o666), atime=VALUES, mtime=VALUES)
def set_to(user, kind, mode, atime, mtime):
    make(kind, mode=mode)
    before = aged("x")
    with acting_as(user):
        return tried(utimensat, "x", atime, mtime), changes("x", before)


@case(user=USERS, kind=KINDS, follow=(True, False), value=VALUES)
def set_of_a_kind(user, kind, follow, value):
    make(kind)
    before = aged("x")
    with acting_as(user):
        told = tried(utimensat, "x", value, value, 0 if follow else AT_SYMLINK_NOFOLLOW)
    return told, changes("x", before)


@case(atime=(-1, 10**9, 5), mtime=(-1, 10**9, 5))
def set_to_nonsense(atime, mtime):
    make("file")
    return tried(utimensat, "x", atime, mtime)


@case(seconds=(-1, 0, 1, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 33, -(1 << 31), -(1 << 31) - 1, 1 << 34, 1 << 40))
def set_to_the_ends_of_time(seconds):
    make("file")
    told = tried(os.utime, "x", (seconds, seconds))
    status = os.stat("x")
    return told, status.st_atime_ns, status.st_mtime_ns


@case(name=("missing", "x/", "x/y", ""))
def set_by_name(name):
    make("file")
    return tried(os.utime, name, (1, 1))


def aged(name):
    """Give it old times, and wait until its clock says something later than when that was done."""
    os.utime(name, ns=OLD, follow_symlinks=False)
    before = os.lstat(name)
    if not os.path.lexists("clock"):
        os.close(os.open("clock", os.O_CREAT | os.O_WRONLY, 0o666))
    while os.stat("clock").st_ctime_ns <= before.st_ctime_ns:
        os.utime("clock")
    return before


def changes(name, before):
    """What became of the three times."""
    after = os.fstat(name) if isinstance(name, int) else os.lstat(name)
    return [
        word(getattr(before, which), getattr(after, which)) for which in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")
    ]


def word(before, after):
    if after == before:
        return "same"
    return "set" if after == 77_000_000_555 else "now" if after > 1_700_000_000_000_000_000 else str(after)


FILE_CALLS = {
    "nothing": lambda fd: None,
    "stat": lambda fd: os.stat("x").st_mode,
    "open": lambda fd: os.close(os.open("x", os.O_RDWR)),
    "open-trunc": lambda fd: os.close(os.open("x", os.O_RDWR | os.O_TRUNC)),
    "open-creat": lambda fd: os.close(os.open("x", os.O_RDWR | os.O_CREAT)),
    "read": lambda fd: os.read(fd, 3),
    "read-end": lambda fd: os.pread(fd, 3, 100),
    "read-nothing": lambda fd: os.read(fd, 0),
    "write": lambda fd: os.write(fd, b"new"),
    "write-nothing": lambda fd: os.write(fd, b""),
    "append": lambda fd: os.pwrite(fd, b"new", 7),
    "truncate-same": lambda fd: os.truncate("x", 7),
    "truncate-less": lambda fd: os.truncate("x", 3),
    "truncate-more": lambda fd: os.truncate("x", 30),
    "ftruncate-same": lambda fd: os.ftruncate(fd, 7),
    "ftruncate-less": lambda fd: os.ftruncate(fd, 3),
    "fallocate": lambda fd: fallocate(fd, 0, 0, 5000),
    "fallocate-keep": lambda fd: fallocate(fd, 1, 0, 5000),
    "punch": lambda fd: fallocate(fd, 3, 0, 5),
    "chmod": lambda fd: os.chmod("x", 0o600),
    "chmod-same": lambda fd: os.chmod("x", 0o644),
    "fchmod": lambda fd: os.fchmod(fd, 0o600),
    "chown": lambda fd: os.chown("x", 1, 1),
    "chown-same": lambda fd: os.chown("x", 1000, 1000),
    "chown-nobody": lambda fd: os.chown("x", -1, -1),
    "link": lambda fd: os.link("x", "y"),
    "rename": lambda fd: os.rename("x", "y"),
    "unlink": lambda fd: os.unlink("x"),
    "unlink-other-name": lambda fd: os.unlink("z"),
    "access": lambda fd: os.access("x", 7),
    "fsync": lambda fd: os.fsync(fd),
    "seek": lambda fd: os.lseek(fd, 3, os.SEEK_SET),
    "setxattr": lambda fd: os.setxattr("x", "user.a", b"1"),
    "getxattr": lambda fd: os.getxattr("x", "user.z"),
    "removexattr": lambda fd: os.removexattr("x", "user.z"),
    "copy-from": lambda fd: copy(fd, "w"),
    "copy-to": lambda fd: copy("w", fd),
    "sendfile": lambda fd: send(fd),
    "map-read": lambda fd: mapped(fd, False),
    "map-write": lambda fd: mapped(fd, True),
}
DIRECTORY_CALLS = {
    "create": lambda: os.close(os.open("x/new", os.O_CREAT | os.O_WRONLY)),
    "open-existing": lambda: os.close(os.open("x/inside", os.O_CREAT | os.O_WRONLY)),
    "write-inside": lambda: os.truncate("x/inside", 1),
    "chmod-inside": lambda: os.chmod("x/inside", 0o600),
    "mkdir": lambda: os.mkdir("x/new"),
    "rmdir": lambda: os.rmdir("x/empty"),
    "symlink": lambda: os.symlink("a", "x/new"),
    "mkfifo": lambda: os.mkfifo("x/new"),
    "link": lambda: os.link("x/inside", "x/new"),
    "unlink": lambda: os.unlink("x/inside"),
    "rename-inside": lambda: os.rename("x/inside", "x/new"),
    "rename-over": lambda: os.rename("x/inside", "x/second"),
    "rename-out": lambda: os.rename("x/inside", "new"),
    "rename-in": lambda: os.rename("other", "x/new"),
    "rename-itself": lambda: os.rename("x", "new"),
    "list": lambda: len(os.listdir("x")),
    "look-up": lambda: os.path.exists("x/missing"),
    "chmod": lambda: os.chmod("x", 0o700),
    "stat": lambda: os.stat("x").st_mode,
    "failed-mkdir": lambda: os.mkdir("x/inside"),
    "failed-unlink": lambda: os.unlink("x/missing"),
    "failed-rmdir": lambda: os.rmdir("x"),
}
LINK_CALLS = {
    "readlink": lambda: os.readlink("x"),
    "lstat": lambda: os.lstat("x").st_mode,
    "follow": lambda: os.stat("x").st_mode,
    "lchown": lambda: os.lchown("x", 1, 1),
    "rename": lambda: os.rename("x", "y"),
    "link": lambda: os.link("x", "y", follow_symlinks=False),
}


@case(call=FILE_CALLS)
def of_a_file(call):
    make("file")
    make("file", "w")
    os.link("x", "z")
    if call in (FILE_CALLS["getxattr"], FILE_CALLS["removexattr"]):
        os.setxattr("x", "user.z", b"1")
    with opened("x") as descriptor:
        before = aged("x")
        told = tried(call, descriptor)
        return told, changes(descriptor, before)


@case(call=DIRECTORY_CALLS)
def of_a_directory(call):
    make("full")
    os.mkdir("x/empty")
    make("file", "x/second")
    make("file", "other")
    with opened("x", os.O_RDONLY) as descriptor:
        before = aged("x")
        told = tried(call)
        return told, changes(descriptor, before)


@case(call=LINK_CALLS)
def of_a_link(call):
    make("symlink")
    with opened("x", os.O_PATH | os.O_NOFOLLOW) as descriptor:
        before = aged("x")
        told = tried(call)
        return told, changes(descriptor, before)


@case(
    make_it={
        "file": lambda: make("file", "d/x"),
        "dir": lambda: os.mkdir("d/x"),
        "symlink": lambda: os.symlink("a", "d/x"),
    }
)
def of_a_new_one(make_it):
    """All three are now, and so are two of the directory's."""
    make("dir", "d")
    before = aged("d")
    make_it()
    new = os.lstat("d/x")
    return changes("d", before), [
        time > before.st_ctime_ns for time in (new.st_atime_ns, new.st_mtime_ns, new.st_ctime_ns)
    ]


@case(kind=KINDS)
def known_by_statx(kind):
    make(kind)
    mask, mode = statx("x", AT_SYMLINK_NOFOLLOW, STATX_BASIC | STATX_BTIME)
    return mask & STATX_BASIC, mode


@case()
def born_when_made():
    make("file")
    return statx("x", 0, STATX_BTIME)[0] & STATX_BTIME


def copy(source, target):
    """Between a descriptor and a name."""
    with opened("w") as other:
        source, target = (other if isinstance(one, str) else one for one in (source, target))
        return os.copy_file_range(source, target, 3)


def send(descriptor):
    """By way of the page cache, into a pipe."""
    reading, writing = os.pipe()
    count = os.sendfile(writing, descriptor, 0, 5)
    told = os.read(reading, 10)
    os.close(reading)
    os.close(writing)
    return count, told


def mapped(descriptor, writes):
    """Through memory."""
    with mmap.mmap(descriptor, len(CONTENT)) as memory:
        if writes:
            memory[0] = 65
            memory.flush()
        return shown(memory[:]), look()
