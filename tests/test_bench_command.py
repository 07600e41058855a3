"""``hdvkit bench``: the same work on both sides, and nothing left behind. How fast it is, is no business of tests."""

import io
from pathlib import Path

import attrs
import pytest
from rich.console import Console
from systems import shares_directories

from hdvkit import UsageError, bench
from hdvkit.testing.mount_file import GuestFile

SHORT = 0.01

pytestmark = shares_directories


def test_it_compares_the_same_work_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    results = bench.run(tmp_path, SHORT)
    assert [one.did for one in results if not one.same] == []
    assert [one.did for one in results if one.requests < 1] == []
    assert all(one.host_us > 0 and one.guest_us > 0 for one in results)
    assert [one.name for one in tmp_path.iterdir()] == ["mine"]


def test_writes_that_do_not_arrive_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def pretends(_: GuestFile, data: bytes, offset: int) -> int:
        return len(data)

    monkeypatch.setattr(GuestFile, "pwrite", pretends)
    differing = [one.did for one in bench.run(tmp_path, SHORT) if not one.same]
    assert differing == ["write 4 KiB", "write 1 MiB"]


def test_another_result_stands_out_in_the_table() -> None:
    one = bench.Result("look at a file", host_us=1, guest_us=2, requests=1, same=True)
    console = Console(file=io.StringIO(), width=200)
    console.print(bench.table([one, attrs.evolve(one, same=False)]))
    said = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO
    assert said.count("look at a file") == 2
    assert said.count("another result than on the host") == 1


def test_it_needs_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot measure in .*none: no such file or directory; name a directory"):
        bench.run(tmp_path / "none", SHORT)
