"""New files: their owner, group and mode, by whom and where they are made."""

import os
import stat

from attempts import EXTRA, OTHER, OWNER, USERS, acting_as, look, make, opened, tried
from cases import case, octal

PARENTS = {
    "open": (0o777, 0, 0),
    "of-root": (0o755, 0, 0),
    "of-group": (0o775, 0, OWNER),
    "sticky": (0o1777, 0, 0),
    "setgid": (0o2777, 0, OWNER),
    "setgid-extra": (0o2777, OTHER, EXTRA),
    "setuid": (0o4777, OTHER, OTHER),
}


def in_directory(name, mode):
    os.mkdir(name, mode)


def by_open(name, mode):
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))


def by_open_for_reading(name, mode):
    os.close(os.open(name, os.O_RDONLY | os.O_CREAT | os.O_NONBLOCK, mode))


def by_mknod(name, mode):
    os.mknod(name, mode | stat.S_IFREG)


def fifo(name, mode):
    os.mkfifo(name, mode)


def socket(name, mode):
    os.mknod(name, mode | stat.S_IFSOCK)


def link(name, mode):
    os.symlink("target", name)


MAKERS = {"dir": in_directory, "file": by_open, "mknod": by_mknod, "fifo": fifo, "socket": socket}


@case(
    make_it=MAKERS,
    parent=PARENTS,
    user=USERS,
    umask=octal(0o000, 0o027),
    mode=octal(0o777, 0o6755),
)
def made(make_it, parent, user, umask, mode):
    make_parent(*parent)
    os.umask(umask)
    with acting_as(user):
        return tried(make_it, "d/x", mode), look("d/x")


@case(parent=PARENTS, user=USERS)
def symlink(parent, user):
    make_parent(*parent)
    with acting_as(user):
        return tried(link, "d/x", 0), look("d/x")


@case(mode=octal(0o000, 0o200, 0o444, 0o1777, 0o2777, 0o2644, 0o4644, 0o7777), make_it=MAKERS, user=("root", "owner"))
def with_mode(mode, make_it, user):
    os.umask(0)
    with acting_as(user):
        return tried(make_it, "x", mode), look()


@case(umask=octal(0o777, 0o077, 0o007, 0o022, 0o111), make_it=MAKERS)
def with_umask(umask, make_it):
    os.umask(umask)
    return tried(make_it, "x", 0o777), look()


@case(
    make_it=MAKERS | {"symlink": link, "rdonly": by_open_for_reading},
    kind=("file", "dir", "symlink", "dangling", "fifo"),
)
def over(make_it, kind):
    make(kind)
    return tried(make_it, "x", 0o777), look(), look("nowhere")


@case(make_it=MAKERS | {"symlink": link}, name=("x/", "f/x", "d/.", "d/..", "missing/x", "", ".", "d/x/", "l", "l/"))
def by_name(make_it, name):
    make("file", "f")
    make("dir", "d")
    os.symlink("nowhere", "l")
    return tried(make_it, name, 0o755), look(name), look("nowhere")


@case(user=USERS, depth=(1, 2, 3))
def setgid_goes_down(user, depth):
    """Directories below a setgid directory are setgid, and their files take its group."""
    make_parent(0o2777, OTHER, EXTRA)
    path = "d"
    with acting_as(user):
        for _ in range(depth):
            path += "/d"
            os.mkdir(path)
        by_open(f"{path}/x", 0o666)
    return look(path), look(f"{path}/x")


@case(user=USERS)
def several_in_one_directory(user):
    make_parent(0o2777, OTHER, EXTRA)
    with acting_as(user), opened("d", os.O_RDONLY) as directory:
        os.mkdir("a", dir_fd=directory)
        os.mkfifo("b", dir_fd=directory)
        os.symlink("a", "c", dir_fd=directory)
        os.close(os.open("e", os.O_CREAT | os.O_WRONLY, 0o640, dir_fd=directory))
    return look("d"), [(name, look(f"d/{name}")) for name in sorted(os.listdir("d"))]


def make_parent(mode, owner, group):
    """The directory ``d``."""
    os.mkdir("d")
    os.chown("d", owner, group)
    os.chmod("d", mode)
