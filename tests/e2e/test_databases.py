"""SQLite on a share: nothing is lost, whoever else writes.

WAL mode needs memory that all processes share, so all of them are in one guest; with a rollback journal locks on the
file are enough, and a process of the host may join.
"""

import asyncio
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
from guest_files import LIMIT, LONG, Folder, booted, tools
from hdvkit_virtiofs import VirtioFs
from hdvkit_vm import Assets, VirtualMachine

PROGRAM = Path(__file__).parent / "programs" / "count_in_database.py"
GUESTS = 4
"""Processes in the guest."""
COUNT = 2000 if LONG else 30
"""Transactions of each."""


@pytest.mark.parametrize(("journal", "hosts"), [("wal", 0), ("delete", 1)])
async def test_nobody_loses_a_transaction(
    kernel: str, assets: Assets, room: Path, log: Path, journal: str, hosts: int
) -> None:
    folder = room / "share"
    folder.mkdir()
    shutil.copy(PROGRAM, folder)
    prepare_database(folder / "database", journal)
    shares = [VirtioFs(source=folder, tag="share"), tools(assets)]
    async with booted(kernel, assets, room, log, shares, cpus=2) as (vm, _):
        ours = [await start_here(folder / "database", journal) for _ in range(hosts)]
        told = await Folder(vm, folder, "/share").sh(run_there(journal))
        assert told == "0 0 0 0 "
        for process in ours:
            async with asyncio.timeout(LIMIT):
                assert await process.wait() == 0
        assert check(folder / "database") == ("ok", COUNT * (GUESTS + hosts))
        await same_in_guest(vm)


def prepare_database(path: Path, journal: str) -> None:
    """An empty one."""
    with sqlite3.connect(path) as database:
        database.executescript(
            f"PRAGMA journal_mode={journal};"
            "CREATE TABLE counter (value INTEGER); INSERT INTO counter VALUES (0);"
            "CREATE TABLE log (value INTEGER PRIMARY KEY, filling TEXT);"
        )
    database.close()


def run_there(journal: str) -> str:
    """All processes of the guest at once, and how each ended."""
    start = f'/tools/python count_in_database.py database {journal} {COUNT} > /tmp/$n 2>&1 & pids="$pids $!"'
    return f'pids=; for n in $(seq {GUESTS}); do {start}; done; set +e; for p in $pids; do wait $p; echo -n "$? "; done'


async def start_here(path: Path, journal: str) -> asyncio.subprocess.Process:
    """One more process, of the host."""
    return await asyncio.create_subprocess_exec(sys.executable, PROGRAM, path, journal, str(COUNT))


def check(path: Path) -> tuple[str, int]:
    """What SQLite thinks of the database, and how far it has counted; each number must be there once."""
    with sqlite3.connect(path) as database:
        (opinion,) = database.execute("PRAGMA integrity_check").fetchone()
        (value,) = database.execute("SELECT value FROM counter").fetchone()
        (rows,) = database.execute("SELECT COUNT(*) FROM log").fetchone()
    database.close()
    assert rows == value
    return opinion, value


async def same_in_guest(vm: VirtualMachine) -> None:
    """The guest agrees."""
    code = 'import sqlite3; print(sqlite3.connect("/share/database").execute("PRAGMA integrity_check").fetchone()[0])'
    assert await vm.run(f"/tools/python -c '{code}'", timeout=LIMIT) == "ok\n"
