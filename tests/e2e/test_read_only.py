"""A read-only share in guests whose root tries everything: only the host decides what is read-only."""

import os
import re
from pathlib import Path

from guest_files import Folder, booted, tools
from hdvkit_virtiofs import VirtioFs
from hdvkit_vm import Assets

REFUSED = "Read-only file system"

SCRIPTS = """\
echo x > new
echo x > file
echo x >> file
echo x | dd of=file conv=notrunc
: > file
truncate -s 1 file
truncate -s 100000 file
fallocate -l 100000 file
touch new
touch file
touch -d '2001-02-03 04:05:06' file
touch -d '2001-02-03 04:05:06' sub
rm -f file
rm -f link
rm -rf sub
rmdir empty
mv file renamed
mv -f file sub/file
mv sub empty/sub
ln file hard
ln -s file soft
mkdir made
mkdir -p sub/made
mkfifo fifo
mknod device c 1 3
chmod 777 file
chmod 644 file
chmod 777 sub
chown 1:1 file
chown 0:0 file
chown -h 1:1 link
chgrp 1 sub
cp file copy
sed -i s/content/changed/ file
tar -xf /made.tar
""".splitlines()

PYTHON = """
import ctypes, errno, fcntl, mmap, os, socket, struct
file, sub = os.open("file", os.O_RDONLY), os.open("sub", os.O_RDONLY)
libc = ctypes.CDLL("libc.so.6", use_errno=True)

def checked(result):
    if result:
        raise OSError(ctypes.get_errno(), "from the C library")

def set_flags():  # chattr +d
    fcntl.ioctl(file, 0x40086602, struct.pack("<q", 0x40))

attempts = {
    "open to write": lambda: os.open("file", os.O_WRONLY),
    "open to read and write": lambda: os.open("file", os.O_RDWR),
    "open to append": lambda: os.open("file", os.O_WRONLY | os.O_APPEND),
    "open and truncate": lambda: os.open("file", os.O_WRONLY | os.O_TRUNC),
    "open to read, and truncate": lambda: os.open("file", os.O_RDONLY | os.O_TRUNC),
    "open and create": lambda: os.open("new", os.O_RDONLY | os.O_CREAT, 0o600),
    "open and create only": lambda: os.open("new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600),
    "truncate": lambda: os.truncate("file", 0),
    "fchmod": lambda: os.fchmod(file, 0o777),
    "fchown": lambda: os.fchown(file, 1, 1),
    "futimes": lambda: os.utime(file, (1, 2)),
    "futimes of a directory": lambda: os.utime(sub, (1, 2)),
    "utimes of a link": lambda: os.utime("link", (1, 2), follow_symlinks=False),
    "setxattr": lambda: os.setxattr("file", "user.new", b"value"),
    "setxattr of security": lambda: os.setxattr("file", "security.capability", struct.pack("<5I", 2 << 24, 1, 0, 0, 0)),
    "fsetxattr": lambda: os.setxattr(sub, "user.new", b"value"),
    "removexattr": lambda: os.removexattr("file", "user.old"),
    "rename over": lambda: os.rename("file", "sub/file"),
    "rename over a directory": lambda: os.rename("sub", "empty"),
    "exchange": lambda: checked(libc.renameat2(-100, b"file", -100, b"sub/file", 2)),
    "set flags": set_flags,
    "unlink at": lambda: os.unlink("file", dir_fd=sub),
    "mkdir at": lambda: os.mkdir("made", dir_fd=sub),
    "link the open file": lambda: checked(libc.linkat(file, b"", -100, b"hard", 0x1000)),
    "nameless file": lambda: os.open(".", os.O_TMPFILE | os.O_RDWR),
    "bind a socket": lambda: socket.socket(socket.AF_UNIX).bind("socket"),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except OSError as error:
        print(f"{name}: {errno.errorcode[error.errno]}")
    else:
        print(f"{name}: done")
"""


CONTENTS = {"file": b"content\n", "sub/file": b"file in sub\n"}


async def test_nothing_changes(kernel: str, assets: Assets, room: Path, log: Path) -> None:
    directory = room / "share"
    paths = make_tree(directory)
    before = [kept(path) for path in paths]
    shares = [VirtioFs(source=directory, tag="share", read_only=True), tools(assets)]
    async with booted(kernel, assets, room, log, shares) as (vm, functions):
        # The guest's own mount allows everything: what is refused is refused by the host.
        assert "/share virtiofs rw," in await vm.run("mount -o remount,rw /share && cat /proc/mounts")
        await vm.run("mkdir -p /made/sub && echo new > /made/sub/file && tar -C /made -cf /made.tar sub")
        here = Folder(vm, directory, "/share")
        passed = [script for script in SCRIPTS if REFUSED not in await here.sh_fails(script)]
        assert passed == []
        told = (await here.python(PYTHON)).splitlines()
        assert told == [f"{name}: EROFS" for name in re.findall(r'^    "(.*)": ', PYTHON, re.MULTILINE)]
        # It can still be read, and the guest has not been led to believe in any change.
        assert await here.sh("cat file link sub/file; readlink link") == "content\ncontent\nfile in sub\nfile\n"
        assert (await here.sh("find . | sort")).split() == [".", "./empty", "./file", "./link", "./sub", "./sub/file"]
        assert [function.stats().needs_resets for function in functions] == [0, 0]
    assert [kept(path) for path in paths] == before
    assert {directory, *directory.rglob("*")} == set(paths)
    assert {name: (directory / name).read_bytes() for name in CONTENTS} == CONTENTS
    assert (directory / "link").readlink() == Path("file")


def make_tree(directory: Path) -> list[Path]:
    """Something of every sort to change, last read long ago."""
    for name in ("", "sub", "empty"):
        (directory / name).mkdir()
    for name, content in CONTENTS.items():
        (directory / name).write_bytes(content)
        (directory / name).chmod(0o644)
    (directory / "link").symlink_to("file")
    paths = [directory, *directory.rglob("*")]
    for path in paths:
        os.utime(path, (1, 1000), follow_symlinks=False)
    return paths


def kept(path: Path) -> tuple[int, ...]:
    """All that must not change. The time of the last change tells of changes that were undone, too.

    Asking for it changes nothing. Reading a link is the one thing that Linux cannot do without noting the time.
    """
    status = path.lstat()
    read = 0 if path.is_symlink() else status.st_atime_ns
    whose = (status.st_ino, status.st_mode, status.st_nlink, status.st_uid, status.st_gid)
    return (*whose, status.st_size, status.st_mtime_ns, status.st_ctime_ns, read)
