"""Attacks by amount: a hostile guest offers, asks for or sends more than there is, or numbers out of range.

Here is what takes more than one request, the floods of the hiprio queue among them. What a guest may reach is not the
matter here; the answers stand in the table.
"""

import stat
from collections.abc import Callable
from errno import EAGAIN, EINTR, EIO, ENFILE, ENOLCK, ENOSYS
from struct import pack

from hdvkit.testing.fuse_messages import F_UNLCK, F_WRLCK, OUT_HEADER, ROOT_ID, Init, Opcode, Open
from hdvkit.testing.fuse_replies import read_init
from hdvkit.testing.hostile_fuse_guest import (
    HIGHEST,
    MOST32,
    MOST64,
    SERVED,
    Attack,
    HostileGuest,
    alike,
    answered,
    io,
    ioctl_in,
    lock_in,
    must,
    outcome,
    request,
)

STORM = 600  # nodes or handles one attack takes without giving any back
DEPTH = 200
ALL_FLAGS = MOST64
WAITERS = 200  # as many locks as one attack waits for; a ring has room for more
_DAX = 1 << 26 | 1 << 33  # FUSE_MAP_ALIGNMENT, FUSE_HAS_INODE_DAX
_FOREIGN = 1 << 4 | 1 << 37 | 1 << 41  # FUSE_EXPORT_SUPPORT, FUSE_PASSTHROUGH, FUSE_OVER_IO_URING

# INIT


async def answers_major_7(guest: HostileGuest) -> None:
    """Speaks FUSE 8, and goes on before both sides agree."""
    answer = read_init(await guest.init(major=8))
    must(answer.major == 7, f"a guest of FUSE 8 is answered {answer.major}")
    must(await outcome(request(Opcode.STATFS), guest) == EIO, "the session is open before both agree")


async def offers_everything(guest: HostileGuest) -> None:
    """Offers every flag there is and 4 GiB of read-ahead."""
    answer = read_init(await guest.init(readahead=MOST32, flags=ALL_FLAGS))
    never = _DAX | _FOREIGN | Init.WRITEBACK_CACHE
    must(not answer.flags & never, f"the device takes flags {answer.flags & never:#x}, which it has no use for")
    must(answer.max_readahead <= 1 << 20, f"max_readahead is {answer.max_readahead}")
    must(not answer.map_alignment, f"map_alignment is {answer.map_alignment}")


# Storms


async def lookup_storm(guest: HostileGuest) -> None:
    """Looks up name after name and gives no node back; a host that pays for each with a descriptor has an end."""
    names = [b"storm-%d" % number for number in range(STORM)]
    for name in names:
        entry = await guest.client.mknod(ROOT_ID, name, stat.S_IFREG | 0o644)
        await guest.client.forget(entry.nodeid)
    answers = {await answered(guest.client.lookup(ROOT_ID, name)) for name in names}
    must(answers <= {SERVED, ENFILE}, f"the lookups are answered {answers}")


async def open_storm(guest: HostileGuest) -> None:
    """Opens a file again and again and closes it never."""
    entry, _ = await guest.file()
    for _ in range(STORM):
        await guest.client.open(entry.nodeid, Open.RDONLY)


async def lock_flood(guest: HostileGuest) -> None:
    """Waits for a lock 200 times at once, and interrupts all; nothing to see where no locks are kept."""
    entry, opened = await guest.file()
    client, node, fh = guest.client, entry.nodeid, opened.fh
    if await answered(client.setlk(node, fh, 1, F_WRLCK)) == ENOSYS:
        return
    waiting = [client.start_setlkw(node, fh, owner, F_WRLCK) for owner in range(2, WAITERS)]
    await client.getattr(node)
    for unique, _ in waiting:
        await client.interrupt(unique)
    for _, task in waiting:
        answer = await answered(task)
        must(answer in (EINTR, EAGAIN, ENOLCK), f"a lock that is not free, interrupted, is answered {answer}")
    await client.setlk(node, fh, 1, F_UNLCK)


async def lock_storm(guest: HostileGuest) -> None:
    """Locks every second byte of a file, each for another owner, until there are hundreds; then closes it."""
    entry, opened = await guest.file()
    client, node, fh = guest.client, entry.nodeid, opened.fh
    for number in range(STORM):
        answer = await answered(client.setlk(node, fh, number, F_WRLCK, 2 * number, 2 * number))
        must(answer in (SERVED, ENOLCK, ENOSYS), f"lock {number} is answered {answer}")
        if answer != SERVED:
            break
    await client.release(node, fh)


async def nest(guest: HostileGuest) -> None:
    """Goes deeper than any path the host could name, then out again from the inside."""
    name, way = b"d" * 200, [ROOT_ID]
    for _ in range(DEPTH):
        way.append((await guest.client.mkdir(way[-1], name, 0o755)).nodeid)
    await guest.client.mknod(way[-1], b"deepest", stat.S_IFREG | 0o644)
    await guest.client.unlink(way[-1], b"deepest")
    for parent in way[-2::-1]:
        await guest.client.rmdir(parent, name)


async def many_links(guest: HostileGuest) -> None:
    """Gives one file hundreds of names."""
    entry, _ = await guest.file()
    for number in range(STORM):
        await guest.client.link(entry.nodeid, ROOT_ID, b"link-%d" % number)
    nlink = (await guest.client.getattr(entry.nodeid)).attr.nlink
    must(nlink == STORM + 1, f"{STORM} links were made, nlink is {nlink}")


# Sizes and offsets


