"""The command as people and programs use it: words in, tables or JSON out, exit codes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from systems import shares_directories

from hdvkit.cli import main

SHARE = "virtiofs:source={},tag=src"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    assert isinstance(code, int)
    return code


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("ring", [[], ["--packed"]])
def test_demo_uses_a_real_directory_and_leaves_it_as_it_was(
    ring: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "big.bin").write_bytes(os.urandom(300_000))
    (tmp_path / "small.txt").write_text("small")
    (tmp_path / "folder").mkdir()
    before = tree(tmp_path)
    assert run("demo", str(tmp_path), "--json", *ring) == 0
    steps = printed(capsys)
    assert [step["did"] for step in steps][1:3] == ["list the directory", "read big.bin"]
    assert steps[1]["saw"] == "3 names, 2 of them files"
    assert steps[2]["bytes"] == 300_000
    assert [step["saw"] for step in steps][3] == "the host sees it"
    assert steps[5]["saw"] == "gone on the host too"
    assert not any(step["failed"] for step in steps)
    assert tree(tmp_path) == before


def test_demo_without_a_directory_makes_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("demo") == 0
    out = capsys.readouterr().out
    assert "the same bytes as on the host" in out
    assert "split queue requests.0" in out


def test_demo_shows_that_a_read_only_share_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("demo", str(tmp_path), "--read-only", "--json") == 0
    assert printed(capsys)[-1]["saw"] == "refused: the share is read-only"
    assert list(tmp_path.iterdir()) == []


NO_SHARES = [
    (["demo", "/no/such/directory"], "cannot share '/no/such/directory': no such file or directory"),
    (["demo", "/etc/hostname"], "cannot share '/etc/hostname': not a directory"),
]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        *(pytest.param(*row, marks=shares_directories) for row in NO_SHARES),
        (["run", "smi", "virtiofs"], "there is no host 'smi'"),
        (["run", "sim", "virtiofz"], "there is no device 'virtiofz'"),
        (["run", "sim", "virtiofs:source=/tmp"], "tag"),
        (["run", "sim", "virtiofs:source=/tmp,tag=x,queues=99"], "queues"),
        (["run", "sim:memory_mb=lots", "virtiofs"], "memory_mb"),
        (["run", "sim", "virtiofs:source"], "="),
        (["selftest", "virtiofs:tag=x"], "source"),
        (["check", "nowhere"], "there is no host 'nowhere'"),
        (["demo", ""], "an empty DIRECTORY"),
        (["run", "sim", "virtiofs:source=,tag=x"], "empty source"),
        (["run", "sim", "virtiofs:source=/tmp,tag=a\nb"], "control characters"),
        (["run", "sim"], "Missing argument"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_an_error_of_use_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert "Traceback" not in err


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--debug", "demo", "/no/such/directory") == 2
    assert "Traceback" in capsys.readouterr().err


def test_plugins_are_listed_with_their_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plugins", "--json") == 0
    listed = {str(one["name"]): one for one in printed(capsys)}
    assert listed["sim"]["hosts"] == ["sim"]
    assert listed["virtiofs"]["devices"] == ["virtiofs"]
    assert listed["virtiofs"]["distribution"] == "hdvkit"


def test_a_broken_plugin_is_named_with_its_traceback_and_harms_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('out of order')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HDVKIT_LOAD_PLUGINS", "sim,virtiofs,broken_plugin:")
    assert run("plugins") == 0
    out = capsys.readouterr().out
    assert "broken_plugin" in out
    assert "RuntimeError: out of order" in out
    assert run("demo", "--json") == 0
    capsys.readouterr()
    assert run("check", "--json") == 1
    assert [one["what"] for one in printed(capsys) if not one["good"]] == ["plugin broken_plugin:"]


def test_check_says_what_this_machine_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "sim", "--json") == 0
    findings = printed(capsys)
    assert {"Python", "hdvkit", "rings", "requests of virtiofs", "host sim"} <= {str(one["what"]) for one in findings}
    assert all(one["good"] for one in findings)


def test_check_says_of_each_part_whether_it_is_in_c(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HDVKIT_NATIVE", "0")
    assert run("check", "sim", "--json") == 0
    found = {str(one["what"]): one["found"] for one in printed(capsys)}
    assert found["rings"] == "HDVKIT_NATIVE=0 asks for Python"
    if sys.platform == "linux":
        assert found["requests of virtiofs"] == "HDVKIT_NATIVE=0 asks for Python"


@pytest.mark.parametrize("module", ["hdvkit.native._native", "hdvkit_virtiofs.native._hot"])
@pytest.mark.skipif(sys.platform != "linux", reason="the C of virtio-fs is for Linux")
def test_c_that_is_insisted_on_is_all_there(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HDVKIT_NATIVE", "1")
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not built
    for words in (("check", "sim"), ("run", "sim", f"virtiofs:source={tmp_path},tag=t")):
        assert run(*words) == 2
        said = capsys.readouterr().err
        assert "HDVKIT_NATIVE=1 asks for C, which was not built" in said
        assert module.rpartition(".")[2] in said or module in said


@shares_directories
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_serves_until_a_signal_and_exits_with_0(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hdvkit", "run", "sim", SHARE.format(tmp_path), SHARE.format(tmp_path), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert told == [
        {"event": "listening", "device": "src", "kind": "virtiofs", "slot": "0"},
        {"event": "listening", "device": "src-2", "kind": "virtiofs", "slot": "1"},
    ]
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["closed", "closed"]
    assert err == ""
    assert process.returncode == 0


@shares_directories
def test_a_name_may_be_given_to_a_device(tmp_path: Path) -> None:
    share = SHARE.format(tmp_path) + ",name=mine"
    command = [sys.executable, "-m", "hdvkit", "run", "sim", share]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "mine (virtiofs) listening slot 0"
        process.terminate()
        assert process.wait(60) == 0


@shares_directories
def test_names_are_not_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = tmp_path / "[red]x["
    odd.mkdir()
    (odd / "[bold]name").write_text("x")
    assert run("demo", str(odd)) == 0
    assert "[red]x[" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="a device that is always full is a thing of Linux")
@pytest.mark.parametrize("arguments", [["plugins"], ["run", "sim", "virtiofs:source=/tmp,tag=x", "--json"]])
def test_output_that_cannot_be_written_ends_with_a_sentence(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device, not a path to think about
        done = subprocess.run(
            [sys.executable, "-m", "hdvkit", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


@shares_directories
def test_selftest_tells_each_result_as_it_comes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("selftest", SHARE.format(tmp_path), "--json") == 0
    results = printed(capsys)
    assert [one["name"] for one in results if not one["passed"]] == []
    assert {"parked", "R1-cycle, split", "R13-no-room, packed", "H8-kick-flood, split"} <= {
        str(one["name"]) for one in results
    }
