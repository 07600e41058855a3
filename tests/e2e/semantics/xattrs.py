"""Extended attributes: names, sizes, flags, kinds and users."""

import os

from attempts import KINDS, OTHER, USERS, acting_as, make, opened, shown, tried
from calls import getxattr, listxattr
from cases import case, octal

NAMES = {
    "user": "user.a",
    "trusted": "trusted.a",
    "security": "security.a",
    "system": "system.a",
    "unknown": "unknown.a",
    "no-dot": "a",
    "empty-user": "user.",
    "empty": "",
    "bytes": "user.\udcff\u65e5",
    "long": "user." + "n" * 250,
    "too-long": "user." + "n" * 251,
}
FLAGS = {"-": 0, "create": os.XATTR_CREATE, "replace": os.XATTR_REPLACE, "both": 3, "unknown": 8}


@case(name=NAMES, user=USERS, kind=("file", "dir"))
def named(name, user, kind):
    make(kind)
    with acting_as(user):
        told = tried(os.setxattr, "x", name, b"value"), tried(os.getxattr, "x", name)
    return told, tried(os.getxattr, "x", name), tried(listed, "x"), tried(os.removexattr, "x", name)


@case(kind=KINDS, name=("user.a", "trusted.a", "security.a"), follow=(True, False), user=("root", "owner"))
def of_kind(kind, name, follow, user):
    make(kind)
    with acting_as(user):
        return (
            tried(os.setxattr, "x", name, b"value", follow_symlinks=follow),
            tried(os.getxattr, "x", name, follow_symlinks=follow),
            tried(listed, "x", follow),
            tried(os.removexattr, "x", name, follow_symlinks=follow),
        )


@case(user=USERS, mode=octal(0o000, 0o400, 0o200, 0o644, 0o666), kind=("file", "dir"))
def with_mode(user, mode, kind):
    make(kind)
    os.setxattr("x", "user.old", b"old")
    os.chmod("x", mode)
    with acting_as(user):
        return (
            tried(os.setxattr, "x", "user.a", b"value"),
            tried(os.getxattr, "x", "user.old"),
            tried(listed, "x"),
            tried(os.removexattr, "x", "user.old"),
        )


@case(user=USERS)
def of_a_sticky_directory(user):
    make("dir", mode=0o1777, owner=OTHER)
    with acting_as(user):
        return tried(os.setxattr, "x", "user.a", b"1"), tried(os.getxattr, "x", "user.a")


@case(flags=FLAGS, there=(False, True))
def flagged(flags, there):
    make("file")
    if there:
        os.setxattr("x", "user.a", b"old")
    return tried(os.setxattr, "x", "user.a", b"new", flags), tried(os.getxattr, "x", "user.a")


@case(size=(0, 1, 100, 1000, 3000, 65536, 65537))
def sized(size):
    make("file")
    return tried(os.setxattr, "x", "user.a", b"v" * size), tried(os.getxattr, "x", "user.a"), tried(listed, "x")


@case(size=(0, 1, 4, 5, 6, 100, 65536, 65537, 1 << 20))
def buffered(size):
    make("file")
    tried(os.setxattr, "x", "user.a", b"value")
    tried(os.setxattr, "x", "user.empty", b"")
    return (
        tried(getxattr, "x", "user.a", size),
        tried(getxattr, "x", "user.empty", size),
        tried(getxattr, "x", "user.b", size),
    )


@case(size=(0, 1, 6, 7, 13, 14, 100, 65536))
def list_buffered(size):
    make("file")
    tried(os.setxattr, "x", "user.a", b"1")
    tried(os.setxattr, "x", "user.b", b"2")
    return tried(listxattr, "x", size)


@case(count=(0, 1, 2, 40))
def many(count):
    make("file")
    told = [tried(os.setxattr, "x", f"user.{number}", str(number).encode()) for number in range(count)]
    values = [tried(os.getxattr, "x", f"user.{number}") for number in range(count)]
    return (
        set_of(told),
        shown(values),
        listed("x"),
        set_of(tried(os.removexattr, "x", f"user.{n}") for n in range(count)),
    )


@case(kind=("file", "dir"))
def removed(kind):
    make(kind)
    missing = tried(os.removexattr, "x", "user.a")
    os.setxattr("x", "user.a", b"1")
    return (
        missing,
        tried(os.removexattr, "x", "user.a"),
        tried(os.removexattr, "x", "user.a"),
        tried(os.getxattr, "x", "user.a"),
    )


@case(access=("r", "w", "path"))
def by_descriptor(access):
    make("file")
    flags = {"r": os.O_RDONLY, "w": os.O_WRONLY, "path": os.O_PATH}[access]
    with opened("x", flags) as descriptor:
        return (
            tried(os.setxattr, descriptor, "user.a", b"value"),
            tried(os.getxattr, descriptor, "user.a"),
            tried(os.listxattr, descriptor),
            tried(os.removexattr, descriptor, "user.a"),
        )


@case(after=("rename", "link", "chmod", "write", "truncate", "unlinked", "replaced"))
def kept(after):
    make("file")
    os.setxattr("x", "user.a", b"value")
    with opened("x") as descriptor:
        calls = {
            "rename": lambda: os.rename("x", "y"),
            "link": lambda: os.link("x", "y"),
            "chmod": lambda: os.chmod("x", 0o700),
            "write": lambda: os.write(descriptor, b"new"),
            "truncate": lambda: os.truncate("x", 0),
            "unlinked": lambda: os.unlink("x"),
            "replaced": lambda: (make("file", "y"), os.rename("y", "x")),
        }
        calls[after]()
        return (
            tried(os.getxattr, descriptor, "user.a"),
            tried(os.getxattr, "x", "user.a"),
            tried(os.getxattr, "y", "user.a"),
        )


@case(name=("missing", "x/", "x/y", ""))
def by_name(name):
    make("file")
    return tried(os.setxattr, name, "user.a", b"1"), tried(os.getxattr, name, "user.a"), tried(os.listxattr, name)


def listed(name, follow=True):
    """The names, in no order."""
    return sorted(os.listxattr(name, follow_symlinks=follow))


def set_of(answers):
    """Each answer once."""
    return sorted({str(answer) for answer in answers})
