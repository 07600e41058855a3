"""A directory to measure in, what makes load, and a server: for tests of the benchmarks."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import build, run, servers
from benchmarks.run import Tree

ENTRIES, MIB = 120, 16
EVERYWHERE = os.sched_getaffinity(0) if sys.platform == "linux" else set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a compiler there is nothing that makes load."""
    if build.compiler() is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="the load generator needs a C compiler"))


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes load."""
    return build.load_program(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def tree(program: Path, tmp_path: Path) -> Tree:
    """A directory that was made for measuring."""
    (tmp_path / "tree").mkdir()
    made = Tree(tmp_path / "tree", ENTRIES, MIB)
    run.make_tree(program, made)
    return made


@pytest.fixture
def server(tree: Tree) -> Iterator[servers.Server]:
    """A share of it."""
    with servers.serving(servers.hdvkit_contender(native=False), tree.directory, EVERYWHERE) as served:
        yield served
