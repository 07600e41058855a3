"""Locks of ranges and of files, between processes and between descriptors."""

import fcntl
import os
import struct

from attempts import in_child, make, opened, tried
from cases import case

TYPES = {"read": fcntl.F_RDLCK, "write": fcntl.F_WRLCK}
RANGES = {"all": (0, 0), "head": (0, 10), "middle": (5, 10), "next": (10, 10), "far": (1 << 40, 1), "tail": (8, 0)}
KINDS = {"shared": fcntl.LOCK_SH, "exclusive": fcntl.LOCK_EX}
ACCESS = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}
FLOCK = struct.Struct("hhqqi4x")
F_OFD_GETLK, F_OFD_SETLK = 36, 37


def lock(descriptor, kind, start, length, command=fcntl.F_SETLK):
    """Take or leave a range."""
    fcntl.fcntl(descriptor, command, FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def asked(descriptor, kind, start, length, command=fcntl.F_GETLK):
    """Who is in the way: the kind, range and whether it is the parent; or that nobody is."""
    answer = fcntl.fcntl(descriptor, command, FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    found, _, start, length, process = FLOCK.unpack(answer)
    who = {os.getpid(): "self", os.getppid(): "parent", -1: "a descriptor"}.get(process, "somebody")
    return "free" if found == fcntl.F_UNLCK else [found, start, length, who]


def another(function):
    """What a second process sees, with a descriptor of its own."""

    def child():
        with opened("x") as descriptor:
            return function(descriptor)

    return in_child(child)


@case(first=TYPES, second=TYPES, first_range=RANGES, second_range=RANGES)
def between_processes(first, second, first_range, second_range):
    make("file", mode=0o666)
    with opened("x") as descriptor:
        lock(descriptor, first, *first_range)
        return another(
            lambda mine: (tried(asked, mine, second, *second_range), tried(lock, mine, second, *second_range))
        )


@case(access=ACCESS, kind=TYPES)
def need_the_access(access, kind):
    make("file")
    with opened("x", access) as descriptor:
        return tried(lock, descriptor, kind, 0, 0), tried(asked, descriptor, kind, 0, 0)


@case(start=(-1, 0, 1 << 62), length=(-1, 0, 5, (1 << 63) - 1))
def of_a_range(start, length):
    make("file")
    with opened("x") as descriptor:
        return tried(lock, descriptor, fcntl.F_WRLCK, start, length)


PROBES = ((0, 5), (5, 5), (10, 5), (15, 5), (100, 1))


@case(
    steps=(
        "w0,20 u5,5",
        "w0,20 r5,5",
        "r0,10 r10,10",
        "w0,10 w10,10",
        "w0,0 u10,0",
        "r0,20 w5,5 u0,7",
        "w0,5 w15,5 u0,0",
        "w0,5 w0,5 u0,5",
    )
)
def split_and_joined(steps):
    make("file")
    kinds = {"r": fcntl.F_RDLCK, "w": fcntl.F_WRLCK, "u": fcntl.F_UNLCK}
    with opened("x") as descriptor:
        for step in steps.split():
            lock(descriptor, kinds[step[0]], *map(int, step[1:].split(",")))
        return another(lambda mine: [asked(mine, kind, *part) for part in PROBES for kind in TYPES.values()])


@case(how=("unlock", "close", "close another", "exit", "nothing"))
def given_back(how):
    """Closing any descriptor of the file gives back all locks of the process."""
    make("file")
    with opened("x") as keeps:
        with opened("x") as other:
            if how == "exit":
                another(lambda mine: lock(mine, fcntl.F_WRLCK, 0, 0))
            else:
                lock(other if how == "close" else keeps, fcntl.F_WRLCK, 0, 0)
            if how == "unlock":
                lock(keeps, fcntl.F_UNLCK, 0, 0)
            if how not in ("close", "close another"):
                return another(lambda mine: tried(lock, mine, fcntl.F_WRLCK, 0, 0))
        return another(lambda mine: tried(lock, mine, fcntl.F_WRLCK, 0, 0))


@case(kind=TYPES)
def waited_for(kind):
    """A child waits in the kernel until the lock is free."""
    make("file")
    reading, writing = os.pipe()
    with opened("x") as descriptor:
        lock(descriptor, fcntl.F_WRLCK, 0, 0)
        child = os.fork()
        if not child:
            with opened("x") as mine:
                os.write(writing, b"1")
                lock(mine, kind, 0, 0, fcntl.F_SETLKW)
                os.write(writing, b"2")
            os._exit(0)
        first = os.read(reading, 1)
        lock(descriptor, fcntl.F_UNLCK, 0, 0)
        second = os.read(reading, 1)
        os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    return first, second


@case()
def not_inherited():
    make("file")
    with opened("x") as descriptor:
        lock(descriptor, fcntl.F_WRLCK, 0, 0)
        return in_child(lambda: tried(lock, descriptor, fcntl.F_WRLCK, 0, 0))


@case(first=KINDS, second=KINDS, where=("descriptor", "copy", "process"))
def of_the_file(first, second, where):
    make("file")
    with opened("x") as one, opened("x") as two:
        fcntl.flock(one, first | fcntl.LOCK_NB)
        if where == "copy":
            two_now = os.dup(one)
            told = tried(fcntl.flock, two_now, second | fcntl.LOCK_NB)
            os.close(two_now)
        elif where == "process":
            told = another(lambda mine: tried(fcntl.flock, mine, second | fcntl.LOCK_NB))
        else:
            told = tried(fcntl.flock, two, second | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        return told, tried(fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)


@case(access=ACCESS, kind=KINDS, what=("file", "dir"))
def of_the_file_need_nothing(access, kind, what):
    make(what)
    with opened("x", os.O_RDONLY if what == "dir" else access) as descriptor:
        return tried(fcntl.flock, descriptor, kind | fcntl.LOCK_NB)


@case(first=KINDS, second=KINDS)
def of_the_file_changed(first, second):
    make("file")
    with opened("x") as one, opened("x") as two:
        fcntl.flock(one, first)
        fcntl.flock(one, second)
        return [tried(fcntl.flock, two, kind | fcntl.LOCK_NB) for kind in KINDS.values()]


@case()
def of_the_file_lasts_with_its_copies():
    make("file")
    with opened("x") as one, opened("x") as two:
        copy = os.dup(one)
        fcntl.flock(one, fcntl.LOCK_EX)
        os.close(copy)
        held = tried(fcntl.flock, two, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        return held, tried(fcntl.flock, two, fcntl.LOCK_SH | fcntl.LOCK_NB)


@case(first=TYPES, kind=KINDS)
def both_kinds_do_not_meet(first, kind):
    make("file")
    with opened("x") as one:
        lock(one, first, 0, 0)
        return another(lambda mine: tried(fcntl.flock, mine, kind | fcntl.LOCK_NB))


@case(first=TYPES, second=TYPES, second_range=RANGES)
def of_descriptors(first, second, second_range):
    """F_OFD_SETLK: locks that belong to an open file and not to a process."""
    make("file")
    with opened("x") as one, opened("x") as two:
        told = tried(lock, one, first, 0, 10, F_OFD_SETLK)
        return (
            told,
            tried(asked, two, second, *second_range, F_OFD_GETLK),
            tried(lock, two, second, *second_range, F_OFD_SETLK),
            another(lambda mine: tried(lock, mine, second, *second_range)),
        )
