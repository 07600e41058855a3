"""rename(2) and renameat2(2): all pairs of kinds, all flags, sticky directories, and moves that make no sense."""

import os

from attempts import OTHER, OWNER, USERS, acting_as, look, make, opened, tried
from calls import EXCHANGE, NOREPLACE, WHITEOUT, renameat2
from cases import case, octal

OLD = ("missing", "file", "dir", "full", "symlink", "fifo", "socket")
NEW = (*OLD, "link", "itself")
FLAGS = {
    "-": 0,
    "noreplace": NOREPLACE,
    "exchange": EXCHANGE,
    "noreplace,exchange": NOREPLACE | EXCHANGE,
    "unknown": 64,
}
WHITING = {"whiteout": WHITEOUT, "whiteout,exchange": WHITEOUT | EXCHANGE, "whiteout,noreplace": WHITEOUT | NOREPLACE}


@case(old=OLD, new=NEW, flags=FLAGS)
def pair(old, new, flags):
    make(old)
    name = make_other(old, new)
    told = tried(renameat2, "x", name, flags)
    return told, look(), look("y"), sorted(os.listdir("."))


def make_other(old, new):
    """The name to rename to; ``link`` is another name of the same file."""
    if new == "itself":
        return "x"
    if new == "link":
        if old not in ("dir", "full", "missing"):
            os.link("x", "y", follow_symlinks=False)
    else:
        make(new, "y")
    return "y"


@case(new=("missing", "file", "dir"), flags=WHITING, user=("root", "owner"))
def leaving_a_whiteout(new, flags, user):
    make("file")
    make(new, "y")
    with acting_as(user):
        return tried(renameat2, "x", "y", flags), look("y")


@case(
    user=("root", "owner", "other"),
    directory={"root": 0, "owner": OWNER, "other": OTHER},
    old={"owner": OWNER, "other": OTHER},
    new={"missing": None, "owner": OWNER, "other": OTHER},
    flags={"-": 0, "exchange": EXCHANGE},
)
def sticky(user, directory, old, new, flags):
    make("dir", "d", 0o1777, owner=directory)
    make("file", "d/x", owner=old)
    if new is not None:
        make("file", "d/y", owner=new)
    with acting_as(user):
        return tried(renameat2, "d/x", "d/y", flags), look("d/x"), look("d/y")


@case(user=USERS, source=octal(0o777, 0o1777, 0o555), target=octal(0o777, 0o1777, 0o555), kind=("file", "dir"))
def across(user, source, target, kind):
    make("dir", "a", source, owner=0)
    make("dir", "b", target, owner=0)
    make(kind, "a/x")
    with acting_as(user):
        return tried(os.rename, "a/x", "b/x"), look("a/x"), look("b/x")


@case(user=USERS, mode=octal(0o755, 0o555, 0o777), owner=(OWNER, OTHER))
def a_directory_that_may_not_be_written(user, mode, owner):
    """Moving a directory changes its "..", which takes the right to write into it; renaming it in place does not."""
    make("dir", "a", 0o777)
    make("dir", "b", 0o777)
    make("dir", "a/x", mode, owner=owner)
    with acting_as(user):
        return tried(os.rename, "a/x", "a/y"), tried(os.rename, "a/y", "b/y"), look("b/y")


@case(
    flags=FLAGS,
    pair=(
        "d>d/x",
        "d>d/e/x",
        "d/e>d",
        "d/e/f>d",
        "d>.",
        ".>d",
        "d>..",
        "d/.>x",
        "d/..>x",
        "d/>x",
        "d>x/",
        "d>x//",
        "g>x/",
        "g/>x",
        "g>d/",
        "d>g/",
        "d/e>g",
        "g>g/x",
        "g/x>y",
        "missing/x>y",
        "g>missing/x",
        ">x",
        "g>",
        "l>x/",
        "l/>x",
        "g>l/",
        "d>l",
        "d>l/",
        "l>d/e",
        "g>l/e/x",
    ),
)
def by_name(flags, pair):
    make("full", "d")
    make("dir", "d/e")
    make("dir", "d/e/f")
    make("file", "g")
    os.symlink("d", "l")
    old, new = pair.split(">")
    told = tried(renameat2, old, new, flags)
    return told, sorted(os.listdir(".")), look("d"), look("g"), look("x"), look("l")


@case(kind=("file", "dir", "full", "symlink"))
def there_and_back(kind):
    make(kind)
    inode = os.lstat("x").st_ino
    os.rename("x", "y")
    os.rename("y", "z")
    os.rename("z", "x")
    return os.lstat("x").st_ino == inode, look(), look("y"), look("z")


@case(kind=("file", "dir", "symlink"))
def exchanged_with_a_name_elsewhere(kind):
    make(kind)
    make("dir", "d")
    make("full", "d/y")
    inodes = os.lstat("x").st_ino, os.lstat("d/y").st_ino
    told = tried(renameat2, "x", "d/y", EXCHANGE)
    return told, (os.lstat("d/y").st_ino, os.lstat("x").st_ino) == inodes, look("."), look("d"), os.listdir("x")


@case(kind=("file", "dir"))
def while_open(kind):
    make(kind)
    make("dir", "d")
    with opened("x", os.O_RDONLY) as descriptor:
        os.rename("x", "d/y")
        told = look(descriptor), tried(os.fchmod, descriptor, 0o700), look("d/y")
        if kind == "dir":
            os.mkdir("sub", dir_fd=descriptor)
            return told, os.listdir(descriptor), os.listdir("d/y")
        return told, tried(os.read, descriptor, 10)


@case()
def over_an_open_file():
    make("file")
    make("file", "y")
    with open("y", "wb") as file:
        file.write(b"new")
    with opened("x") as descriptor:
        os.rename("y", "x")
        told = look(descriptor), os.read(descriptor, 10), os.pwrite(descriptor, b"old", 0), look(descriptor)
        with open("x", "rb") as file:
            return told, file.read(), look("x")


@case()
def over_an_open_directory():
    make("dir", "x")
    make("full", "y")
    with opened("x", os.O_RDONLY) as descriptor:
        os.rename("y", "x")
        return (
            look(descriptor),
            os.listdir(descriptor),
            tried(os.mkdir, "sub", dir_fd=descriptor),
            tried(os.stat, "..", dir_fd=descriptor) == "ENOENT",
            os.listdir("x"),
        )


@case()
def the_working_directory():
    os.makedirs("a/b")
    make("dir", "c")
    here = os.getcwd()
    os.chdir("a/b")
    os.rename(f"{here}/a", f"{here}/c/d")
    write_here = tried(os.mkdir, "sub")
    return os.getcwd().removeprefix(here), write_here, os.listdir(".."), look(f"{here}/c/d/b/sub")
