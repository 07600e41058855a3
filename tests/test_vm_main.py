"""The command of the virtual machines, without any."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hdvkit_vm.__main__ import cli
from hdvkit_vm.demo import tag_for
from test_vm_cache import complete

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="virtual machines need Linux")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HDVKIT_CACHE", str(tmp_path))
    for name in ("HDVKIT_QEMU", "HDVKIT_ACCEL"):
        monkeypatch.delenv(name, raising=False)
    complete(tmp_path)
    return tmp_path


def test_prepare_tells_what_there_is(cache: Path):
    told = CliRunner().invoke(cli, ["prepare"])
    lines = told.output.splitlines()
    assert lines[:3] == [f"cache    {cache}", f"qemu     {cache}/bin/qemu-system-x86_64", "         QEMU (tcg)"]
    assert lines[3:5] == ["guest    6.1: Linux 6.1.0", f"         kernel {cache}/kernel-6.1/vmlinuz"]
    assert "guest    7.x: Linux 7.0" in lines


def test_prepare_tells_programs_everything(cache: Path):
    told = json.loads(CliRunner().invoke(cli, ["prepare", "--json"]).output)
    assert told["qemu"] == f"{cache}/bin/qemu-system-x86_64"
    assert told["guests"]["7.x"]["kernel"] == f"{cache}/kernel-7.x/vmlinuz"
    assert told["lock"] == json.loads((cache / "lock.json").read_text())


def test_a_shell_needs_a_terminal(tmp_path: Path):
    told = CliRunner().invoke(cli, ["demo", str(tmp_path)])
    assert told.exit_code == 2
    assert "--script" in told.output


@pytest.mark.parametrize(
    ("directory", "tag"),
    [
        ("/srv/src", "src"),
        ("/srv/two words", "two-words"),
        ("/", "share"),
        ("/\u65e5", "share"),
        ("/" + "n" * 99, "n" * 36),
    ],
)
def test_a_tag_needs_no_quotes(directory: str, tag: str):
    assert tag_for(Path(directory)) == tag
