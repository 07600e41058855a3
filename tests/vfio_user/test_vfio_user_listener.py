"""Where devices of the kind vfio-user listen: which paths are taken, which are left alone, and who may connect."""

import asyncio
import contextlib
import gc
import os
import socket
import stat
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from hdvkit_vfio_user.listener import MAX_PATH, Listener
from vfio_user_bench import no_fds_lost, socket_directory
from vfio_user_client import Client

import hdvkit
from hdvkit import HostError, UsageError
from hdvkit.testing.echo import Echo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

LIMIT = 30.0


@pytest.fixture
def directory() -> Iterator[Path]:
    with socket_directory() as made:
        yield made


class Listening:
    """A listener that keeps who connected."""

    def __init__(self, path: Path) -> None:
        self.accepted: asyncio.Queue[socket.socket] = asyncio.Queue()
        self.listener = Listener(path, self.accepted.put_nowait)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.listener.close()
        while not self.accepted.empty():
            self.accepted.get_nowait().close()

    async def serves(self, path: Path) -> bool:
        """Whether a client that connects to a path comes in here."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            async with asyncio.timeout(LIMIT):
                while True:
                    with await self.accepted.get() as connection:
                        assert not connection.getblocking()
                        try:
                            connection.send(b"x")
                        except BrokenPipeError:
                            continue  # somebody who only looked whether we listen
                        return client.recv(1) == b"x"


def names(directory: Path) -> list[str]:
    return sorted(one.name for one in directory.iterdir())


def state_of(directory: Path) -> list[tuple[str, int, int]]:
    """What lies in a directory, and whether any of it was touched."""
    return sorted((one.name, one.lstat().st_ino, one.lstat().st_mode) for one in directory.iterdir())


def crowd(path: Path) -> list[socket.socket]:
    """Clients for which a listening socket has no room any more."""
    clients = []
    with contextlib.suppress(BlockingIOError):
        while True:
            clients.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            clients[-1].connect(str(path))
    return clients


def bound(path: Path) -> socket.socket:
    """A socket at a path on which nobody listens."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    return made


