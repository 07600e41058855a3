"""Owners: who may give what to whom, and what becomes of setuid and setgid."""

import os

from attempts import EXTRA, KINDS, MEMBER, OTHER, OWNER, USERS, acting_as, look, make, opened, tried
from cases import case, octal

UIDS = (-1, 0, OWNER, OTHER)
GIDS = (-1, 0, OWNER, OTHER, EXTRA)
SETID = octal(0o4755, 0o2755, 0o6755, 0o2745, 0o6644, 0o6711, 0o1777)


@case(user=USERS, kind=("file", "dir"), uid=UIDS, gid=GIDS)
def given(user, kind, uid, gid):
    make(kind)
    with acting_as(user):
        return tried(os.chown, "x", uid, gid), look()


@case(
    user=("root", "owner"),
    kind=("file", "dir", "fifo"),
    mode=SETID,
    to={"nobody": (-1, -1), "the same": (OWNER, OWNER), "a user": (OWNER, -1), "a group": (-1, EXTRA)},
)
def takes_setid(user, kind, mode, to):
    make(kind, mode=mode)
    with acting_as(user):
        return tried(os.chown, "x", *to), look()


@case(kind=("file", "dir"), mode=SETID)
def to_another_user(kind, mode):
    make(kind, mode=mode)
    return tried(os.chown, "x", MEMBER, MEMBER), look()


@case(user=USERS, kind=KINDS, gid=(-1, EXTRA))
def of_a_link(user, kind, gid):
    make(kind)
    with acting_as(user):
        told = tried(os.lchown, "x", -1, gid)
    return told, look(), look("x.target")


@case(user=USERS, kind=("symlink", "dangling"), gid=(-1, EXTRA))
def through_a_link(user, kind, gid):
    make(kind)
    with acting_as(user):
        told = tried(os.chown, "x", -1, gid)
    return told, look(), look("x.target")


@case(user=USERS, kind=("file", "dir"), mode=octal(0o6755, 0o644), gid=(-1, OWNER, EXTRA))
def by_descriptor(user, kind, mode, gid):
    make(kind, mode=mode)
    with opened("x", os.O_RDONLY) as descriptor, acting_as(user):
        return tried(os.fchown, descriptor, -1, gid), look(descriptor)


@case(name=("missing", "x/below", "x/", ""))
def by_name(name):
    make("file")
    return tried(os.chown, name, OWNER, OWNER)


@case(kind=KINDS)
def by_a_reference(kind):
    make(kind)
    with opened("x", os.O_PATH | os.O_NOFOLLOW) as descriptor:
        return tried(os.fchown, descriptor, OTHER, OTHER), look()
