"""Names: hard links, symbolic links, and how many names there are."""

import os

from attempts import KINDS, USERS, acting_as, look, make, opened, opens, tried
from calls import AT_SYMLINK_FOLLOW, linkat, readlinkat
from cases import case

OVER = ("missing", "file", "dir", "symlink", "dangling", "fifo")


@case(kind=("missing", *KINDS), over=OVER, user=USERS)
def hard(kind, over, user):
    make(kind)
    make(over, "y")
    with acting_as(user):
        told = tried(linkat, "x", "y")
    return told, look(), look("y")


@case(kind=KINDS)
def hard_following(kind):
    make(kind)
    return tried(linkat, "x", "y", AT_SYMLINK_FOLLOW), look(), look("y"), look("x.target")


@case(name=("y/", "x/y", "d/.", "d/..", "missing/y", "", ".", "d/y", "d/y/", "x", "d"))
def hard_by_name(name):
    make("file")
    make("dir", "d")
    return tried(os.link, "x", name), look()


@case(user=USERS, mode=(0o777, 0o1777, 0o755, 0o555))
def hard_into(user, mode):
    make("file")
    make("dir", "d", mode, owner=0)
    with acting_as(user):
        return tried(os.link, "x", "d/y"), look()


@case(count=(2, 3, 50))
def counted(count):
    make("file")
    names = [f"y{number}" for number in range(count)]
    for name in names:
        os.link("x", name)
    up = look()
    os.unlink("x")
    same = len({os.stat(name).st_ino for name in names})
    down = look("y0")
    for name in names[1:]:
        os.unlink(name)
    return up, same, down, look("y0")


@case(count=(0, 1, 5))
def directories_counted(count):
    make("dir", "d")
    for number in range(count):
        os.mkdir(f"d/{number}")
    make("file", "d/file")
    full = look("d")
    for number in range(0, count, 2):
        os.rmdir(f"d/{number}")
    return full, look("d")


@case()
def directories_counted_when_moved():
    make("dir", "a")
    make("dir", "b")
    os.mkdir("a/sub")
    before = look("a"), look("b")
    os.rename("a/sub", "b/sub")
    return before, look("a"), look("b"), look("b/sub")


@case()
def changes_show_by_all_names():
    make("file")
    os.link("x", "y")
    with open("y", "ab") as file:
        file.write(b"more")
    os.chmod("y", 0o600)
    return look("x"), look("y")


@case(length=(1, 59, 60, 61, 255, 256, 1000, 4094, 4095, 4096, 5000))
def soft(length):
    target = ("t" * 200 + "/") * 30
    told = tried(os.symlink, target[:length], "x")
    return told, look(), tried(lambda: os.readlink("x") == target[:length])


@case(target=("", ".", "..", "/", "x", "a//b", "\xfc\u65e5", "/etc/passwd", "../../../..", "new\nline", " "))
def soft_to(target):
    return tried(os.symlink, target, "x"), look(), tried(os.readlink, "x"), tried(os.path.exists, "x")


@case(over=OVER, user=USERS)
def soft_over(over, user):
    make(over)
    with acting_as(user):
        return tried(os.symlink, "target", "x"), look()


@case(kind=("missing", *KINDS))
def read(kind):
    make(kind)
    return tried(os.readlink, "x")


@case(size=(0, 1, 7, 8, 9))
def read_into(size):
    os.symlink("12345678", "x")
    with opened(".", os.O_RDONLY) as directory:
        return tried(readlinkat, directory, b"x", size)


@case(user=USERS)
def read_by(user):
    """A link's own mode forbids nothing; its directory may."""
    make("dangling")
    make("dir", "d", 0o700)
    os.symlink("target", "d/x")
    with acting_as(user):
        return tried(os.readlink, "x"), tried(os.readlink, "d/x")


@case(
    target=("d", "d/", "f", "f/", "missing", "x", "d/../f", "d/./../d/g"), flags=(os.O_RDONLY, os.O_WRONLY | os.O_CREAT)
)
def followed(target, flags):
    make("file", "f")
    make("dir", "d")
    make("file", "d/g")
    os.symlink(target, "x")
    calls = (os.stat, os.lstat, os.listdir, os.chdir)
    here = os.getcwd()
    told = []
    for call in calls:
        told.append(type(tried(lambda call=call: sorted(call("x")) if call is os.listdir else call("x"))).__name__)
        os.chdir(here)
    return (
        told,
        opens("x", flags),
        opens("x/", flags),
        opens("x/.", flags),
        tried(os.rmdir, "x/"),
        tried(os.unlink, "x/"),
    )
