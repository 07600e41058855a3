"""truncate(2) and ftruncate(2), and what takes setuid and setgid from a file that changes."""

import mmap
import os

from attempts import KINDS, USERS, acting_as, look, make, opened, opens, shown, tried, write
from calls import fallocate
from cases import case, octal

LENGTHS = (-1, 0, 1, 7, 4095, 4096, 4097, 1 << 20, 1 << 40, 1 << 62, (1 << 63) - 1)
ACCESS = {"rdonly": os.O_RDONLY, "wronly": os.O_WRONLY, "rdwr": os.O_RDWR, "append": os.O_RDWR | os.O_APPEND}


@case(length=LENGTHS)
def truncated(length):
    make("file")
    return tried(os.truncate, "x", length), look()


@case(kind=("missing", *KINDS), user=USERS, length=(0, 100))
def of_kind(kind, user, length):
    make(kind)
    with acting_as(user):
        return tried(os.truncate, "x", length), look(), look("x.target"), look("nowhere")


@case(access=ACCESS, length=LENGTHS)
def by_descriptor(access, length):
    make("file")
    with opened("x", access) as descriptor:
        return tried(os.ftruncate, descriptor, length), look(descriptor)


@case(user=USERS, mode=octal(0o000, 0o200, 0o444, 0o020, 0o002))
def with_mode(user, mode):
    make("file", mode=mode)
    with acting_as(user):
        return tried(os.truncate, "x", 3), look()


@case(name=("missing", "x/", "x/y", "", ".", "/"))
def by_name(name):
    make("file")
    return tried(os.truncate, name, 0)


@case(first=(10, 4096, 5000), second=(0, 3, 4100, 10000), third=(4, 9000))
def what_was_cut_is_zero(first, second, third):
    write("x", b"d" * first)
    os.truncate("x", second)
    os.truncate("x", third)
    with open("x", "rb") as file:
        return look(), shown(file.read())


@case()
def while_open():
    write("x", b"0123456789" * 1000)
    with opened("x") as descriptor:
        os.lseek(descriptor, 5000, os.SEEK_SET)
        os.truncate("x", 100)
        told = os.read(descriptor, 10), os.fstat(descriptor).st_size
        os.write(descriptor, b"end")
        return told, look(descriptor), os.pread(descriptor, 5, 98)


def by_write(descriptor):
    os.write(descriptor, b"new")


def by_empty_write(descriptor):
    os.write(descriptor, b"")


def by_ftruncate(descriptor):
    os.ftruncate(descriptor, 3)


def by_same_size(descriptor):
    os.ftruncate(descriptor, 7)


def by_truncate(_):
    os.truncate("x", 3)


def by_open(_):
    os.close(os.open("x", os.O_WRONLY | os.O_TRUNC))


def by_opening_only(_):
    os.close(os.open("x", os.O_WRONLY))


def by_fallocate(descriptor):
    fallocate(descriptor, 0, 0, 8192)


def by_copying(descriptor):
    with opened("y", os.O_RDONLY) as source:
        os.copy_file_range(source, descriptor, 5)


def by_mapping(descriptor):
    with mmap.mmap(descriptor, 7) as memory:
        memory[0] = 65
        memory.flush()


def by_times(descriptor):
    os.utime(descriptor)


CHANGES = {
    "write": by_write,
    "empty-write": by_empty_write,
    "ftruncate": by_ftruncate,
    "same-size": by_same_size,
    "truncate": by_truncate,
    "open-trunc": by_open,
    "open": by_opening_only,
    "fallocate": by_fallocate,
    "copy": by_copying,
    "mmap": by_mapping,
    "utime": by_times,
}


@case(change=CHANGES, user=USERS, mode=octal(0o4777, 0o2777, 0o6777, 0o2767, 0o4666, 0o6666, 0o1777))
def takes_setid(change, user, mode):
    make("file", mode=mode)
    make("file", "y", 0o666)
    with acting_as(user), opened("x") as descriptor:
        told = tried(change, descriptor)
        return told, look(descriptor), look()


@case(user=USERS, mode=octal(0o4777, 0o6777))
def rename_and_link_leave_setid(user, mode):
    make("file", mode=mode)
    with acting_as(user):
        return tried(os.link, "x", "y"), tried(os.rename, "x", "z"), look("z"), opens("z", os.O_RDONLY), look("z")
