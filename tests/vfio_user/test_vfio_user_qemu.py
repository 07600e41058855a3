"""QEMU as the other side: the line to be pasted into a shell, and whether there is one that knows the protocol."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hdvkit_vfio_user import qemu
from hdvkit_vfio_user.backend import VfioUserBackend
from hypothesis import example, given
from hypothesis import strategies as st

from hdvkit.runtime import Finding

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

ASKED = ["-device", "vfio-user-pci,help"]


def device_of(line: str) -> Mapping[str, object]:
    """The device of a command line, as QEMU would read it from a shell."""
    words = shlex.split(line)
    assert words[0] == "qemu-system-x86_64"
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert len(options) == len(words) // 2
    name = options["-M"].partition("memory-backend=")[2]
    kind, *properties = options["-object"].split(",")
    assert kind == "memory-backend-memfd"
    assert {f"id={name}", f"size={options['-m']}", "share=on"} == set(properties)
    found = json.loads(options["-device"])
    assert isinstance(found, dict)
    return found


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
@example("/run/a directory/device.sock")
@example('/run/it\'s/"quoted"/$HOME/`id`/a,,b=c\\d.sock')
@example("/run/gerät/装置 🚀.sock")
@example("/run/two\nlines\t.sock")
@example("/run/--/{'x':[1]}/%20.sock")
def test_the_line_survives_shell_and_qemu(path: str) -> None:
    line = qemu.command_line(Path(path))
    assert "\n" not in line
    assert device_of(line) == {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": str(Path(path))}}


def test_a_real_shell_reads_the_line_the_same() -> None:
    path = Path('/run/it\'s "a" $HOME `dir`/gerät;&|<>*?~!.sock')
    line = qemu.command_line(path)
    shown = subprocess.run(["sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == shlex.split(line)


# Whether there is one


def program(path: Path, code: int) -> str:
    """A stand-in for QEMU that notes what it was asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {shlex.quote(str(path))}.asked\nexit {code}\n')
    path.chmod(0o755)
    return str(path)


def asked(name: str) -> list[str]:
    return Path(f"{name}.asked").read_text().splitlines()


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without QEMU; ``bin`` is searched for programs."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.delenv("HDVKIT_QEMU", raising=False)
    monkeypatch.delenv("HDVKIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def not_good(finding: Finding) -> str:
    assert not finding.good
    assert finding.what == "QEMU with vfio-user-pci"
    assert "QEMU 10.1 or newer" in finding.advice
    assert "HDVKIT_QEMU" in finding.advice
    return finding.found


def test_the_qemu_that_was_chosen_is_asked(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = program(bare / "my qemu", 0)
    program(bare / "bin" / "qemu-system-x86_64", 1)
    monkeypatch.setenv("HDVKIT_QEMU", chosen)
    assert qemu.finding() == Finding("QEMU with vfio-user-pci", chosen, good=True)
    assert asked(chosen) == ASKED


def test_one_without_the_driver_will_not_do_even_beside_one_with_it(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = program(bare / "old", 1)
    program(bare / "bin" / "qemu-system-x86_64", 0)
    monkeypatch.setenv("HDVKIT_QEMU", chosen)
    assert not_good(qemu.finding()) == f"{chosen}: it knows no vfio-user-pci"


def test_one_that_cannot_be_run_will_not_do(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HDVKIT_QEMU", str(bare / "missing"))
    assert "missing: [Errno 2] No such file" in not_good(qemu.finding())
    (bare / "text").write_text("no program")
    monkeypatch.setenv("HDVKIT_QEMU", str(bare / "text"))
    assert "text: [Errno 13] Permission denied" in not_good(qemu.finding())
    (bare / "text").chmod(0o755)
    assert "Exec format error" in not_good(qemu.finding())
    monkeypatch.setenv("HDVKIT_QEMU", str(bare))
    assert "Permission denied" in not_good(qemu.finding())


def test_the_system_then_the_cache_is_searched(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/usr/bin/qemu-system-x86_64").exists():
        monkeypatch.setenv("PATH", str(bare / "bin"))
        (bare / "bin" / "sh").symlink_to("/bin/sh")
    assert not_good(qemu.finding()) == "no QEMU"
    cached = program(bare / "cache/hdvkit/bin/qemu-system-x86_64", 0)
    assert qemu.finding().found == cached
    system = program(bare / "bin" / "qemu-system-x86_64", 1)
    assert qemu.finding().found == cached, "the system's is too old"
    program(Path(cached), 1)
    assert not_good(qemu.finding()) == f"{system}: it knows no vfio-user-pci; {cached}: it knows no vfio-user-pci"
    program(Path(system), 0)
    assert qemu.finding().found == system
    Path(system).unlink()
    monkeypatch.setenv("HDVKIT_CACHE", str(bare / "elsewhere"))
    assert not_good(qemu.finding()) == "no QEMU"
    elsewhere = program(bare / "elsewhere/bin/qemu-system-x86_64", 0)
    assert qemu.finding().found == elsewhere


def check(chosen: str) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-m", "hdvkit", "check", "vfio-user"]
    environment = {**os.environ, "HDVKIT_QEMU": chosen, "COLUMNS": "500"}
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=environment)


def test_check_says_what_is_missing(bare: Path) -> None:
    good, bad = program(bare / "good", 0), program(bare / "bad", 1)
    done = check(good)
    assert (done.returncode, done.stderr) == (0, "")
    assert good in done.stdout
    assert "missing" not in done.stdout
    done = check(bad)
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = [one for one in done.stdout.splitlines() if "vfio-user-pci" in one]
    assert "missing" in line
    assert f"{bad}: it knows no vfio-user-pci" in line
    assert "install QEMU 10.1 or newer" in line


def test_the_platform_is_looked_at_too(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one.good for one in VfioUserBackend.check()] == [True, False, True]
    monkeypatch.setattr(sys, "platform", "win32")
    linux, *_ = VfioUserBackend.check()
    assert (linux.found, linux.good) == ("win32", False)
    assert "use Linux" in linux.advice
