"""``hdvkit run vfio-user:...`` as a person and a program use it: what is printed, and how it ends."""

import json
import shlex
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from vfio_user_bench import socket_directory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

LIMIT = 30
VERSION = struct.pack("<HHIII", 0, 1, 23, 0, 0) + bytes(4) + b"{}\0"


@pytest.fixture
def directory() -> Iterator[Path]:
    with socket_directory() as made:
        (made / "source").mkdir()
        (made / "it's here").mkdir()
        yield made


@contextmanager
def running(directory: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """``hdvkit run`` with two shares; killed if it has not ended by itself."""
    shares = [f"virtiofs:source={directory}/source,tag={tag},name={tag}" for tag in ("one", "two")]
    host = f"vfio-user:directory={directory}/it's here"
    words = [sys.executable, "-W", "error", "-m", "hdvkit", "run", host, *shares, *options]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def lines(process: "subprocess.Popen[str]", count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_people_are_shown_what_to_paste(number: signal.Signals, directory: Path) -> None:
    with running(directory) as process:
        shown = lines(process, 4)
        for tag, told, pasted in zip(("one", "two"), shown[::2], shown[1::2], strict=True):
            path = directory / "it's here" / f"{tag}.sock"
            assert told == f"{tag} (virtiofs) listening socket {path}\n"
            assert pasted.startswith("    qemu-system-x86_64 -M ")
            device = json.loads(shlex.split(pasted)[-1])
            assert device == {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": str(path)}}
            assert connects(path)
        process.send_signal(number)
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, "")
    assert [line.split()[2] for line in out.splitlines()] == ["closed", "closed"]
    assert "qemu" not in out
    assert list((directory / "it's here").iterdir()) == []


def test_programs_are_told_the_socket_and_clients_are_hung_up_on(directory: Path) -> None:
    with running(directory, "--json") as process, socket.socket(socket.AF_UNIX) as client:
        first, second = (json.loads(line) for line in lines(process, 2))
        path = directory / "it's here" / "one.sock"
        assert first == {"event": "listening", "device": "one", "kind": "virtiofs", "socket": str(path)}
        assert second["device"] == "two"
        client.settimeout(LIMIT)
        client.connect(first["socket"])
        client.sendall(VERSION)
        assert client.recv(4096).startswith(VERSION[:4])
        process.terminate()
        assert client.recv(4096) == b""
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, "")
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["closed", "closed"]
    assert list((directory / "it's here").iterdir()) == []


def test_what_cannot_be_served_ends_with_a_sentence(directory: Path) -> None:
    (directory / "it's here" / "two.sock").write_text("in the way")
    with running(directory) as process:
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert err.count("\n") == 1
    assert err.startswith("hdvkit: ")
    assert 'two.sock" is there already and no socket; remove it' in err
    assert "one (virtiofs) closed" in out
    assert [one.name for one in (directory / "it's here").iterdir()] == ["two.sock"]
