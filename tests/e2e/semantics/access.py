"""Permissions: what ``access`` says, and what then may be done."""

import os

from attempts import KINDS, OTHER, USERS, acting_as, in_child, look, make, opens, tried
from cases import case, octal

MASKS = range(8)
MODES = octal(0o000, 0o400, 0o200, 0o100, 0o040, 0o020, 0o010, 0o004, 0o002, 0o001, 0o751, 0o666, 0o777)


@case(user=USERS, kind=("file", "dir"), mode=MODES)
def asked(user, kind, mode):
    make(kind, mode=mode)
    with acting_as(user):
        return [os.access("x", mask) for mask in MASKS]


@case(user=USERS, kind=("fifo", "socket", "symlink", "dangling"), mode=octal(0o640, 0o755))
def asked_of(user, kind, mode):
    make(kind, mode=mode)
    with acting_as(user):
        return [[os.access("x", mask, follow_symlinks=follow) for mask in MASKS] for follow in (True, False)]


@case(kind=KINDS)
def asked_by_the_real_user(kind):
    """``access`` goes by the real user, ``faccessat`` with AT_EACCESS by the effective one."""
    make(kind, mode=0o600)
    os.setresuid(0, OTHER, 0)
    try:
        return [[os.access("x", mask, effective_ids=effective) for mask in MASKS] for effective in (False, True)]
    finally:
        os.setresuid(0, 0, 0)


@case(user=USERS, mode=MODES)
def opened(user, mode):
    make("file", mode=mode)
    with acting_as(user):
        return [opens("x", flags) for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC)]


@case(user=USERS, mode=MODES)
def directory(user, mode):
    """Listing, searching and changing a directory are three rights."""
    make("dir", "d")
    make("file", "d/x", 0o666)
    make("file", "d/gone")
    os.chmod("d", mode)
    with acting_as(user):
        return [
            tried(lambda: sorted(os.listdir("d"))),
            tried(os.chdir, "d"),
            opens("d/x", os.O_RDONLY),
            opens("d/new", os.O_WRONLY | os.O_CREAT),
            tried(os.mkdir, "d/sub"),
            tried(os.unlink, "d/gone"),
            tried(os.rename, "d/x", "d/y"),
            tried(os.stat, "d/missing"),
        ]


@case(user=USERS, mode=octal(0o000, 0o100, 0o010, 0o001, 0o644, 0o755))
def executed(user, mode):
    write_program("x", mode)
    with acting_as(user):
        return run_program("x")


def write_program(name: str, mode: int) -> None:
    """A script that nothing can interpret: what is asked is whether it may be tried."""
    make("file", name, mode)


def run_program(name: str) -> object:
    """The errno of executing it."""
    return in_child(lambda: os.execv(name, [name]))


@case(kind=KINDS)
def executed_as_root(kind):
    make(kind, mode=0o755)
    return run_program("x"), look()