def on_file(opcode: int, body: Callable[[int], bytes], *, directory: bool = False) -> Attack:
    """Sends one request on an open file; the body is made from its handle."""

    async def attack(guest: HostileGuest) -> None:
        entry, opened = await (guest.directory() if directory else guest.file())
        await guest.send(opcode, entry.nodeid, body(opened.fh))

    return attack


def on_directory(opcode: int, body: Callable[[int], bytes]) -> Attack:
    """Sends one request on an open directory."""
    return on_file(opcode, body, directory=True)


def huge(opcode: int, *, directory: bool) -> Attack:
    """Asks for 4 GiB and lends little room."""

    async def attack(guest: HostileGuest) -> None:
        entry, opened = await (guest.directory() if directory else guest.file())
        for room in (OUT_HEADER.size + 4096, OUT_HEADER.size + 200):
            await guest.send(opcode, entry.nodeid, io(opened.fh, 0, MOST32), room=room)

    return attack


def reading(offset: int) -> Attack:
    """Reads at any offset."""
    return on_file(Opcode.READ, lambda fh: io(fh, offset, 8))


def writing(offset: int, size: int = 4) -> Attack:
    """Writes four bytes at any offset, and says any size."""
    return on_file(Opcode.WRITE, lambda fh: io(fh, offset, size, b"data"))


async def too_long_a_write(guest: HostileGuest) -> None:
    """Writes more than max_write."""
    entry, opened = await guest.file()
    size = guest.client.session.max_write + 4096
    await guest.send(Opcode.WRITE, entry.nodeid, io(opened.fh, 0, size, bytes(size)))


async def append(guest: HostileGuest) -> None:
    """Writes at offset 0 by a handle opened to append."""
    entry, opened = await guest.file(Open.RDWR | Open.APPEND)
    await guest.send(Opcode.WRITE, entry.nodeid, io(opened.fh, 0, 4, b"more", Open.APPEND))
    data = await guest.client.read(entry.nodeid, opened.fh, 0, 64)
    must(data == b"contentsmore", f"after an append at offset 0 the file is {data!r}")


def allocating(offset: int, length: int, mode: int = 0) -> Attack:
    """Allocates any range in any mode."""
    return on_file(Opcode.FALLOCATE, lambda fh: pack("<QQQII", fh, offset, length, mode, 0))


def set_attributes(body: bytes, *, directory: bool = False) -> Attack:
    """Sets attributes of a file or a directory, by any body."""

    async def attack(guest: HostileGuest) -> None:
        entry, _ = await (guest.directory() if directory else guest.file())
        await guest.send(Opcode.SETATTR, entry.nodeid, body)

    return attack


def control(command: int, more: bytes = b"", *, directory: bool = False, **fields: int) -> Attack:
    """Sends any device control on a file or directory, with ``more`` as its argument."""
    return on_file(Opcode.IOCTL, lambda fh: ioctl_in(fh, command, **fields) + more, directory=directory)


def locking(kind: int, start: int, end: int) -> Attack:
    """Asks for any lock, takes it and waits for it."""
    return alike(*(on_file(opcode, lambda fh: lock_in(fh, kind, start, end))
                   for opcode in (Opcode.GETLK, Opcode.SETLK, Opcode.SETLKW)))  # fmt: skip


# Offsets of directories


async def forged_offsets(guest: HostileGuest) -> None:
    """Lists an empty directory from offsets that were never given."""
    entry, opened = await guest.directory()
    for opcode in (Opcode.READDIR, Opcode.READDIRPLUS):
        for offset in (3, 12345, HIGHEST, HIGHEST + 1, MOST64):
            data = await guest.send(opcode, entry.nodeid, io(opened.fh, offset, 4096))
            must(not data, f"an empty directory has {len(data)} bytes at {offset:#x}")


async def changed_directory(guest: HostileGuest) -> None:
    """Removes names from a directory while it lists it."""
    entry, opened = await guest.directory()
    names = [b"name-%d" % number for number in range(100)]
    for name in names:
        await guest.client.mknod(entry.nodeid, name, stat.S_IFREG | 0o644)
    offset, plus = 0, True
    while batch := await guest.send(
        Opcode.READDIRPLUS if plus else Opcode.READDIR, entry.nodeid, io(opened.fh, offset, 1024)
    ):
        # One record at a time; what stood behind it is gone when the guest comes back.
        if names:
            await guest.client.unlink(entry.nodeid, names.pop())
        offset, plus = int.from_bytes(batch[136:144] if plus else batch[8:16], "little"), not plus


# The hiprio queue


async def interrupt_flood(guest: HostileGuest) -> None:
    """Interrupts 500 requests that are not there."""
    for number in range(500):
        await guest.send(Opcode.INTERRUPT, 0, pack("<Q", number), room=16, queue=guest.hiprio)


async def interrupt_itself(guest: HostileGuest) -> None:
    """Interrupts the request that interrupts."""
    await guest.send(Opcode.INTERRUPT, 0, pack("<Q", 77), unique=77, room=16, queue=guest.hiprio)


async def on_hiprio(guest: HostileGuest) -> None:
    """Sends ordinary requests on the hiprio queue."""
    entry, opened = await guest.file()
    await guest.send(Opcode.LOOKUP, ROOT_ID, b"hostile\0", queue=guest.hiprio)
    data = await guest.send(Opcode.READ, entry.nodeid, io(opened.fh, 0, 8), queue=guest.hiprio)
    must(data == b"contents", f"READ on hiprio brings {data!r}")


async def init_on_hiprio(guest: HostileGuest) -> None:
    """Sends a second INIT on the hiprio queue."""
    await guest.init(queue=guest.hiprio)
