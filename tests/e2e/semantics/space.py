"""fallocate(2), lseek(2) over data and holes, and copy_file_range(2)."""

import errno
import os

from attempts import KINDS, look, make, opened, shown, tried, write
from calls import (
    COLLAPSE_RANGE,
    INSERT_RANGE,
    KEEP_SIZE,
    PUNCH_HOLE,
    UNSHARE_RANGE,
    ZERO_RANGE,
    fallocate,
)
from cases import case

MODES = {
    "-": 0,
    "keep": KEEP_SIZE,
    "punch,keep": PUNCH_HOLE | KEEP_SIZE,
    "punch": PUNCH_HOLE,
    "zero": ZERO_RANGE,
    "zero,keep": ZERO_RANGE | KEEP_SIZE,
    "collapse": COLLAPSE_RANGE,
    "insert": INSERT_RANGE,
    "unshare": UNSHARE_RANGE,
    "zero,punch": ZERO_RANGE | PUNCH_HOLE | KEEP_SIZE,
    "unknown": 0x4000,
}
RANGES = ((0, 4096), (100, 5000), (8192, 8192), (4096, 1 << 20), (0, 0), (-1, 10), (0, -1), (1 << 62, 1 << 62))
SIZE = 20000
CONTENT = b"0123456789" * (SIZE // 10)
BLOCK = 65536


@case(mode=MODES, part=RANGES)
def allocated(mode, part):
    write("x", CONTENT)
    with opened("x") as descriptor:
        told = tried(fallocate, descriptor, mode, *part)
        size = os.fstat(descriptor).st_size
        return told, size, shown(os.pread(descriptor, 200000, 0))


@case(mode=MODES, access=("r", "w", "a", "path"))
def allocated_by(mode, access):
    write("x", CONTENT)
    flags = {"r": os.O_RDONLY, "w": os.O_WRONLY, "a": os.O_WRONLY | os.O_APPEND, "path": os.O_PATH}[access]
    with opened("x", flags) as descriptor:
        return tried(fallocate, descriptor, mode, 0, 4096)


@case(kind=("dir", "fifo"), mode=MODES)
def allocated_in(kind, mode):
    make(kind)
    with opened("x", os.O_RDONLY | os.O_NONBLOCK) as descriptor:
        told = tried(fallocate, descriptor, mode, 0, 4096)
    with opened("x", os.O_RDWR | os.O_NONBLOCK) if kind == "fifo" else opened("x", os.O_RDONLY) as descriptor:
        return told, tried(fallocate, descriptor, mode, 0, 4096)


@case(offset=(0, 10, 20000), length=(1, 20000, 40000))
def posix_allocated(offset, length):
    write("x", CONTENT)
    with opened("x") as descriptor:
        return tried(os.posix_fallocate, descriptor, offset, length), look()


@case(
    layout=("empty", "data", "hole", "data-hole", "hole-data", "data-hole-data"),
    whence={"data": os.SEEK_DATA, "hole": os.SEEK_HOLE},
    offset=(-1, 0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK - 1, 3 * BLOCK, 4 * BLOCK),
)
def sought(layout, whence, offset):
    parts = [] if layout == "empty" else layout.split("-")
    with opened("x", os.O_RDWR | os.O_CREAT) as descriptor:
        for number, part in enumerate(parts):
            if part == "data":
                os.pwrite(descriptor, b"d" * BLOCK, number * BLOCK)
        os.ftruncate(descriptor, len(parts) * BLOCK)
        return tried(os.lseek, descriptor, offset, whence)


@case(whence=range(7), offset=(-100, -1, 0, 1, 30000, 1 << 62, (1 << 63) - 1))
def moved(whence, offset):
    write("x", CONTENT)
    with opened("x") as descriptor:
        os.lseek(descriptor, 50, os.SEEK_SET)
        return tried(os.lseek, descriptor, offset, whence), os.lseek(descriptor, 0, os.SEEK_CUR)


@case(
    count=(0, 1, 5000, 20000, 50000),
    source=(None, 0, 100, 19999, 20000, 30000),
    target=(None, 0, 7, 30000),
)
def copied(count, source, target):
    write("x", CONTENT)
    write("y", b"old")
    with opened("x") as reading, opened("y") as writing:
        told = tried(os.copy_file_range, reading, writing, count, source, target)
        positions = [os.lseek(one, 0, os.SEEK_CUR) for one in (reading, writing)]
        return told, positions, shown(os.pread(writing, 200000, 0))


@case(source=(0, 100, 10000), target=(0, 50, 5000, 10000, 20000), count=(100, 5000, 10000))
def copied_in_one_file(source, target, count):
    write("x", CONTENT)
    with opened("x") as reading, opened("x") as writing:
        return tried(os.copy_file_range, reading, writing, count, source, target), shown(os.pread(reading, 90000, 0))


@case(source=("r", "w", "dir"), target=("r", "w", "a", "rw", "dir"))
def copied_by(source, target):
    write("x", CONTENT)
    write("y", b"old")
    make("dir", "d")
    flags = {"r": os.O_RDONLY, "w": os.O_WRONLY, "a": os.O_WRONLY | os.O_APPEND, "rw": os.O_RDWR, "dir": os.O_RDONLY}
    with (
        opened("d" if source == "dir" else "x", flags[source]) as reading,
        opened("d" if target == "dir" else "y", flags[target]) as writing,
    ):
        return tried(os.copy_file_range, reading, writing, 10), look("y")


@case(kind=KINDS)
def blocks(kind):
    """Holes take no room."""
    make(kind)
    if kind != "file":
        return "not asked"
    with opened("x") as descriptor:
        os.ftruncate(descriptor, 1 << 20)
        sparse = os.fstat(descriptor).st_blocks < 1000
        try:
            fallocate(descriptor, 0, 0, 1 << 20)
        except OSError as error:
            return sparse, errno.errorcode[error.errno]
        return sparse, os.fstat(descriptor).st_blocks >= 2048
