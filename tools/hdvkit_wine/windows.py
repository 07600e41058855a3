"""One Windows to run Python in. Each is a copy of the prefix in the cache, alone, and thrown away afterwards.

The copy is made of hard links, so it costs no space and no time; what Wine changes, it replaces. In each a program
waits at a pipe of ours: it keeps the services of that Windows up, and they end with us, however we do. What hangs in
one whose owner was killed is killed by the next.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO, Self

import attrs
from hdvkit_vm.cache import locked

from hdvkit_wine.errors import RunTimedOut, WineError
from hdvkit_wine.project import Project
from hdvkit_wine.provision import Assets
from hdvkit_wine.wine import windows_path

COPIES = ".windows-"
GRACE = 5.0
"""What a program left running may hold its output open for this long after the program has ended."""


@attrs.frozen
class Done:
    """How a run ended: its exit code, as far as Wine tells it (the low eight bits), and what it wrote, as one text."""

    code: int
    output: str


class Windows:
    """A Windows with Python in it, our working tree as drive ``Z:`` and the project importable. Use with ``with``."""

    def __init__(self, assets: Assets, *, project: Project | None = None) -> None:
        self.assets = assets
        self.project = project or Project.read()
        self._stack = contextlib.ExitStack()
        self._prefix: Path | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(_copy(self.assets))
            self._prefix = place / "prefix"
            self.project.write_metadata(place / "metadata")
            stack.callback(self.kill)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        self._prefix = None

    @property
    def prefix(self) -> Path:
        """The Wine prefix.

        Raises:
            WineError: This Windows has not been entered.
        """
        if self._prefix is None:
            raise WineError("this Windows is not up: use it with `with`")
        return self._prefix

    @property
    def system32(self) -> Path:
        """Where Windows looks for DLLs by bare name."""
        return self.prefix / "drive_c/windows/system32"

    def install_dll(self, dll: Path, name: str = "") -> None:
        """Put a copy of a DLL into ``system32``, under its own name or another one."""
        place = self.system32 / (name or dll.name)
        place.unlink(missing_ok=True)  # it may be a link to what the cache has
        shutil.copyfile(dll, place)

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout: float,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        echo: BinaryIO | None = None,
    ) -> Done:
        """Run ``python.exe`` with ``arguments`` in the project's folder, or ``cwd``; standard input is empty.

        ``environment`` is added to what it has; ``echo`` gets the output as it comes.

        Raises:
            RunTimedOut: It did not end in time. It was killed, and whatever else ran in this Windows.
        """
        self._start()
        process = self._python(arguments, cwd or self.project.root, environment or {})
        said = bytearray()
        assert process.stdout is not None
        reader = threading.Thread(target=_read, args=(process.stdout, said, echo), daemon=True)
        reader.start()
        try:
            code = process.wait(timeout)
        except BaseException as error:  # an interrupt too
            self.kill()
            process.kill()
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            reader.join(GRACE)
            raise RunTimedOut(arguments, timeout, _text(said), told=echo is not None) from None
        reader.join(GRACE)
        return Done(code, _text(said))

    def kill(self) -> None:
        """Kill all that runs in this Windows. The next run starts it again."""
        if keeper := self._keeper:
            self._keeper = None
            self.assets.wine.end(self.prefix)
            assert keeper.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                keeper.stdin.close()
            keeper.wait()

    def _python(self, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            (self.assets.wine.loader, self.assets.python / "python.exe", *arguments),
            cwd=cwd,
            env=self._environment() | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _start(self) -> None:
        """Have the services run, with no streams of ours: they get those of the first process in a prefix."""
        if self._keeper and self._keeper.poll() is None:
            return
        self.kill()
        wine = self.assets.wine
        self._keeper = subprocess.Popen(
            (wine.loader, "cmd", "/q"),  # reads commands from its standard input, none of which will come
            env=wine.environment(self.prefix),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wine.call(self.prefix, "cmd", "/c", "exit")

    def _environment(self) -> dict[str, str]:
        metadata = self.prefix.with_name("metadata")
        folders = (metadata, *self.project.folders, self.assets.site)
        return self.assets.wine.environment(self.prefix) | {
            "PYTHONDONTWRITEBYTECODE": "1",  # what it wrote into the working tree would be read by Linux
            "PYTHONIOENCODING": "utf-8",
            "PYTHONPATH": ";".join(map(windows_path, folders)),
        }


@contextlib.contextmanager
def _copy(assets: Assets) -> Iterator[Path]:
    """A folder in the cache with a copy of the prefix. What runs that were killed have left there is removed."""
    with locked(assets.folder):
        sweep(assets)
        place = Path(tempfile.mkdtemp(prefix=COPIES, dir=assets.folder))
        alive = (place / "alive").open("w")
        fcntl.flock(alive, fcntl.LOCK_EX)
    try:
        shutil.copytree(assets.prefix, place / "prefix", symlinks=True, copy_function=_link)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        alive.close()


def sweep(assets: Assets) -> None:
    """Remove the copies that no living process holds, and kill what runs in them. Call with the cache locked."""
    for place in assets.folder.glob(f"{COPIES}*"):
        with contextlib.suppress(OSError), (place / "alive").open("w") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (place / "prefix").exists():
                assets.wine.end(place / "prefix")
            shutil.rmtree(place)


def _link(source: str, target: str) -> None:
    """Link what does not change; copy the rest: the registry, and what programs might write into."""
    if Path(source).suffix in (".reg", ".timestamp", ".ini", ".log", ".txt", ""):
        shutil.copy2(source, target)
    else:
        os.link(source, target)


def _read(stream: IO[bytes], said: bytearray, echo: BinaryIO | None) -> None:
    with stream:
        while data := os.read(stream.fileno(), 65536):
            said += data
            if echo:
                echo.write(data)
                echo.flush()


def _text(said: bytearray) -> str:
    return said.decode(errors="replace").replace("\r\n", "\n")
