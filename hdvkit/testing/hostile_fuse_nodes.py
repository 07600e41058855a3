"""Attacks by what a hostile guest may not reach: symlinks, special files, nodes and handles that are not its own.

Here is what takes more than one request, as what must be refused has to be made or taken first. How much of anything
a guest takes is not the matter here, nor are read-only shares; the answers stand in the table.
"""

import stat
from errno import ENXIO
from struct import pack

from hdvkit.testing.fuse_messages import ROOT_ID, Fattr, Init, Opcode, Open
from hdvkit.testing.hostile_fuse_guest import (
    CREATE_IN,
    MODE_IN,
    MOST64,
    Attack,
    HostileGuest,
    alike,
    by_directory,
    by_handle,
    by_node,
    copy_in,
    io,
    must,
    outcome,
    request,
    setattr_in,
)

# What has ended


async def old_node(guest: HostileGuest) -> None:
    """Uses a node from before the session ended, in the next one."""
    entry, _ = await guest.file()
    await guest.client.destroy()
    await guest.init()
    await by_node(entry.nodeid)(guest)


async def old_handle(guest: HostileGuest) -> None:
    """Uses an open file from before the session ended, in the next one."""
    _, opened = await guest.file()
    await guest.client.destroy()
    await guest.init()
    await by_handle(ROOT_ID, opened.fh)(guest)


async def after_destroy(guest: HostileGuest) -> None:
    """Goes on as if it had not sent DESTROY."""
    await guest.client.destroy()
    await alike(request(Opcode.STATFS), request(Opcode.GETATTR, body=bytes(16)), request(Opcode.DESTROY))(guest)


# Symlinks


async def open_link(guest: HostileGuest) -> None:
    """Opens a symlink to a host file as if it were the file, and creates over it."""
    link = await guest.link()
    await alike(
        *(request(Opcode.OPEN, link.nodeid, pack("<II", flags, 0)) for flags in (0, Open.RDWR, Open.TRUNC)),
        request(Opcode.CREATE, ROOT_ID, CREATE_IN + b"hostile.l\0"),
    )(guest)


async def walk_link(guest: HostileGuest) -> None:
    """Looks for names in a symlink to a host directory."""
    link = await guest.link(b"/etc")
    await alike(
        request(Opcode.LOOKUP, link.nodeid, b"passwd\0"),
        request(Opcode.MKDIR, link.nodeid, MODE_IN + b"new\0"),
        request(Opcode.OPENDIR, link.nodeid, bytes(8)),
    )(guest)


async def stores_targets(guest: HostileGuest) -> None:
    """Makes symlinks to places outside the share and reads them back."""
    for number, target in enumerate((b"/etc/shadow", b"../../../../etc/shadow", b"..\\..\\windows", b".", b"\xff/\n")):
        entry = await guest.client.symlink(ROOT_ID, b"target-%d" % number, target)
        found = await guest.client.readlink(entry.nodeid)
        must(found == target, f"the link to {target!r} reads {found!r}")


async def change_link(guest: HostileGuest) -> None:
    """Changes the mode of what a symlink leads to."""
    link = await guest.link()
    await guest.send(Opcode.SETATTR, link.nodeid, setattr_in(Fattr.MODE, mode=0o777))


# Special files, and files without a name


def node_of(kind: int) -> Attack:
    """Makes a node that is not the guest's own."""
    return request(Opcode.MKNOD, body=pack("<IIII", kind | 0o666, 0x103, 0, 0) + b"device\0")


def open_special(kind: int) -> Attack:
    """Makes a node that is no file, and opens it."""

    async def attack(guest: HostileGuest) -> None:
        entry = await guest.client.mknod(ROOT_ID, b"special", kind | 0o666)
        flags = (Open.RDONLY, Open.WRONLY, Open.RDWR)
        await alike(*(request(Opcode.OPEN, entry.nodeid, pack("<II", flag, 0)) for flag in flags))(guest)

    return attack


async def whiteout(guest: HostileGuest) -> None:
    """Moves a file and asks for a device node in its place, whose number is that of none."""
    await guest.file()
    await guest.client.rename2(ROOT_ID, b"hostile", ROOT_ID, b"elsewhere", 4)
    entry = await guest.client.lookup(ROOT_ID, b"hostile")
    kind = stat.S_IFMT(entry.attr.mode), entry.attr.rdev
    must(kind == (stat.S_IFCHR, 0), f"the whiteout is {kind}")
    answer = await outcome(request(Opcode.OPEN, entry.nodeid, bytes(8)), guest)
    must(answer == ENXIO, f"the whiteout is opened: {answer}")


def set_attribute(name: bytes) -> Attack:
    """Sets an extended attribute of the root, by arguments of the agreed length."""

    async def attack(guest: HostileGuest) -> None:
        await guest.client.setxattr(ROOT_ID, name, b"\1\0\0\2")

    return attack


async def keeps_its_word(guest: HostileGuest) -> None:
    """Writes to a set-user-id file; a device that has promised to take the bits away must do it."""
    entry, opened = await guest.file()
    await guest.client.setattr(entry.nodeid, mode=0o6755)
    promised = guest.client.session.flags & Init.HANDLE_KILLPRIV_V2
    await guest.client.write(entry.nodeid, opened.fh, 0, b"new", kill_suidgid=bool(promised))
    mode = (await guest.client.getattr(entry.nodeid)).attr.mode
    must(not promised or not mode & 0o6000, f"after a write the mode is still {mode:o}")


