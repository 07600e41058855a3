"""A share served by C and Python together: a client of it, and what of its requests reaches Python."""

import asyncio
import contextlib
import errno
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
from hdvkit_virtiofs import Passthrough, VirtioFs

import hdvkit
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import ROOT_ID
from hdvkit.testing.fuse_messages import Opcode as Sent
from hdvkit.testing.guest import Guest


async def refusal(asked: Awaitable[object]) -> int:
    """The errno of what is refused."""
    with pytest.raises(OSError, match=r"^\[Errno") as caught:
        await asked
    assert caught.value.errno is not None
    return caught.value.errno


async def shown(client: FuseClient, nodeid: int) -> int | tuple[int, int, int]:
    """Number, size and names of a file, or the errno."""
    try:
        attributes = (await client.getattr(nodeid)).attr
    except OSError as error:
        return error.errno or 0
    return attributes.ino, attributes.size, attributes.nlink


class Heard:
    """The opcodes that reached Python, of those that a client sends."""

    def __init__(self, device: VirtioFs) -> None:
        self.device = device
        self.opcodes: list[int] = []
        self.sent: Counter[int] = Counter()
        begin = device.server.begin

        def heard(channel: Any) -> Any:
            call = begin(channel)
            if call is not None:
                self.opcodes.append(call.header.opcode)
            return call

        device.server.begin = heard  # type: ignore[method-assign]  # an ear in front of it

    def take(self) -> list[int]:
        """Those since the last time."""
        heard, self.opcodes = self.opcodes, []
        self.sent.clear()
        return heard

    def by_c(self) -> set[int]:
        """Those that C has answered at least once."""
        return {*(self.sent - Counter(self.opcodes))}


class Counted(FuseClient):
    """A client that tells what it sends."""

    heard: Heard

    async def call(self, opcode: Sent, *arguments: Any, **layout: Any) -> bytes:
        """Send a request, and wait for the answer."""
        self.heard.sent[opcode] += 1
        return await super().call(opcode, *arguments, **layout)


async def forgotten(client: FuseClient, nodeid: int) -> None:
    """Nobody knows a node any more, once what was sent before is carried out: that has no answer."""
    async with asyncio.timeout(20):
        while await shown(client, nodeid) != errno.ESTALE:
            pass


async def settled(client: FuseClient) -> None:
    """Python has seen all that was sent, what has no answer too: it alone answers this."""
    assert await refusal(client.getxattr_size(ROOT_ID, "user.nothing")) == errno.ENODATA


@contextlib.asynccontextmanager
async def mounted(folder: Path | Passthrough, **options: Any) -> AsyncIterator[tuple[FuseClient, Heard]]:
    """A client of a share, and what of its requests reaches Python."""
    device = VirtioFs(source=folder, tag="t", **options)
    heard = Heard(device)
    async with hdvkit.open_host("sim", memory_mb=64) as host:
        share = await host.add(device)
        async with Guest.of(host).drive(share) as driver:
            hiprio, *requests = driver.queues
            client = Counted(requests, hiprio)
            client.heard = heard
            await client.init()
            heard.take()
            yield client, heard
        assert share.stats().needs_resets == 0
