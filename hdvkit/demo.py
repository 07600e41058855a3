"""``hdvkit demo``: a real directory through the real device path, used by the simulated guest. No printing here."""

import errno
import os
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import attrs

from hdvkit.errors import UsageError
from hdvkit.opening import open_host
from hdvkit.runtime import FunctionStats
from hdvkit.testing.driver import Feature
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.guest import Guest
from hdvkit.testing.mount import GuestMount

LARGEST_READ = 64 << 20
SAMPLES: Final = {"hello.txt": b"Hello from the host.\n", "numbers.bin": bytes(range(256)) * 4096}
"""What is shared when nobody names a directory."""


@attrs.frozen
class Step:
    """One thing the guest did."""

    did: str
    saw: str
    bytes: int
    requests: int
    seconds: float
    failed: bool = False


@attrs.define
class Demo:
    """One run: iterate ``steps``, then look at the rest."""

    directory: Path
    packed: bool = False
    read_only: bool = False
    stats: FunctionStats | None = None

    async def steps(self) -> AsyncIterator[Step]:
        """Share the directory, and yield each thing the guest does with it.

        Raises:
            UsageError: The directory cannot be shared.
        """
        async with open_host("sim") as host:
            share = await host.add("virtiofs", source=self.directory, tag="demo", read_only=self.read_only)
            started = time.perf_counter()
            async with Guest.of(host).drive(share, packed=self.packed) as driver:
                await share.ready()
                features = ", ".join(str(one.name) for one in Feature if one & driver.features)
                saw = f"{driver.num_queues} queues of {driver.queues[0].size}, {features}"
                yield Step("find the PCI function and negotiate", saw, 0, 0, time.perf_counter() - started)
                hiprio, *requests = driver.queues
                async with GuestMount(FuseClient(requests, hiprio)) as mount:
                    async for step in _Tour(mount, self.directory, self.read_only).run():
                        yield step
            self.stats = share.stats()


class _Tour:
    """What a person would try first on a new mount."""

    def __init__(self, mount: GuestMount, directory: Path, read_only: bool) -> None:
        self._mount = mount
        self._directory = directory
        self._read_only = read_only
        self._name = f"hdvkit-demo-{os.getpid()}.txt"
        self._renamed = f"hdvkit-demo-{os.getpid()}-renamed.txt"
        self._file: str | None = None

    async def run(self) -> AsyncIterator[Step]:
        yield await self._step("list the directory", self._list)
        if self._file is not None:
            yield await self._step(f"read {self._file}", self._read)
        if self._read_only:
            yield await self._step(f"write {self._name}", self._fail_to_write)
            return
        write = await self._step(f"write {self._name}", self._write)
        yield write
        if write.failed:
            return
        yield await self._step("rename it", self._rename)
        yield await self._step("remove it", self._remove)

    async def _step(self, did: str, call: Callable[[], Awaitable[tuple[str, int]]]) -> Step:
        before = self._mount.requests.total()
        started = time.perf_counter()
        failed = False
        try:
            saw, size = await call()
        except (OSError, UsageError) as error:
            saw, size, failed = f"{type(error).__name__}: {error}", 0, True
        return Step(did, saw, size, self._mount.requests.total() - before, time.perf_counter() - started, failed)

    async def _list(self) -> tuple[str, int]:
        entries = await self._mount.scandir()
        files = [(one.name, one.stat.st_size) for one in entries if one.stat and stat.S_ISREG(one.stat.st_mode)]
        readable = [(size, name) for name, size in files if size <= LARGEST_READ]
        self._file = max(readable)[1] if readable else None
        return f"{len(entries)} names, {len(files)} of them files", sum(size for _, size in files)

    async def _read(self) -> tuple[str, int]:
        name = self._file or ""
        data = await self._mount.read_bytes(name)
        same = data == (self._directory / name).read_bytes()
        if not same:
            raise UsageError(f"the guest read other bytes of {name!r} than the host; somebody is writing to it")
        return "the same bytes as on the host", len(data)

    async def _write(self) -> tuple[str, int]:
        data = b"Written by the guest, through its rings, into a directory of the host.\n"
        await self._mount.write_bytes(self._name, data)
        found = (self._directory / self._name).read_bytes()
        return ("the host sees it" if found == data else "the host sees something else"), len(data)

    async def _fail_to_write(self) -> tuple[str, int]:
        try:
            await self._mount.write_bytes(self._name, b"")
        except OSError as error:
            if error.errno == errno.EROFS:
                return "refused: the share is read-only", 0
            raise
        raise UsageError("the guest wrote into a read-only share")

    async def _rename(self) -> tuple[str, int]:
        await self._mount.rename(self._name, self._renamed)
        return f"now {self._renamed}", 0

    async def _remove(self) -> tuple[str, int]:
        await self._mount.unlink(self._renamed)
        gone = not (self._directory / self._renamed).exists()
        return "gone on the host too" if gone else "still there on the host", 0
