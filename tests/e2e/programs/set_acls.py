"""Cases of access control lists, by root: DIRECTORY RESULTS ONE-OF. Needs the modules of ``semantics``."""

import errno
import os
import stat
import struct
import sys

import cases
from attempts import EXTRA, OTHER, OWNER, USERS, acting_as, in_child, look, make, opened, opens, tried, write
from calls import getxattr
from cases import case, octal

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
HEAD, ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
VERSION = 2
NOBODY = 0xFFFFFFFF
TAGS = {"u:": 0x01, "u": 0x02, "g:": 0x04, "g": 0x08, "m:": 0x10, "o:": 0x20}
"""A letter, and a colon where no user or group is named."""

ACLS = {
    "as-mode": "u::rw- g::r-- o::---",
    "user": "u::rw- u:1002:r-- g::--- m::r-- o::---",
    "user-all": "u::rwx u:1002:rwx g::--- m::rwx o::---",
    "user-denied": "u::rwx u:1002:--- g::r-x m::rwx o::rwx",
    "user-masked": "u::rwx u:1002:rwx g::rwx m::r-- o::---",
    "mask-empty": "u::rw- u:1001:rwx g::rwx m::--- o::r-x",
    "mask-alone": "u::rw- g::rwx m::r-x o::---",
    "owner-denied": "u::--- u:1000:rwx g::rwx m::rwx o::rwx",
    "group": "u::rw- g::--- g:1002:rwx m::rwx o::---",
    "two-groups": "u::rw- g::r-- g:1001:-wx m::rwx o::---",
    "user-before-group": "u::rw- u:1001:r-- g::rwx g:1001:rwx m::rwx o::rwx",
}
"""Users are the owner 1000, a member 1001 of their group, and 1002; each has a group of the same number."""

BAD = {
    "empty": b"",
    "head-alone": HEAD.pack(VERSION),
    "short": HEAD.pack(VERSION)[:3],
    "half-an-entry": HEAD.pack(VERSION) + ENTRY.pack(1, 6, NOBODY)[:5],
    "version": HEAD.pack(1) + ENTRY.pack(1, 6, NOBODY),
    "no-owner": "g::r-- o::---",
    "no-others": "u::rw- g::r--",
    "no-mask": "u::rw- u:1002:r-- g::--- o::---",
    "two-owners": "u::rw- u::rw- g::r-- o::---",
    "two-masks": "u::rw- g::r-- m::r-- m::r-- o::---",
    "user-twice": "u::rw- u:1002:r-- u:1002:rw- g::--- m::r-- o::---",
    "unsorted": "g::--- u::rw- o::---",
    "users-unsorted": "u::rw- u:1002:r-- u:1001:r-- g::--- m::r-- o::---",
    "tag": HEAD.pack(VERSION) + b"".join(ENTRY.pack(tag, 6, NOBODY) for tag in (1, 3, 4, 0x20)),
    "permission": HEAD.pack(VERSION) + b"".join(ENTRY.pack(tag, 8, NOBODY) for tag in (1, 4, 0x20)),
    "nobody": f"u::rw- u:{NOBODY}:r-- g::--- m::r-- o::---",
    "large-id": f"u::rw- u:{NOBODY - 1}:r-- g::--- m::r-- o::---",
    "many": "u::rw- " + " ".join(f"u:{user}:r--" for user in range(2000, 2100)) + " g::--- m::r-- o::---",
}
DEFAULTS = {
    "none": "",
    "as-mode": "u::rwx g::r-x o::---",
    "wide": "u::rwx g::rwx o::rwx",
    "user": "u::rwx u:1002:rwx g::r-x m::rwx o::---",
    "masked": "u::rw- u:1002:rwx g::rwx m::r-x o::--x",
}


def packed(text):
    """An ACL as the kernel takes it, of the words that ``getfacl`` would write."""
    entries = [word.split(":") for word in text.split()]
    return HEAD.pack(VERSION) + b"".join(
        ENTRY.pack(
            TAGS[kind if number else f"{kind}:"],
            sum(bit for bit, letter in zip((4, 2, 1), rights, strict=True) if letter != "-"),
            int(number or NOBODY),
        )
        for kind, number, rights in entries
    )


