"""The examples run, say what they should, and the one that is a project installs like a stranger's."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from systems import shares_directories

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PLUGIN = EXAMPLES / "hdvkit-rng"
LIMIT = 300
"""Seconds after which a program counts as hung."""

OUTPUT = {
    "share_folder.py": [
        "the guest reads: What does the guest see?",
        "the host reads:  The same files as the host.",
        "requests on queue requests.0",
        "the share is:    removed",
    ],
    "memory_filesystem.py": ["name\nhosts/\nkinds\n", 'hosts/sim says "works"', "writing fails: EROFS"],
    "drive_by_hand.py": [
        "nothing there:   None",
        "5 bytes to read, 64 to write",
        "index 1, chain 0, 5 bytes",
        "b'HELLO'",
        "leases left:     0",
    ],
}


def run(command: Sequence[object], **options: object) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=LIMIT, **options)  # type: ignore[call-overload,no-any-return]  # options pass through


ELSEWHERE = {"share_with_qemu.py"}
"""These need a virtual machine: `tests/e2e/test_example.py` runs them."""


def test_each_script_is_run_somewhere() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(OUTPUT) | ELSEWHERE


@pytest.mark.parametrize(
    "script", [pytest.param(one, marks=shares_directories if one == "share_folder.py" else ()) for one in OUTPUT]
)
def test_a_script_says_what_it_should(script: str, tmp_path: Path) -> None:
    done = run([sys.executable, "-W", "error", EXAMPLES / script], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for expected in OUTPUT[script]:
        assert expected in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs of a new environment are, which holds hdvkit and the example."""
    place = tmp_path_factory.mktemp("stranger")
    sources: list[str | Path] = [copied(ROOT, place / "hdvkit"), f"{copied(PLUGIN, place / 'rng')}[test]"]
    run([sys.executable, "-m", "venv", "--without-pip", place / "venv"], check=True)
    programs = place / "venv" / ("Scripts" if os.name == "nt" else "bin")
    # Our pip fills the other environment; the builders come once instead of once for each project, in half the time.
    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet", "--no-compile"]
    done = run([*pip, *builders(ROOT), *builders(PLUGIN)])
    if done.returncode:
        pytest.skip(f"pip cannot install here: {last_line(done.stderr)}")
    done = run([*pip, "--no-build-isolation", *sources])
    assert done.returncode == 0, done.stderr
    return programs


def builders(project: Path) -> list[str]:
    """What a project says it is built with."""
    table = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    needed: list[str] = table["build-system"]["requires"]
    return needed


def copied(project: Path, target: Path) -> Path:
    """A project without what lies around in a checkout, so that nothing but its files is installed."""
    ours = shutil.ignore_patterns(".*", "__pycache__", "build", "dist")
    return Path(shutil.copytree(project, target, ignore=ours))


def last_line(text: str) -> str:
    """The end of what a program complained about."""
    return (text.strip().splitlines() or ["it did not say why"])[-1]


def hdvkit(programs: Path, *arguments: str) -> str:
    """What the installed command prints, away from the checkout."""
    done = run([programs / "hdvkit", *arguments], cwd=programs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.install
def test_what_runs_is_what_was_installed(installed: Path) -> None:
    code = "import hdvkit, hdvkit_rng; print(hdvkit.__file__, hdvkit_rng.__file__)"
    found = run([installed / "python", "-c", code], cwd=installed)
    assert [Path(name).is_relative_to(installed.parent) for name in found.stdout.split()] == [True, True]


@pytest.mark.install
def test_the_plugin_is_found_by_its_entry_point(installed: Path) -> None:
    listed = {one["name"]: one for one in map(json.loads, hdvkit(installed, "plugins", "--json").splitlines())}
    assert {name for name, one in listed.items() if one["state"] == "loaded"} >= {"sim", "virtiofs", "rng"}
    rng = listed["rng"]
    assert (rng["distribution"], rng["version"], rng["devices"]) == ("hdvkit-rng", "0.1.0", ["rng"])
    assert "hdvkit-rng 0.1.0" in hdvkit(installed, "plugins")


@pytest.mark.install
def test_the_plugin_passes_the_conformance_kit(installed: Path) -> None:
    done = run([installed / "hdvkit", "selftest", "rng", "--json"], cwd=installed)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) > 10
    assert [one for one in results if not one["passed"]] == []
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.install
async def test_the_plugin_is_served_until_a_signal(installed: Path) -> None:
    serving = await asyncio.create_subprocess_exec(
        *(str(installed / "hdvkit"), "run", "sim", "rng:limit=32", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=installed,
    )
    assert serving.stdout is not None
    async with asyncio.timeout(LIMIT):
        first = json.loads(await serving.stdout.readline())
        serving.send_signal(signal.SIGTERM)
        rest, complaints = await serving.communicate()
    assert first == {"event": "listening", "device": "rng", "kind": "rng", "slot": "0"}
    assert [json.loads(line)["event"] for line in rest.splitlines()] == ["closed"]
    assert (serving.returncode, complaints) == (0, b"")


@pytest.mark.install
def test_the_plugins_own_tests_pass_where_it_is_installed(installed: Path) -> None:
    # The program, not "python -m": that would find the module in the project instead of the installed one.
    project = installed.parent.parent / "rng"
    done = run([installed / "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"], cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
