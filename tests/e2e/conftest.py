"""Stock kernels in QEMU in front of the host kind ``vfio-user``. Each test boots its own; run them by ``make e2e``."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hdvkit_vm import Assets, prepare

HERE = Path(__file__).parent
SHOWN = 80
"""Lines of the console that a failed test shows; all of it stays in pytest's temporary folder."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that is here boots machines: it runs when asked for."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def assets() -> Assets:
    """QEMU, kernels and guest programs, from the cache."""
    return prepare()


@pytest.fixture(params=["6.1", "7.x"])
def kernel(request: pytest.FixtureRequest) -> str:
    """Each of the kernels."""
    return str(request.param)


@pytest.fixture
def room() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="hdvkit-") as path:
        yield Path(path)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """Where the guest's console goes. Its end is shown when the test fails."""
    path = tmp_path / "console.log"
    yield path
    if path.exists():
        lines = path.read_text(errors="replace").splitlines()
        sys.stdout.write("\n".join([f"console, all of it in {path}:", *lines[-SHOWN:], ""]))