async def revive(guest: HostileGuest) -> None:
    """Links a file whose last name it removed."""
    entry, _ = await guest.file()
    await guest.client.unlink(ROOT_ID, b"hostile")
    await guest.client.link(entry.nodeid, ROOT_ID, b"revived")


# References to nodes


async def forgotten_node(guest: HostileGuest) -> None:
    """Uses a node after giving back its only reference."""
    entry = await guest.client.mknod(ROOT_ID, b"forgotten", stat.S_IFREG | 0o644)
    await guest.client.forget(entry.nodeid)
    await by_node(entry.nodeid)(guest)


async def forget_too_many(guest: HostileGuest) -> None:
    """Gives back more references than it has, then uses the node."""
    entry = await guest.client.mknod(ROOT_ID, b"forgotten", stat.S_IFREG | 0o644)
    await guest.client.forget(entry.nodeid, MOST64)
    await guest.client.forget(entry.nodeid, 1)
    await guest.send(Opcode.GETATTR, entry.nodeid, bytes(16))


async def forget_root(guest: HostileGuest) -> None:
    """Gives back the root, and nodes that are none."""
    await guest.client.forget(ROOT_ID, MOST64)
    await guest.client.batch_forget([(ROOT_ID, MOST64), (0, 1), (MOST64, MOST64)])
    await guest.send(Opcode.GETATTR, ROOT_ID, bytes(16))


async def forget_open(guest: HostileGuest) -> None:
    """Gives back a node whose file it holds open, and reads on."""
    entry, opened = await guest.file()
    await guest.client.forget(entry.nodeid, MOST64)
    data = await guest.send(Opcode.READ, entry.nodeid, io(opened.fh, 0, 8))
    must(data == b"contents", f"the open file reads {data!r}")


# Handles


async def closed_handle(guest: HostileGuest) -> None:
    """Uses an open file after RELEASE."""
    entry, opened = await guest.file()
    await guest.client.release(entry.nodeid, opened.fh)
    await by_handle(entry.nodeid, opened.fh)(guest)


async def handle_of_another(guest: HostileGuest) -> None:
    """Uses the open file of one node with another node."""
    _, opened = await guest.file()
    other, _ = await guest.file(name=b"other")
    await by_handle(other.nodeid, opened.fh)(guest)


async def directory_as_file(guest: HostileGuest) -> None:
    """Reads and writes by a directory's handle."""
    entry, opened = await guest.directory()
    word = pack("<Q", opened.fh)
    await alike(
        request(Opcode.READ, entry.nodeid, io(opened.fh, 0, 8)),
        request(Opcode.WRITE, entry.nodeid, io(opened.fh, 0, 1, b"x")),
        request(Opcode.RELEASE, entry.nodeid, word + bytes(16)),
        request(Opcode.FALLOCATE, entry.nodeid, pack("<QQQII", opened.fh, 0, 8, 0, 0)),
    )(guest)


async def file_as_directory(guest: HostileGuest) -> None:
    """Lists names by a file's handle."""
    entry, opened = await guest.file()
    await by_directory(entry.nodeid, opened.fh)(guest)


async def write_by_reader(guest: HostileGuest) -> None:
    """Writes by a handle opened to read, and reads by one opened to write."""
    entry, reader = await guest.file(Open.RDONLY)
    writer = await guest.client.open(entry.nodeid, Open.WRONLY)
    node = entry.nodeid
    await alike(
        request(Opcode.WRITE, node, io(reader.fh, 0, 1, b"x")),
        request(Opcode.FALLOCATE, node, pack("<QQQII", reader.fh, 0, 8, 0, 0)),
        request(Opcode.SETATTR, node, setattr_in(Fattr.FH | Fattr.SIZE, fh=reader.fh)),
        request(Opcode.COPY_FILE_RANGE, node, copy_in(writer.fh, node, writer.fh)),
        request(Opcode.COPY_FILE_RANGE, node, copy_in(reader.fh, node, reader.fh)),
        request(Opcode.READ, node, io(writer.fh, 0, 8)),
    )(guest)


# Other shares


async def foreign_node(guest: HostileGuest) -> None:
    """Links, moves and walks by the number of another share's node."""
    await guest.file()
    foreign = pack("<Q", guest.foreign)
    await alike(
        request(Opcode.LINK, body=foreign + b"stolen\0"),
        request(Opcode.RENAME, body=foreign + b"hostile\0gone\0"),
        request(Opcode.RENAME2, body=foreign + bytes(8) + b"hostile\0gone\0"),
        request(Opcode.LOOKUP, guest.foreign, b"name\0"),
    )(guest)


async def foreign_handle(guest: HostileGuest) -> None:
    """Copies between its own file and a node of another share."""
    entry, opened = await guest.file()
    await alike(
        request(Opcode.COPY_FILE_RANGE, entry.nodeid, copy_in(opened.fh, guest.foreign, opened.fh)),
        request(Opcode.COPY_FILE_RANGE, guest.foreign, copy_in(opened.fh, entry.nodeid, opened.fh)),
    )(guest)
