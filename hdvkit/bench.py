"""``hdvkit bench``: what a program in a guest waits for, beside what it would wait for on the host. No printing here.

The simulated guest stands in for a real one, in the same process and in Python: its half counts too, so real guests
wait less. Ratios between machines and versions are what this is good for.
"""

import asyncio
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import attrs
from rich.table import Table
from rich.text import Text

from hdvkit.errors import UsageError
from hdvkit.opening import open_host
from hdvkit.testing.guest import Guest
from hdvkit.testing.mount import GuestMount
from hdvkit.testing.mount_file import GuestFile

SIZE: Final = 8 << 20
NAMES: Final = 200
SMALL, LARGE = 4 << 10, 1 << 20
DATA: Final = bytes(range(256)) * (SIZE // 256)


@attrs.frozen
class Result:
    """One kind of work. Microseconds are those of one operation; ``requests`` is what the guest sent for it."""

    did: str
    host_us: float
    guest_us: float
    requests: float
    same: bool

    @property
    def times(self) -> float:
        """How many times as long it takes in the guest."""
        return self.guest_us / self.host_us


class _Work(NamedTuple):
    did: str
    host: Callable[[], object]
    guest: Callable[[], Awaitable[object]]
    left: Callable[[], object] = lambda: None
    """What it left on the host; also takes it away again."""


def run(directory: Path, seconds: float) -> list[Result]:
    """Measure each kind of work for so many seconds, in a folder in ``directory`` that is removed in the end.

    Raises:
        UsageError: The directory cannot be shared, or written to.
    """
    try:
        room = Path(tempfile.mkdtemp(prefix="hdvkit-bench-", dir=directory))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"cannot measure in {directory}: {reason}; name a directory that you may write to") from error
    try:
        _fill(room)
        return asyncio.run(_run(directory, room.name, seconds))
    finally:
        shutil.rmtree(room)


def table(results: Sequence[Result]) -> Table:
    """The results for people."""
    made = Table("what a program did")
    for column in ("host, us", "guest, us", "times", "requests"):
        made.add_column(column, justify="right")
    for one in results:
        did = Text(one.did) if one.same else Text(f"{one.did}: another result than on the host", "red")
        made.add_row(did, f"{one.host_us:,.1f}", f"{one.guest_us:,.1f}", f"{one.times:,.1f}", f"{one.requests:,.1f}")
    return made


def _fill(room: Path) -> None:
    (room / "data").write_bytes(DATA)
    (room / "target").write_bytes(bytes(SIZE))
    (room / "names").mkdir()
    for number in range(NAMES):
        (room / f"names/{number:03}").touch()


async def _run(directory: Path, room: str, seconds: float) -> list[Result]:
    async with open_host("sim") as host:
        share = await host.add("virtiofs", source=directory, tag="bench")
        async with Guest.of(host).mount(share) as mount:
            with (
                (directory / room / "data").open("rb", buffering=0) as data,
                (directory / room / "target").open("r+b", buffering=0) as target,
            ):
                async with (
                    await mount.open(f"{room}/data", "rb") as guest_data,
                    await mount.open(f"{room}/target", "r+b") as guest_target,
                ):
                    works = [
                        *_names(directory / room, mount, room),
                        *_transfers(data, target, guest_data, guest_target),
                    ]
                    return [await _measure(one, mount, seconds) for one in works]


def _names(here: Path, mount: GuestMount, there: str) -> list[_Work]:
    def host_list() -> list[tuple[str, int]]:
        with os.scandir(here / "names") as entries:
            return sorted((one.name, one.stat().st_size) for one in entries)

    async def guest_list() -> list[tuple[str, int]]:
        entries = await mount.scandir(f"{there}/names")
        return sorted((one.name, one.stat.st_size) for one in entries if one.stat and one.name not in (".", ".."))

    async def guest_stat() -> int:
        return (await mount.stat(f"{there}/data")).st_size

    def host_open() -> None:
        (here / "data").open("rb", buffering=0).close()

    async def guest_open() -> None:
        async with await mount.open(f"{there}/data", "rb"):
            pass

    def host_make() -> None:
        (here / "made").write_bytes(b"x")
        (here / "made").unlink()

    async def guest_make() -> None:
        await mount.write_bytes(f"{there}/made", b"x")
        await mount.unlink(f"{there}/made")

    return [
        _Work("look at a file", lambda: (here / "data").stat().st_size, guest_stat),
        _Work("open and close it", host_open, guest_open),
        _Work(f"list {NAMES} names with attributes", host_list, guest_list),
        _Work("make, write and remove a file", host_make, guest_make, lambda: sorted(here.iterdir())),
    ]


def _transfers(data: BinaryIO, target: BinaryIO, guest_data: GuestFile, guest_target: GuestFile) -> list[_Work]:
    def host_read(size: int) -> bytes:
        data.seek(size)
        return data.read(size)

    def host_write(size: int) -> int:
        target.seek(size)
        return target.write(DATA[:size])

    works = []
    for size, words in ((SMALL, "4 KiB"), (LARGE, "1 MiB")):
        guest_read = functools.partial(guest_data.pread, size, size)
        guest_write = functools.partial(guest_target.pwrite, DATA[:size], size)
        works.append(_Work(f"read {words}", functools.partial(host_read, size), guest_read))
        left = functools.partial(_wipe, target, size)
        works.append(_Work(f"write {words}", functools.partial(host_write, size), guest_write, left))
    return works


def _wipe(target: BinaryIO, size: int) -> bytes:
    target.seek(size)
    found = target.read(size)
    target.seek(size)
    target.write(bytes(size))
    return found


async def _measure(work: _Work, mount: GuestMount, seconds: float) -> Result:
    same = (work.host(), work.left()) == (await work.guest(), work.left())  # also warms both up
    host = 0
    began = time.perf_counter()
    while (host_time := time.perf_counter() - began) < seconds or not host:
        work.host()
        host += 1
    before, guest = mount.requests.total(), 0
    began = time.perf_counter()
    while (guest_time := time.perf_counter() - began) < seconds or not guest:
        await work.guest()
        guest += 1
    sent = (mount.requests.total() - before) / guest
    return Result(work.did, host_time / host * 1e6, guest_time / guest * 1e6, sent, same)
