"""Rules of open files: read, written, allocated, searched, copied, synchronised and controlled by their handles."""
# ruff: noqa: D102 - a rule is called by what it does

import fcntl
import os

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from hdvkit.testing.fuse_messages import PAGE_SIZE
from virtiofs_model import plain
from virtiofs_model.bench import Bench
from virtiofs_model.seen import Seen, answered, seen
from virtiofs_model.sides import Data, Sides, data, directories, handles, offsets

KEEP, PUNCH, ZERO = 0x01, 0x02, 0x10
ALLOCATIONS = {
    "allocate": 0,
    "allocate and keep": KEEP,
    "punch": PUNCH | KEEP,
    "zero": ZERO,
    "zero and keep": ZERO | KEEP,
}
SEEKS = {"seek data": os.SEEK_DATA, "seek hole": os.SEEK_HOLE}

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x8008_6601, 0x4008_6602
NODUMP = 0x40
CONTROLS = {  # and the size of what they answer
    "get flags": (FS_IOC_GETFLAGS, 4),
    "get fsxattr": (0x801C_581F, 28),
    "control of terminals": (0x5401, 0),  # TCGETS, which every program's isatty asks
}

lengths = st.sampled_from([0, 1, 100, 4096, 5000, 20_000, 100_000])


class OpenFiles(Sides):
    """Files that are open."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.reserved: set[int] = set()
        """Inodes, of the plain directory, in which space was reserved that nothing was written to."""

    @precondition(lambda self: self.held)
    @rule(which=handles, size=lengths, offset=offsets)
    def pread(self, which: int, size: int, offset: int) -> None:
        guest, number, _ = self.pick(which)
        self.both("read", guest.pread(size, offset), lambda: os.pread(number, size, offset))

    @precondition(lambda self: self.held)
    @rule(which=handles, content=data, offset=offsets)
    def pwrite(self, which: int, content: Data, offset: int) -> None:
        guest, number, _ = self.pick(which)
        self.both("write", guest.pwrite(content.bytes, offset), lambda: os.pwrite(number, content.bytes, offset))

    @precondition(lambda self: self.held)
    @rule(which=handles, size=offsets)
    def ftruncate(self, which: int, size: int) -> None:
        guest, number, _ = self.pick(which)
        self.both("ftruncate", guest.truncate(size), lambda: os.ftruncate(number, size))

    @precondition(lambda self: self.held)
    @rule(which=handles)
    def fstat(self, which: int) -> None:
        guest, number, _ = self.pick(which)
        self.both("fstat", seen(guest.stat()), lambda: Seen.of(os.fstat(number)))

    @precondition(lambda self: self.held)
    @rule(which=handles)
    def close(self, which: int) -> None:
        self.close_both(self.held.pop(which % len(self.held)))

    # Space

    @precondition(lambda self: self.held)
    @rule(which=handles, what=st.sampled_from([*ALLOCATIONS]), offset=offsets, length=lengths)
    def fallocate(self, which: int, what: str, offset: int, length: int) -> None:
        guest, number, _ = self.pick(which)
        mode = ALLOCATIONS[what]
        if plain.access_of(number) == os.O_RDONLY:  # a guest's kernel refuses it by itself
            return
        answer = self.both(
            what, guest.allocate(offset, length, mode), lambda: plain.fallocate(number, mode, offset, length)
        )
        if answer is None and not mode & PUNCH:
            self.reserved.add(_inode(number))
            room = 512 * self.bench.run(guest.stat()).st_blocks
            assert room >= length // PAGE_SIZE * PAGE_SIZE, f"{what}: {room} bytes of {length} were reserved"

    @precondition(lambda self: self.held)
    @rule(which=handles, what=st.sampled_from([*SEEKS]), offset=offsets)
    def lseek(self, which: int, what: str, offset: int) -> None:
        guest, number, _ = self.pick(which)
        call = guest.seek(offset, SEEKS[what])
        if _inode(number) in self.reserved:
            self._seek_over_zeros(what, self.bench.run(answered(call)), number, offset)
        else:
            self.both(what, call, lambda: os.lseek(number, offset, SEEKS[what]))

    def _seek_over_zeros(self, what: str, found: object, number: int, offset: int) -> None:
        """Reserved space is data or a hole as the host's cache has it: only what is passed over can be judged."""
        content = plain.content(number)
        place = found if isinstance(found, int) else None
        if place is None:
            assert found == "ENXIO"
        else:
            assert offset <= place <= len(content)
        if what == "seek data":
            assert not any(content[offset:place]), f"data between {offset} and {place} was passed over"
        else:
            assert (place is None) == (offset >= len(content))
        self.bench.outcomes[f"{what}, reserved", "ok" if place is not None else "ENXIO"] += 1

    @precondition(lambda self: self.held)
    @rule(which=handles, other=handles, offset=offsets, to=offsets, length=lengths)
    def copy_file_range(self, which: int, other: int, offset: int, to: int, length: int) -> None:
        source, target = self.pick(which), self.pick(other)
        if source.turn != target.turn:  # of two file systems
            return
        self.both(
            "copy_file_range",
            source.guest.copy_to(target.guest, length, offset=offset, to=to),
            lambda: os.copy_file_range(source.plain, target.plain, length, offset, to),
        )
        if _inode(source.plain) in self.reserved:  # which a copy by reference keeps
            self.reserved.add(_inode(target.plain))

    # The host's storage

    @precondition(lambda self: self.held)
    @rule(which=handles, what=st.sampled_from(["fsync", "fdatasync", "flush"]))
    def sync(self, which: int, what: str) -> None:
        guest, number, _ = self.pick(which)
        if what == "fsync":
            self.both(what, guest.fsync(), lambda: os.fsync(number))
        elif what == "fdatasync":
            self.both(what, guest.fsync(datasync=True), lambda: os.fdatasync(number))
        else:
            self.both(what, guest.flush(), lambda: plain.close_one_of_two(number))

    @rule(path=directories, datasync=st.booleans())
    def sync_directory(self, path: str, datasync: bool) -> None:
        self.both(
            "fsync a directory",
            self.mount.fsync_directory(self.here(path), datasync=datasync),
            lambda: plain.fsync_directory(self.there(path), datasync),
        )

    # Controls

    @precondition(lambda self: self.held)
    @rule(which=handles, what=st.sampled_from([*CONTROLS]))
    def ioctl(self, which: int, what: str) -> None:
        guest, number, _ = self.pick(which)
        command, size = CONTROLS[what]
        self.both(what, guest.ioctl(command, out_size=size), lambda: fcntl.ioctl(number, command, bytes(size)))

    @precondition(lambda self: self.held)
    @rule(which=handles)
    def set_flags(self, which: int) -> None:
        guest, number, _ = self.pick(which)

        async def here() -> bytes:
            flags = int.from_bytes(await guest.ioctl(FS_IOC_GETFLAGS, out_size=8), "little")
            return await guest.ioctl(FS_IOC_SETFLAGS, (flags ^ NODUMP).to_bytes(8, "little"))

        def there() -> bytes:
            flags = int.from_bytes(fcntl.ioctl(number, FS_IOC_GETFLAGS, bytes(8)), "little")
            fcntl.ioctl(number, FS_IOC_SETFLAGS, (flags ^ NODUMP).to_bytes(8, "little"))
            return b""

        self.both("set flags", here(), there)


def _inode(number: int) -> int:
    return os.fstat(number).st_ino
