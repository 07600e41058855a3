"""open(2): flags by kinds by users, and what a descriptor then is good for."""

import contextlib
import os
import struct

from attempts import OTHER, acting_as, in_child, look, make, opened, opens, tried
from calls import AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, linkat, readlinkat
from cases import case, octal

ACCESS = {"rdonly": os.O_RDONLY, "wronly": os.O_WRONLY, "rdwr": os.O_RDWR}
FLAGS = {
    "-": 0,
    "creat": os.O_CREAT,
    "creat,excl": os.O_CREAT | os.O_EXCL,
    "trunc": os.O_TRUNC,
    "creat,trunc": os.O_CREAT | os.O_TRUNC,
    "directory": os.O_DIRECTORY,
    "creat,directory": os.O_CREAT | os.O_DIRECTORY,
    "nofollow": os.O_NOFOLLOW,
    "creat,nofollow": os.O_CREAT | os.O_NOFOLLOW,
    "append": os.O_APPEND,
    "append,trunc": os.O_APPEND | os.O_TRUNC,
    "path": os.O_PATH,
    "path,nofollow": os.O_PATH | os.O_NOFOLLOW,
    "path,directory": os.O_PATH | os.O_DIRECTORY,
    "noatime": os.O_NOATIME,
    "direct": os.O_DIRECT,
    "sync": os.O_SYNC,
    "tmpfile": os.O_TMPFILE,
}


@case(
    user=("owner", "other"),
    kind=("missing", "file", "dir", "symlink", "dangling", "fifo", "socket"),
    access=ACCESS,
    flags=FLAGS,
)
def flagged(user, kind, access, flags):
    make(kind)
    with acting_as(user):
        told = opens("x", access | flags)
    return told, look(), look("x.target"), look("nowhere")


@case(user=("root", "owner", "other"), flags=FLAGS)
def without_any_right(user, flags):
    make("file", mode=0)
    with acting_as(user):
        return opens("x", os.O_RDWR | flags), look()


@case(user=("root", "owner", "other"), flags=FLAGS, mode=octal(0o555, 0o755, 0o1777))
def where_root_owns_the_directory(user, flags, mode):
    make("dir", "d", mode, owner=0)
    with acting_as(user):
        return opens("d/x", os.O_RDWR | flags), opens("d", flags), look("d/x")


@case(name=("x/", "x/.", "x/y", "d/", "d/.", "missing/", "missing/x", "", ".", "..", "l/", "l/x"), flags=FLAGS)
def by_name(name, flags):
    make("file", "x")
    make("dir", "d")
    os.symlink("d", "l")
    return opens(name, flags), look("missing"), look("l/x")


@case(kind=("file", "dir", "fifo", "socket", "symlink", "dangling"))
def a_reference(kind):
    """O_PATH refers to a file and opens nothing."""
    make(kind)
    with opened("x", os.O_PATH | os.O_NOFOLLOW) as descriptor:
        path = f"/proc/self/fd/{descriptor}"
        return (
            look(descriptor),
            tried(os.read, descriptor, 1),
            tried(os.write, descriptor, b"x"),
            tried(os.fsync, descriptor),
            tried(os.ftruncate, descriptor, 0),
            tried(os.lseek, descriptor, 0, os.SEEK_SET),
            tried(os.utime, descriptor, (1, 1)),
            tried(readlinkat, descriptor, b"", 100),
            tried(linkat, "", "empty", AT_EMPTY_PATH, descriptor),
            tried(linkat, path, "again", AT_SYMLINK_FOLLOW),
            look("again"),
            opens(path, os.O_RDONLY),
            opens(path, os.O_WRONLY | os.O_TRUNC),
            look(),
        )


@case(
    user=("root", "owner", "other"), mode=octal(0o600, 0o640, 0o6777), group_of=("plain", "setgid"), excl=(False, True)
)
def nameless(user, mode, group_of, excl):
    """O_TMPFILE, and the name it may be given afterwards."""
    make("dir", "d", {"plain": 0o777, "setgid": 0o2777}[group_of], owner=OTHER)
    flags = os.O_RDWR | os.O_TMPFILE | (os.O_EXCL if excl else 0)

    def session():
        with opened("d", flags, mode) as descriptor:
            told = [look(descriptor), os.write(descriptor, b"hidden"), os.listdir("d")]
            os.setresuid(0, 0, 0)
            told.append(tried(linkat, f"/proc/self/fd/{descriptor}", "d/x", AT_SYMLINK_FOLLOW))
            return [*told, look(descriptor), look("d/x"), os.listdir("d")]

    with acting_as(user):
        return tried(session)


@case(kind=("file", "missing"), user=("owner", "other"), mode=octal(0o000, 0o200, 0o400, 0o600))
def what_it_made_may_be_written(kind, user, mode):
    """The mode of a new file does not bind the one who made it, nor the descriptor afterwards."""
    make(kind)

    def session():
        with opened("x", os.O_RDWR | os.O_CREAT, mode) as descriptor:
            return os.write(descriptor, b"12"), os.pread(descriptor, 2, 0), opens("x", os.O_RDWR)

    with acting_as(user):
        return tried(session), look()


@case(access=ACCESS, append=(0, os.O_APPEND))
def descriptor(access, append):
    make("file")
    with opened("x", access | append) as descriptor:
        return (
            tried(os.write, descriptor, b"AB"),
            tried(os.pread, descriptor, 20, 0),
            tried(os.pwrite, descriptor, b"C", 1),
            tried(os.lseek, descriptor, 0, os.SEEK_CUR),
            tried(os.ftruncate, descriptor, 3),
            tried(os.fchmod, descriptor, 0o600),
            look(),
        )


@case(access=("r", "w"))
def of_a_program_that_runs(access):
    """ETXTBSY, both ways."""
    make_program("x")
    if access == "w":
        with opened("x", os.O_RDWR):
            return in_child(lambda: os.execv("x", ["x"]))
    with running("x"):
        return opens("x", os.O_RDWR), tried(os.truncate, "x", 0), tried(os.unlink, "x")


@case()
def truncating_a_program_that_runs():
    """ETXTBSY to a descriptor that may not even write; and whether the program outlives it."""
    make_program("x")
    with running("x"):
        return opens("x", os.O_RDONLY | os.O_TRUNC), os.stat("x").st_size


@contextlib.contextmanager
def running(name):
    """A child that runs a program, killed in the end."""
    reading, writing = os.pipe()  # whose other end closes when exec has happened
    os.set_inheritable(writing, False)
    child = os.fork()
    if not child:
        try:
            os.execv(name, [name])
        finally:
            os._exit(1)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    try:
        yield
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def make_program(name):
    """The smallest program for x86-64 that waits: an ELF header, one segment, ``pause`` for ever."""
    code = b"\xb8\x22\0\0\0\x0f\x05\xeb\xf7"
    at, size = 0x400000, 120 + len(code)
    header = (
        b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, at + 120, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, at, at, size, size, 0x1000)
    with open(name, "wb") as file:
        file.write(header + segment + code)
    os.chmod(name, 0o755)
