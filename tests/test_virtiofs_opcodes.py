"""Requests end to end, over rings: controls, set-user-id bits, and what is forgotten."""

import errno

import pytest
from hdvkit_virtiofs.fuse import Changes, InitFlag
from hdvkit_virtiofs.server import FORGETS_AT_ONCE
from recorder import Controls, Recorder, opened, served

from hdvkit.testing.fuse_messages import (
    IOCTL_DIR,
    Open,
)

# IOCTL


async def test_a_file_system_without_controls_has_none_of_them() -> None:
    async with served(Recorder()) as client:
        nodeid, fh = await opened(client)
        with pytest.raises(OSError, match="Inappropriate ioctl"):
            await client.ioctl(nodeid, fh, 0x8008_6601, out_size=4)


async def test_controls_bring_and_take_what_they_say() -> None:
    files = Controls()
    async with served(files) as client:
        nodeid, fh = await opened(client)
        assert await client.ioctl(nodeid, fh, 0x1234, b"argument", out_size=64) == files.answer
        assert files.log[-1] == ("ioctl", "f", "handle of f", 0x1234, b"argument", 64)
        assert await client.ioctl(nodeid, fh, 1, out_size=4) == b"0123"
        assert await client.ioctl(nodeid, fh, 1) == b""
        directory = (await client.opendir(1)).fh
        await client.ioctl(1, directory, 1, flags=IOCTL_DIR)
        assert files.log[-1][1:3] == ("/", "handle of a directory")
        for node, handle, flags in ((1, directory, 0), (nodeid, fh, IOCTL_DIR), (1, fh, 0), (nodeid, 99, 0)):
            with pytest.raises(OSError, match="Bad file"):
                await client.ioctl(node, handle, 1, flags=flags)


@pytest.mark.parametrize("flags", [1, 2, 8, 0xFFFF_FFFF])
async def test_controls_with_pointers_or_of_32_bits_are_asked_of_nobody(flags: int) -> None:
    files = Controls()
    async with served(files) as client:
        nodeid, fh = await opened(client)
        with pytest.raises(OSError, match="Inappropriate ioctl"):
            await client.ioctl(nodeid, fh, 1, flags=flags)
    assert "ioctl" not in [entry[0] for entry in files.log]


# Set-user-id bits

KILL = Changes(kill_suidgid=True)


async def test_bits_go_before_the_data_comes() -> None:
    files = Recorder()
    async with served(files, InitFlag.HANDLE_KILLPRIV_V2) as client:
        nodeid, fh = await opened(client)
        del files.log[:]
        await client.write(nodeid, fh, 0, b"x", kill_suidgid=True)
        assert files.log == [("setattr", "f", KILL, "handle of f"), ("write", "f", b"x")]
        del files.log[:]
        await client.write(nodeid, fh, 0, b"x")
        assert files.log == [("write", "f", b"x")]
        del files.log[:]
        await client.open(nodeid, Open.RDWR | Open.TRUNC, open_flags=Open.KILL_SUIDGID)
        assert files.log == [("setattr", "f", KILL, None), ("open", "f")]
        files.refuses["setattr"] = errno.EPERM
        for ask in (
            client.write(nodeid, fh, 0, b"y", kill_suidgid=True),
            client.open(nodeid, Open.RDWR | Open.TRUNC, open_flags=Open.KILL_SUIDGID),
        ):
            del files.log[:]
            with pytest.raises(PermissionError):
                await ask
            assert [entry[0] for entry in files.log] == ["setattr"]


# FORGET


@pytest.mark.parametrize("count", [1, FORGETS_AT_ONCE, FORGETS_AT_ONCE + 1, 3 * FORGETS_AT_ONCE])
async def test_many_nodes_are_forgotten_at_once(count: int) -> None:
    files = Recorder()
    async with served(files) as client:
        names = [f"n{number}" for number in range(count)]
        nodes = [(await client.lookup(1, name)).nodeid for name in names]
        await client.batch_forget([(nodeid, 1) for nodeid in nodes])
        for nodeid in nodes:
            with pytest.raises(OSError, match="Stale"):
                await client.getattr(nodeid)
        assert files.forgotten == names
