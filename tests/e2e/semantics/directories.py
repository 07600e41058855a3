"""Listing: everything once, also while it changes, and places to go back to."""

import os

from attempts import KINDS, look, make, opened, tried
from calls import Directory
from cases import case


def fill(count):
    os.mkdir("d")
    for number in range(count):
        os.close(os.open(f"d/{number:04}-a-name-of-some-length", os.O_CREAT | os.O_WRONLY, 0o644))


def names(path="d"):
    stream = Directory(path)
    try:
        return stream.rest()
    finally:
        stream.close()


@case(count=(0, 1, 2, 100, 400))
def complete(count):
    fill(count)
    listed = names()
    return (
        len(listed),
        len(set(listed)),
        {".", ".."} <= set(listed),
        sorted(listed) == sorted({".", "..", *os.listdir("d")}),
    )


@case(count=(10, 200), every=(1, 3))
def while_names_go(count, every):
    """What is there all the time is listed once, whatever goes meanwhile."""
    fill(count)
    stream = Directory("d")
    listed, gone = [], set()
    while (name := stream.read()) is not None:
        listed.append(name)
        if name not in (".", "..") and len(listed) % every == 0:
            os.unlink(f"d/{name}")
            gone.add(name)
    stream.close()
    kept = set(os.listdir("d"))
    return len(listed), len(set(listed)), kept <= set(listed), not kept & gone


@case(count=(10, 200))
def while_names_come(count):
    fill(count)
    before = set(os.listdir("d"))
    stream = Directory("d")
    listed = []
    while (name := stream.read()) is not None:
        listed.append(name)
        if len(listed) <= 20:
            make("file", f"d/new{len(listed)}")
    stream.close()
    return before <= set(listed), len(listed) == len(set(listed))


@case(count=(10, 200))
def while_names_change(count):
    fill(count)
    stream = Directory("d")
    listed = []
    while (name := stream.read()) is not None:
        listed.append(name)
        if name[0] == "0":
            os.rename(f"d/{name}", f"d/1{name}")
    stream.close()
    return len(os.listdir("d")), {name[-20:] for name in listed} == {
        name[-20:] for name in (".", "..", *os.listdir("d"))
    }


@case(count=(5, 300), place=(0, 1, 4, 7, 250))
def gone_back(count, place):
    fill(count)
    stream = Directory("d")
    for _ in range(place):
        stream.read()
    position = stream.tell()
    first = stream.rest()
    stream.seek(position)
    second = stream.rest()
    stream.seek(0)
    whole = stream.rest()
    stream.close()
    return first == second, len(whole), len(first)


@case()
def started_anew():
    fill(5)
    stream = Directory("d")
    before = len(stream.rest())
    make("file", "d/new")
    stream.rewind()
    after = len(stream.rest())
    os.unlink("d/new")
    stream.rewind()
    told = before, after, len(stream.rest())
    stream.close()
    return told


@case(kind=("missing", *KINDS))
def of_kind(kind):
    make(kind)
    return tried(os.listdir, "x")


@case()
def kinds_are_told():
    for kind in KINDS:
        make(kind, kind)
    with os.scandir(".") as entries:
        return sorted(
            (one.name, one.is_dir(follow_symlinks=False), one.is_file(follow_symlinks=False), one.is_symlink())
            for one in entries
        )


@case()
def numbers_are_those_of_stat():
    for kind in KINDS:
        make(kind, kind)
    with os.scandir(".") as entries:
        return all(one.inode() == os.lstat(one.name).st_ino for one in entries)


@case()
def parents():
    os.makedirs("a/b/c")
    same = os.path.samefile
    return same("a/b/..", "a"), same("a/b/c/../..", "a"), same("a/.", "a"), not same("a/..", "a"), look("a/b/..")


@case()
def by_descriptor():
    fill(3)
    with opened("d", os.O_RDONLY) as descriptor:
        first = sorted(os.listdir(descriptor))
        os.unlink(first[0], dir_fd=descriptor)
        second = sorted(os.listdir(descriptor))
        return first, second, tried(os.fchdir, descriptor), sorted(os.listdir("."))


@case(change=("create", "unlink", "rename", "rmdir", "mkdir"))
def a_second_list_is_new(change):
    """What a directory held is not told from memory once it has changed."""
    fill(3)
    os.mkdir("d/sub")
    before = sorted(os.listdir("d"))
    calls = {
        "create": lambda: make("file", "d/new"),
        "unlink": lambda: os.unlink(f"d/{before[0]}"),
        "rename": lambda: os.rename(f"d/{before[0]}", "d/new"),
        "rmdir": lambda: os.rmdir("d/sub"),
        "mkdir": lambda: os.mkdir("d/new"),
    }
    calls[change]()
    return sorted(os.listdir("d")), look("d")


@case(count=(1, 300))
def emptied(count):
    fill(count)
    for name in os.listdir("d"):
        os.unlink(f"d/{name}")
    return os.listdir("d"), len(names()), tried(os.rmdir, "d")
