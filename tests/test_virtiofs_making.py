"""Requests that make something, end to end over rings: who makes it, what it is born with, and files without a name."""

import stat
from collections.abc import Awaitable, Callable

import pytest
from hdvkit_virtiofs import Context
from hdvkit_virtiofs.fuse import InitFlag
from recorder import LINUX_7_3, NOTHING, Recorder, driven, served

from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import (
    Init,
    Open,
)
from hdvkit.testing.hostile_fuse import ATTACKS, HostileFuse, answer_of
from hdvkit.testing.hostile_fuse_guest import HostileGuest

EXTENSIONS = InitFlag.SECURITY_CTX | InitFlag.CREATE_SUPP_GROUP

SECURITY = ((b"security.selinux", b"system_u:object_r:tmp_t:s0\0"), (b"security.SMACK64", b"_"))


# TMPFILE


async def test_a_file_without_a_name_is_open_and_may_get_one() -> None:
    files = Recorder()
    async with served(files) as client:
        made = await client.tmpfile(1, Open.RDWR | Open.TMPFILE, stat.S_IFREG | 0o600)
        assert ("tmpfile", "/", 0o600, Open.RDWR | Open.TMPFILE) in files.log
        nodeid, fh = made.entry.nodeid, made.open.fh
        assert await client.write(nodeid, fh, 0, b"data") == 4
        assert await client.read(nodeid, fh, 0, 10) == b"data"
        assert (await client.link(nodeid, 1, "name")).nodeid == nodeid
        assert ("link", "nameless", "/", b"name") in files.log
        await client.release(nodeid, fh)
        await client.forget(nodeid, 2)
        await client.getattr(1)
        assert files.log[-2][0] == "release"
        assert files.forgotten == ["nameless"]


@pytest.mark.parametrize("parent", [0, 99, 1 << 40, (1 << 64) - 1])
async def test_a_forged_directory_gets_no_file(parent: int) -> None:
    files = Recorder()
    async with served(files) as client:
        with pytest.raises(OSError, match="Stale"):
            await client.tmpfile(parent, Open.RDWR, 0o600)
    assert files.log == []


async def test_a_guest_older_than_tmpfile_hears_that_there_is_none() -> None:
    async with served(Recorder(), minor=36) as client:
        with pytest.raises(OSError, match="not implemented"):
            await client.tmpfile(1, Open.RDWR, 0o600)


# Extensions

MAKING: dict[str, Callable[[FuseClient], Awaitable[object]]] = {
    "create": lambda client: client.create(1, "n", Open.RDWR | Open.CREAT, 0o644, umask=0o27),
    "tmpfile": lambda client: client.tmpfile(1, Open.RDWR, 0o644, umask=0o27),
    "mknod": lambda client: client.mknod(1, "n", stat.S_IFREG | 0o644, umask=0o27),
    "mkdir": lambda client: client.mkdir(1, "n", 0o755, umask=0o27),
    "symlink": lambda client: client.symlink(1, "n", "target"),
}


@pytest.mark.parametrize("name", MAKING)
@pytest.mark.parametrize(
    ("agreed", "groups", "security"),
    [
        (NOTHING, (), ()),
        (InitFlag.CREATE_SUPP_GROUP, (1000,), ()),
        (InitFlag.SECURITY_CTX, (), SECURITY),
        (EXTENSIONS, (1000,), SECURITY),
    ],
    ids=["none", "groups", "contexts", "both"],
)
async def test_who_makes_something_and_what_it_is_born_with(
    name: str, agreed: InitFlag, groups: tuple[int, ...], security: tuple[tuple[bytes, bytes], ...]
) -> None:
    files = Recorder()
    async with served(files, agreed) as client:
        user = client.as_user(500, 600, pid=7, groups=[1000], security=SECURITY)
        await MAKING[name](user)
        umask = 0 if name == "symlink" else 0o27
        assert files.log[-1][:2] == (name, "/")
        assert files.context == Context(500, 600, 7, umask, groups, security)
        await client.lookup(1, "n")
        assert files.context == Context(pid=1)


@pytest.mark.parametrize("name", MAKING)
@pytest.mark.parametrize("security", [(), SECURITY], ids=["none", "two"])
async def test_contexts_of_a_guest_whose_header_does_not_tell_of_them(
    name: str, security: tuple[tuple[bytes, bytes], ...]
) -> None:
    files = Recorder()
    old = 0x7BFF_FFFB | (Init.SECURITY_CTX | Init.HAS_EXPIRE_ONLY)
    async with served(files, EXTENSIONS, minor=37, flags=old, announces=False) as client:
        assert client.session.flags & (Init.SECURITY_CTX | Init.CREATE_SUPP_GROUP) == Init.SECURITY_CTX
        await MAKING[name](client.as_user(1, 2, security=security))
        assert files.log[-1][:2] == (name, "/")
        groups = () if name == "symlink" else None  # it has judged by groups that it cannot tell
        assert (files.context.groups, files.context.security) == (groups, security)


async def test_an_extension_that_was_not_agreed_makes_nothing() -> None:
    files = Recorder()
    async with served(files, InitFlag.SECURITY_CTX) as client:
        for extension in (bytes.fromhex("10000000 20000000 01000000 e8030000"), bytes.fromhex("0000000000000000")):
            with pytest.raises(OSError, match="Invalid"):
                await client.call(9, 1, bytes(8) + b"d\0", reply_size=128, extension=extension)
    assert files.log == []


@pytest.mark.parametrize(
    "row", [row for row in ATTACKS if row.name.startswith("F1-extension")], ids=lambda row: row.name
)
async def test_malformed_extensions_make_nothing_where_all_are_agreed(row: HostileFuse) -> None:
    files = Recorder()
    async with driven(files, EXTENSIONS) as (_, _, driver):
        hiprio, requests = driver.queues
        client = FuseClient(requests, hiprio, flags=LINUX_7_3, minor=46)
        answer = await client.init()
        assert answer.flags & Init.SECURITY_CTX
        assert await answer_of(row, HostileGuest(client, requests, hiprio)) == row.answer
    assert files.log == []