def unpacked(value):
    """The words again."""
    assert HEAD.unpack_from(value) == (VERSION,)
    kinds = {tag: kind for kind, tag in TAGS.items()}
    words = []
    for tag, permission, number in ENTRY.iter_unpack(value[HEAD.size :]):
        rights = "".join(letter if permission & bit else "-" for bit, letter in zip((4, 2, 1), "rwx", strict=True))
        words.append(f"{kinds[tag][0]}:{'' if number == NOBODY else number}:{rights}")
    return " ".join(words)


def give(name, text, kind=ACCESS):
    """Set an ACL, if there is one."""
    if text:
        os.setxattr(name, kind, packed(text))


def acls(name="x"):
    """Mode, owner and ACLs of a file."""
    told = [look(name)]
    for kind in (ACCESS, DEFAULT):
        try:
            told.append(unpacked(os.getxattr(name, kind, follow_symlinks=False)))
        except OSError as error:
            told.append(errno.errorcode[error.errno])
    return told


@case(acl=ACLS, user=USERS)
def file_allows(acl, user):
    make("file", mode=0o640)
    give("x", acl)
    with acting_as(user):
        return (
            [os.access("x", mask, effective_ids=True) for mask in range(8)],
            [opens("x", flags) for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)],
            in_child(lambda: os.execv("x", ["x"])),
        )


@case(acl=ACLS, user=USERS)
def directory_allows(acl, user):
    make("dir", "d")
    make("file", "d/x", 0o666)
    give("d", acl)
    with acting_as(user):
        return (
            [os.access("d", mask, effective_ids=True) for mask in range(8)],
            tried(os.listdir, "d"),
            opens("d/x", os.O_RDWR),
            opens("d/new", os.O_WRONLY | os.O_CREAT),
            tried(os.unlink, "d/x"),
        )


@case(acl=ACLS, kind=("file", "dir", "fifo", "socket", "symlink", "dangling"), which=(ACCESS, DEFAULT))
def stored(acl, kind, which):
    make(kind)
    told = tried(os.setxattr, "x", which, packed(acl), follow_symlinks=False)
    return told, acls(), sorted(os.listxattr("x", follow_symlinks=False))


@case(value=BAD, which=(ACCESS, DEFAULT))
def refused(value, which):
    make("dir")
    give("x", ACLS["user"], which)
    return tried(os.setxattr, "x", which, value if isinstance(value, bytes) else packed(value)), acls()


@case(acl=ACLS, mode=octal(0o000, 0o070, 0o640, 0o707, 0o2770), kind=("file", "dir"))
def chmod_changes_the_mask(acl, mode, kind):
    make(kind)
    give("x", acl)
    os.chmod("x", mode)
    return acls()


@case(user=USERS, by=("chmod", "fchmod", "set", "remove", "default", "remove-default"))
def by_whom(user, by):
    make("dir")
    give("x", ACLS["user-all"])
    give("x", DEFAULTS["user"], DEFAULT)
    calls = {
        "chmod": (os.chmod, 0o755),
        "set": (os.setxattr, ACCESS, packed(ACLS["group"])),
        "remove": (os.removexattr, ACCESS),
        "default": (os.setxattr, DEFAULT, packed(DEFAULTS["wide"])),
        "remove-default": (os.removexattr, DEFAULT),
    }
    with opened("x", os.O_RDONLY) as descriptor, acting_as(user):
        call, *arguments = calls.get(by, calls["chmod"])
        told = tried(call, descriptor if by == "fchmod" else "x", *arguments)
        reading = tried(os.getxattr, "x", ACCESS)
    return told, reading, acls()


@case(user=USERS, group=(OWNER, EXTRA, OTHER), mode=octal(0o2755, 0o6711), acl=("as-mode", "user"))
def takes_setgid(user, group, mode, acl):
    """From who sets an ACL and is not of the file's group."""
    make("file", mode=mode, group=group)
    with acting_as(user):
        told = tried(os.setxattr, "x", ACCESS, packed(ACLS[acl]))
    return told, acls()


def make_new(kind, name, mode):
    """Make something by the system call that is meant for it."""
    if kind == "file":
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode))
    elif kind == "dir":
        os.mkdir(name, mode)
    elif kind == "symlink":
        os.symlink("target", name)
    elif kind == "tmpfile":
        with opened(os.path.dirname(name), os.O_TMPFILE | os.O_RDWR, mode) as descriptor:
            os.link(f"/proc/self/fd/{descriptor}", name)
    else:
        os.mknod(name, {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK}[kind] | mode)


