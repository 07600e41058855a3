"""unlink(2) and rmdir(2): who may, what may not, and what lives on as long as somebody holds it."""

import os

from attempts import KINDS, OTHER, OWNER, USERS, acting_as, in_child, look, make, opened, opens, tried
from calls import AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, linkat
from cases import case

CALLS = {"unlink": os.unlink, "rmdir": os.rmdir}
PARENTS = {"open": (0o777, 0), "of-root": (0o755, 0), "sticky": (0o1777, 0), "sticky-own": (0o1777, OWNER)}


@case(call=CALLS, kind=("missing", *KINDS, "full"), user=USERS, parent=PARENTS)
def removed(call, kind, user, parent):
    make("dir", "d", parent[0], owner=parent[1])
    make(kind, "d/x")
    with acting_as(user):
        return tried(call, "d/x"), look("d/x"), look("d")


@case(call=CALLS, user=USERS, owner=(0, OWNER, OTHER))
def from_a_sticky_directory(call, user, owner):
    make("dir", "d", 0o1777, owner=OTHER)
    make({"unlink": "file", "rmdir": "dir"}[CALLS_BY_FUNCTION[call]], "d/x", owner=owner)
    with acting_as(user):
        return tried(call, "d/x")


CALLS_BY_FUNCTION = {call: name for name, call in CALLS.items()}


@case(
    call=CALLS,
    name=(
        "",
        ".",
        "..",
        "d/.",
        "d/..",
        "d/",
        "e/",
        "e/.",
        "f/",
        "f/x",
        "l",
        "l/",
        "l/.",
        "l/x",
        "missing/x",
        "/",
        "d//x",
        "d/./x",
    ),
)
def by_name(call, name):
    make("full", "d")
    make("file", "d/x")
    make("dir", "e")
    make("file", "f")
    os.symlink("d", "l")
    return tried(call, name), sorted(os.listdir(".")), sorted(os.listdir("d"))


@case(flags=("r", "rw"))
def an_open_file(flags):
    make("file")
    with opened("x", os.O_RDWR if flags == "rw" else os.O_RDONLY) as descriptor:
        os.unlink("x")
        path = f"/proc/self/fd/{descriptor}"
        return (
            look(descriptor),
            os.read(descriptor, 10),
            tried(os.write, descriptor, b"more"),
            tried(os.ftruncate, descriptor, 3),
            tried(os.fchmod, descriptor, 0o600),
            tried(os.fchown, descriptor, OTHER, OTHER),
            tried(os.utime, descriptor, (1, 1)),
            tried(os.fsync, descriptor),
            look(descriptor),
            opens(path, os.O_RDONLY),
            opens(path, os.O_RDWR),
            tried(os.truncate, path, 1),
            tried(linkat, path, "again", AT_SYMLINK_FOLLOW),
            tried(linkat, "", "again", AT_EMPTY_PATH, descriptor),
            look(descriptor),
            os.listdir("."),
        )


@case(kind=KINDS)
def what_is_referred_to(kind):
    make(kind)
    with opened("x", os.O_PATH | os.O_NOFOLLOW) as descriptor:
        (os.rmdir if kind == "dir" else os.unlink)("x")
        return look(descriptor), tried(linkat, "", "again", AT_EMPTY_PATH, descriptor), look("again")


@case()
def an_open_file_and_made_again():
    make("file")
    with opened("x") as descriptor:
        os.unlink("x")
        make("file")
        os.write(descriptor, b"other")
        with open("x", "rb") as file:
            return look(descriptor), file.read(), os.fstat(descriptor).st_ino != os.stat("x").st_ino


@case()
def one_of_two_names_of_an_open_file():
    make("file")
    os.link("x", "y")
    with opened("x") as descriptor:
        os.unlink("x")
        path = f"/proc/self/fd/{descriptor}"
        return look(descriptor), look("y"), tried(linkat, path, "z", AT_SYMLINK_FOLLOW), look("z")


@case()
def an_open_directory():
    make("dir", "x")
    with opened("x", os.O_RDONLY) as descriptor:
        os.rmdir("x")
        return (
            look(descriptor),
            tried(os.listdir, descriptor),
            tried(os.open, "new", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor),
            tried(os.mkdir, "new", dir_fd=descriptor),
            tried(os.symlink, "new", "new", dir_fd=descriptor),
            tried(os.mkfifo, "new", dir_fd=descriptor),
            tried(os.stat, "new", dir_fd=descriptor),
            tried(os.fchmod, descriptor, 0o700),
            look(descriptor),
        )


@case()
def the_working_directory():
    def session():
        os.mkdir("x")
        os.chdir("x")
        os.rmdir("../x")
        return (
            tried(os.getcwd),
            tried(os.listdir, "."),
            opens("new", os.O_CREAT | os.O_WRONLY),
            opens("new", os.O_RDONLY),
            tried(os.mkdir, "new"),
            tried(os.rename, "new", "newer"),
            tried(os.rmdir, "../x"),
            look("."),
            tried(os.chdir, ".."),
            look("x"),
        )

    return in_child(session)


@case(count=(1, 100))
def all_in_a_directory(count):
    make("dir", "d")
    for number in range(count):
        make("file", f"d/{number}")
    told = tried(os.rmdir, "d")
    for number in range(count):
        os.unlink(f"d/{number}")
    return told, os.listdir("d"), tried(os.rmdir, "d")
