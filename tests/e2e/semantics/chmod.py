"""Modes: who may change them, and which bits are taken away on the way."""

import os

from attempts import EXTRA, KINDS, OTHER, USERS, acting_as, look, make, opened, tried
from cases import case, octal

MODES = octal(0o000, 0o644, 0o755, 0o1777, 0o2755, 0o2644, 0o4755, 0o7777)


@case(user=USERS, kind=("file", "dir", "fifo", "socket", "symlink", "dangling"), mode=MODES)
def changed(user, kind, mode):
    make(kind)
    with acting_as(user):
        told = tried(os.chmod, "x", mode)
    return told, look(), look("x.target")


@case(user=USERS, kind=("file", "dir"), mode=octal(0o600, 0o2755, 0o6711))
def by_descriptor(user, kind, mode):
    make(kind)
    with opened("x", os.O_RDONLY) as descriptor, acting_as(user):
        return tried(os.fchmod, descriptor, mode), look(descriptor), look()


@case(user=USERS, kind=("file", "dir", "fifo"), group=(EXTRA, OTHER), mode=octal(0o2755, 0o2640, 0o6777))
def in_a_group(user, kind, group, mode):
    """Setgid needs a member of the group, who need not be in it by its first group."""
    make(kind, group=group)
    with acting_as(user):
        return tried(os.chmod, "x", mode), look()


@case(kind=KINDS)
def by_a_reference(kind):
    make(kind)
    with opened("x", os.O_PATH | os.O_NOFOLLOW) as descriptor:
        return tried(os.fchmod, descriptor, 0o600), look()


@case(name=("missing", "x/below", "x/", "x.target/", ""))
def by_name(name):
    make("symlink")
    return tried(os.chmod, name, 0o600)


@case(user=USERS, parent=octal(0o700, 0o755, 0o744))
def behind_a_directory(user, parent):
    make("dir", "d", parent, owner=OTHER)
    make("file", "d/x")
    with acting_as(user):
        return tried(os.chmod, "d/x", 0o600), look("d/x")