@case(
    default=DEFAULTS,
    kind=("file", "dir", "fifo", "socket", "symlink", "tmpfile"),
    umask=octal(0o000, 0o022, 0o077),
    mode=octal(0o600, 0o666, 0o777),
)
def inherited(default, kind, umask, mode):
    make("dir", "d", 0o777)
    give("d", default, DEFAULT)
    os.umask(umask)
    return tried(make_new, kind, "d/x", mode), acls("d/x")


@case(default=DEFAULTS, user=USERS, setgid=(False, True))
def inherited_by(default, user, setgid):
    make("dir", "d", 0o2777 if setgid else 0o777, group=EXTRA)
    give("d", default, DEFAULT)
    with acting_as(user):
        told = [tried(make_new, kind, f"d/{kind}", 0o2777) for kind in ("file", "dir")]
        told.append([opens(f"d/{kind}", os.O_RDONLY) for kind in ("file", "dir")])
    return told, acls("d/file"), acls("d/dir")


@case(default=DEFAULTS)
def inherited_far_below(default):
    make("dir", "d")
    give("d", default, DEFAULT)
    os.makedirs("d/one/two/three")
    make("file", "d/one/two/three/x")
    give("d/one", "u::rwx g::--- o::---", DEFAULT)  # for what comes later only
    make("dir", "d/one/new")
    return [acls(f"d/one{name}") for name in ("", "/two", "/two/three", "/two/three/x", "/new")]


@case(which=(ACCESS, DEFAULT), there=(False, True), flags=(0, os.XATTR_CREATE, os.XATTR_REPLACE))
def flagged(which, there, flags):
    make("dir")
    if there:
        give("x", ACLS["user"], which)
    return tried(os.setxattr, "x", which, packed(ACLS["group"]), flags), acls()


@case(which=(ACCESS, DEFAULT), there=(False, True), kind=("file", "dir", "fifo"))
def removed(which, there, kind):
    make(kind)
    if there:
        tried(give, "x", ACLS["user-all"], which)
    return tried(os.removexattr, "x", which), tried(os.removexattr, "x", which), acls()


@case(size=(0, 1, 4, 43, 44, 45, 100))
def buffered(size):
    make("file")
    give("x", ACLS["user"])
    return tried(getxattr, "x", ACCESS, size), tried(getxattr, "x", DEFAULT, size)


@case(after=("rename", "link", "write", "truncate", "chown", "chown-back", "utime", "rename-over", "moved-in"))
def kept(after):
    make("file", mode=0o6755)
    make("dir", "d")
    give("d", DEFAULTS["user"], DEFAULT)
    give("x", ACLS["user-all"])
    calls = {
        "rename": lambda: os.rename("x", "y"),
        "link": lambda: os.link("x", "y"),
        "write": lambda: write("x"),
        "truncate": lambda: os.truncate("x", 0),
        "chown": lambda: os.chown("x", OTHER, OTHER),
        "chown-back": lambda: (os.chown("x", OTHER, OTHER), os.chown("x", OWNER, OWNER)),
        "utime": lambda: os.utime("x", (1, 1)),
        "rename-over": lambda: (make("file", "y"), os.rename("y", "x")),
        "moved-in": lambda: os.rename("x", "d/x"),
    }
    calls[after]()
    return acls(), acls("y"), acls("d/x")


CHANGES = {
    "set": lambda: give("x", ACLS["user-all"]),
    "deny": lambda: give("x", ACLS["user-denied"]),
    "remove": lambda: tried(os.removexattr, "x", ACCESS),
    "chmod-less": lambda: os.chmod("x", 0o600),
    "chmod-more": lambda: os.chmod("x", 0o666),
    "chown": lambda: os.chown("x", OTHER, OTHER),
}


@case(first=CHANGES, second=CHANGES, third=CHANGES)
def seen_at_once(first, second, third):
    """Whoever was asked for a file's ACL before must see each change."""
    make("file")
    told = []
    for change in (first, second, third):
        change()
        for user in USERS[1:]:
            with acting_as(user):
                told.append([opens("x", os.O_RDONLY), opens("x", os.O_WRONLY)])
    return told, acls()


if __name__ == "__main__":
    directory, results, one_of = sys.argv[1:]
    cases.run([__name__], directory, results, one_of=int(one_of), between=lambda: None)
