"""Names and paths: how long, through what, and around in circles."""

import os
import stat

from attempts import look, make, opens, tried
from calls import linkat
from cases import case

CALLS = {
    "stat": os.stat,
    "lstat": os.lstat,
    "open": lambda name: os.close(os.open(name, os.O_RDONLY)),
    "create": lambda name: os.close(os.open(name, os.O_WRONLY | os.O_CREAT, 0o644)),
    "mkdir": os.mkdir,
    "mkfifo": os.mkfifo,
    "mknod": lambda name: os.mknod(name, stat.S_IFSOCK | 0o644),
    "symlink": lambda name: os.symlink("target", name),
    "link": lambda name: linkat("f", name),
    "link-from": lambda name: linkat(name, "new"),
    "rename": lambda name: os.rename("f", name),
    "rename-from": lambda name: os.rename(name, "new"),
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "readlink": os.readlink,
    "chmod": lambda name: os.chmod(name, 0o600),
    "chown": lambda name: os.chown(name, 1, 1),
    "truncate": lambda name: os.truncate(name, 0),
    "utime": lambda name: os.utime(name, (1, 1)),
    "access": lambda name: os.stat(name) and os.access(name, 4),
    "statvfs": lambda name: os.statvfs(name).f_namemax,
    "chdir": os.chdir,
    "listdir": os.listdir,
    "getxattr": lambda name: os.getxattr(name, "user.a"),
}


def done(call, name):
    """What comes of a call; of a stat only that it went well."""
    told = tried(call, name)
    return told if isinstance(told, str | int) or told == [] else "ok"


@case(call=CALLS, length=(255, 256, 4000))
def name(call, length):
    make("file", "f")
    return done(call, "n" * length)


@case(call=CALLS, length=(4095, 4096))
def path(call, length):
    make("file", "f")
    return done(call, ("./" * 2100)[: length - 1] + "x")


@case(
    call=CALLS,
    through=("f/x", "missing/x", "loop", "loop/x", "self/", "dangling/x", "f/", "f/.", "to-file/x", "d/../f", ""),
)
def through(call, through):
    make("file", "f")
    make("dir", "d")
    os.symlink("loop2", "loop")
    os.symlink("loop", "loop2")
    os.symlink("self/self", "self")
    os.symlink("nowhere", "dangling")
    os.symlink("f", "to-file")
    return done(call, through)


@case(depth=(1, 10, 39, 40, 41), call=("stat", "open", "create", "chdir", "truncate", "lstat", "unlink", "rename-from"))
def links(depth, call):
    make("file", "l0")
    make("dir", "d")
    for number in range(depth):
        os.symlink(f"l{number}", f"l{number + 1}")
    return done(CALLS[call], f"l{depth}")


@case(depth=(1, 20, 300))
def directories(depth):
    """Deeper than a path is long."""
    here = os.getcwd()
    for _ in range(depth):
        os.mkdir("d" * 20)
        os.chdir("d" * 20)
    make("file")
    told = look("x"), tried(lambda: os.getcwd()[len(here) :].count("/")), look("../..")
    os.chdir(here)
    return told, tried(os.rmdir, "d" * 20)


@case(
    text={
        "space": " ",
        "newline": "a\nb",
        "bytes": b"\xff\xfe",
        "utf8": "\u65e5\u672c",
        "dots": "...",
        "dash": "-",
        "backslash": "a\\b",
        "colon": "a:b",
        "control": "\x01\x7f",
        "tilde": "~",
        "quote": "'\"",
        "combining": "e\u0301",
        "emoji": "\U0001f427",
        "trailing": "a. ",
        "upper": "Xx",
        "device": "con",
        "wh": ".wh.x",
        "fuse": ".fuse_hidden1",
    }
)
def any_text(text):
    os.close(os.open(text, os.O_CREAT | os.O_WRONLY, 0o644))
    name = os.fsencode(text)
    listed = os.listdir(b".")
    return listed == [name], tried(os.stat, name) != "ENOENT", opens(text.lower(), os.O_RDONLY), tried(os.unlink, text)


@case(name=("a//b", "./a/./b", "a/../a/b", "a/b/", "a/b/.", ".//a///b", "a/c/../b", "a/missing/../b", "a/b/x/.."))
def normalised_by_the_file_system(name):
    os.mkdir("a")
    os.mkdir("a/c")
    make("file", "a/b")
    return opens(name, os.O_RDONLY), tried(os.access, name, os.F_OK)