async def test_a_socket_is_never_open_to_others(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Watched(socket.socket):
        """Looks at the path as soon as it is there."""

        def bind(self, address: object) -> None:
            super().bind(address)  # type: ignore[arg-type]  # whatever the code under test gave
            seen.append(stat.S_IMODE((directory / "d.sock").lstat().st_mode))

    before = os.umask(0)
    try:
        monkeypatch.setattr(socket, "socket", Watched)
        with Listening(directory / "d.sock"):
            monkeypatch.undo()
            assert stat.S_IMODE((directory / "d.sock").lstat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert seen == [0o600]


async def test_a_socket_that_nobody_listens_on_is_replaced(directory: Path) -> None:
    path = directory / "d.sock"
    with bound(path), Listening(path) as listening:  # still open, but it never listened
        assert await listening.serves(path)
    bound(path).close()
    with Listening(path) as listening:
        assert await listening.serves(path)
    assert not path.exists()


def make_file(path: Path) -> None:
    path.write_text("precious")


def make_directory(path: Path) -> None:
    path.mkdir()


def make_symlink_to_a_stale_socket(path: Path) -> None:
    target = path.with_name("target")
    bound(target).close()
    path.symlink_to(target)


def make_symlink_to_nowhere(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    "make", [make_file, make_directory, make_symlink_to_a_stale_socket, make_symlink_to_nowhere, make_fifo]
)
async def test_what_is_no_socket_is_left_alone(make: Callable[[Path], None], directory: Path) -> None:
    path = directory / "echo.sock"
    make(path)
    before = state_of(directory)
    async with hdvkit.open_host("vfio-user", directory=directory) as host:
        with pytest.raises(HostError, match=r"echo\.sock.*remove it, or give the device another name"):
            await host.add(Echo(), name="echo")
        assert (await host.add(Echo(), name="other")).place == {"socket": str(directory / "other.sock")}
    assert state_of(directory) == before
    assert not path.is_file() or path.read_text() == "precious"


async def test_where_somebody_listens_nobody_else_does(directory: Path) -> None:
    path = directory / "d.sock"
    with no_fds_lost(), Listening(path) as first:
        inode = path.lstat().st_ino
        with pytest.raises(HostError, match=r"d\.sock'; stop it, or give the device another name"):
            Listener(path, first.accepted.put_nowait)
        assert path.lstat().st_ino == inode
        assert await first.serves(path)


async def test_somebody_too_busy_to_accept_listens_all_the_same(directory: Path) -> None:
    path = directory / "d.sock"
    with bound(path) as busy:
        busy.listen(0)
        waiting = crowd(path)
        with pytest.raises(HostError, match="another process listens"):
            Listener(path, waiting.append)
        for client in waiting:
            client.close()
        assert path.is_socket()


async def test_a_socket_of_another_type_is_left_alone(directory: Path) -> None:
    path = directory / "d.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(HostError, match=r"d\.sock"):
            Listener(path, lambda _: None)
        assert path.is_socket()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket to somebody else")
async def test_a_stale_socket_of_another_user_is_left_alone(directory: Path) -> None:
    path = directory / "d.sock"
    bound(path).close()
    os.chown(path, 65534, 65534)
    with pytest.raises(HostError, match="belongs to another user"):
        Listener(path, lambda _: None)
    assert path.is_socket()


@pytest.mark.parametrize("letter", ["d", "ü"])
async def test_a_path_may_have_107_bytes_and_no_more(letter: str, directory: Path) -> None:
    room = MAX_PATH - len(os.fsencode(directory)) - len("/") - len(".sock")
    longest = letter * (room // len(letter.encode())) + "x" * (room % len(letter.encode()))
    with no_fds_lost():
        async with hdvkit.open_host("vfio-user", directory=directory) as host:
            function = await host.add(Echo(), name=longest)
            async with await Client.connect(function.place["socket"]) as client:
                await client.negotiate()
            with pytest.raises(HostError, match=r"too long for a socket, at most 107 bytes are allowed; shorten it"):
                await host.add(Echo(), name=longest + "x")
            assert names(directory) == [f"{longest}.sock"]
            assert host.devices == (function,)


async def test_a_directory_that_is_missing_is_named(directory: Path) -> None:
    for missing in (directory / "missing", Path("/etc/hostname")):
        with pytest.raises(HostError, match=rf"{missing}' is no directory; make it"):
            await hdvkit.open_host("vfio-user", directory=missing)
    later = directory / "later"
    later.mkdir()
    async with hdvkit.open_host("vfio-user", directory=later) as host:
        later.rmdir()
        with pytest.raises(HostError, match=r"later/echo\.sock' cannot be listened on: No such file") as raised:
            await host.add(Echo(), name="echo")
        assert raised.value.errno == 2


@pytest.fixture
def locked(directory: Path) -> Path:
    directory.chmod(0o500)
    return directory


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_directory_without_permission_is_named(locked: Path) -> None:
    with pytest.raises(HostError, match="no permission; choose another one"):
        await hdvkit.open_host("vfio-user", directory=locked)


@pytest.mark.parametrize("name", ["a/b", "../a", "", "a\0b"])
async def test_a_name_that_names_no_socket_is_refused(name: str, directory: Path) -> None:
    async with hdvkit.open_host("vfio-user", directory=directory) as host:
        with pytest.raises(UsageError, match=r"cannot name a socket; give the device another|is no name of a device"):
            await host.add(Echo(), name=name)
        assert host.devices == ()
        assert names(directory) == []


async def test_an_addition_that_failed_is_forgotten(directory: Path) -> None:
    (directory / "echo.sock").mkdir()
    device = Echo()
    forgotten = weakref.ref(device)

    async def fails(added: Awaitable[object]) -> None:
        with pytest.raises(HostError):
            await added

    async with hdvkit.open_host("vfio-user", directory=directory) as host:
        await fails(host.add(device, name="echo"))
        del device
        await asyncio.sleep(0)
        gc.collect()
        assert forgotten() is None


async def test_only_what_is_ours_is_removed_at_the_end(directory: Path) -> None:
    path = directory / "d.sock"
    for replace in (make_file, make_directory):
        with Listening(path):
            path.unlink()
            replace(path)
        assert not path.is_socket()
        path.rmdir() if path.is_dir() else path.unlink()
    with Listening(path):
        path.unlink()
        bound(path).close()
    assert path.is_socket()
    with Listening(path):
        path.unlink()
    assert not path.exists()


async def test_two_of_a_kind_have_paths_of_their_own(directory: Path) -> None:
    class Rng(Echo):
        default_name = "rng"

    async with hdvkit.open_host("vfio-user", directory=directory) as host:
        functions = await asyncio.gather(*(host.add(Rng()) for _ in range(2)))
        assert sorted(one.name for one in functions) == ["rng", "rng-2"]
        assert names(directory) == ["rng-2.sock", "rng.sock"]
        for name in names(directory):
            async with await Client.connect(directory / name) as client:
                await client.negotiate()
    assert names(directory) == []


WITHOUT_DESCRIPTORS = """
    import asyncio, logging, os, resource, socket, sys
    from pathlib import Path
    from hdvkit_vfio_user import listener

    listener.PAUSE = 0.5
    path = Path(sys.argv[1])
    complaints = []

    class Complaints(logging.Handler):
        def emit(self, record):
            complaints.append(record.getMessage())

    logging.getLogger("hdvkit_vfio_user").addHandler(Complaints())

    async def main():
        accepted = asyncio.Queue()
        listening = listener.Listener(path, accepted.put_nowait)
        client = socket.socket(socket.AF_UNIX)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        client.connect(str(path))
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(complaints) == 1, complaints
        assert str(path) in complaints[0] and "Too many open files" in complaints[0], complaints
        assert accepted.empty()
        for fd in taken:
            os.close(fd)
        (await asyncio.wait_for(accepted.get(), 20)).send(b"welcome")
        assert client.recv(7) == b"welcome"
        listening.close()
        assert not path.exists()

    asyncio.run(main())
    print("served")
"""


def test_without_free_descriptors_a_listener_waits_and_goes_on(directory: Path) -> None:
    script = [sys.executable, "-W", "error", "-c", textwrap.dedent(WITHOUT_DESCRIPTORS), str(directory / "d.sock")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "served\n"), done.stderr
