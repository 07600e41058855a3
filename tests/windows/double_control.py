"""The double from a test's side: build and load it, play with it, read its report. Imports nothing of hdvkit.

The double is one for each process, whatever loads it: `Double.load` gives the same one each time.
"""

import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import cffi  # type: ignore[import-untyped]  # it has no types
from double.build import DLL, LIBRARY, SOURCES, build_linux

MIB = 1 << 20
HIGH = 1 << 32
MEMORY_MB = 3840 + 64
"""So that some RAM stands above the 32-bit hole."""
VIRTIO_FS_CLASS = "872270e1-a899-4af6-b454-7193634435ad"
RESTRICTED, EXTERNAL = "ExternalRestricted", "External"

Interrupt = Callable[[int, int], None]
"""Takes the address and data of a message, on the thread that delivers it."""


class Delivery(NamedTuple):
    """An interrupt that a device delivered, whatever became of it."""

    seconds: float
    address: int
    data: int


class Window(NamedTuple):
    """Where a BAR answers."""

    address: int
    size: int


@functools.cache
def library() -> Path:
    """Where the double is: in the folder HDVKIT_DOUBLE; or else freshly built, and on Windows in System32.

    Raises:
        BuildError: It cannot be built here.
    """
    if folder := os.environ.get("HDVKIT_DOUBLE"):
        return Path(folder) / (DLL if sys.platform == "win32" else LIBRARY)
    if sys.platform == "win32":
        return Path(os.environ["SYSTEMROOT"]) / "System32" / DLL
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()) if path.is_file()))
    place = Path(tempfile.gettempdir()) / f"hdvdouble-{os.getuid()}-{digest.hexdigest()[:16]}"
    place.mkdir(mode=0o700, exist_ok=True)
    if place.stat().st_uid != os.getuid():
        raise RuntimeError(f"{place} is somebody else's")
    if not (place / LIBRARY).exists():
        # Several processes may build at once; each finishes with a whole library.
        with tempfile.TemporaryDirectory(dir=place) as fresh:
            build_linux(Path(fresh)).replace(place / LIBRARY)
    return place / LIBRARY


def text_lines(ask: Callable[[Any, int], int], ffi: Any) -> list[str]:
    """What a function says that fills a buffer and returns how much there is."""
    size = ask(ffi.NULL, 0)
    while True:
        buffer = ffi.new("char[]", size)
        needed = ask(buffer, size)
        if needed <= size:
            text: bytes = ffi.string(buffer)
            return text.decode().splitlines()
        size = needed


class Double:
    """The control functions of control.h, typed. `reset` first; double.h lists switches and counters."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ffi = cffi.FFI()
        self.ffi.cdef("typedef int32_t HRESULT;" + (SOURCES / "control.h").read_text())
        self.lib = self.ffi.dlopen(str(path))

    @classmethod
    @functools.cache
    def load(cls) -> Self:
        """The double of this process."""
        return cls(library())

    @contextmanager
    def fresh(self, *, faults: bool = False) -> Iterator[Self]:
        """Use the double from a clean state; fails when it has something to complain about at the end.

        Arguments:
            faults: Complaints are expected, the test looks at them itself.
        """
        self.reset()
        try:
            yield self
            if not faults:
                assert self.problems() == []
        finally:
            self.reset()

    def reset(self) -> None:
        """Forget everything; callbacks and operations that still run are waited for."""
        self.lib.dbl_reset()

    def set(self, **switches: int) -> None:
        """Turn switches."""
        for name, value in switches.items():
            assert not self.lib.dbl_set(name.encode(), value), f"the double has no switch {name}"

    def get(self, switch: str) -> int:
        """What a switch is."""
        return int(self.lib.dbl_get(switch.encode()))

    def count(self, counter: str) -> int:
        """What was counted."""
        value = int(self.lib.dbl_count(counter.encode()))
        assert value > -(1 << 63), f"the double does not count {counter}"
        return value

    def fail_next(self, export: str, code: int, times: int = 1, document: str | None = None) -> None:
        """Let the next calls of an export fail.

        With ``.result`` behind its name, the operation it starts does nothing and fails; with ``.answer`` it does
        everything and is said to have failed.
        """
        text = self.ffi.NULL if document is None else self.ffi.new("char[]", document.encode())
        assert not self.lib.dbl_fail_next(export.encode(), signed(code), times, text)

    def delay(self, export: str, milliseconds: int) -> None:
        """Let each call of an export take longer; with ``.answer`` behind its name, what its operations answer."""
        assert not self.lib.dbl_delay(export.encode(), milliseconds)

    def loop_thread(self) -> None:
        """From now on, calls of this thread that wait for the platform are reported."""
        self.lib.dbl_loop_thread()

    def report(self) -> list[str]:
        """All there is to say, each line with its kind: warning, leak, info."""
        return text_lines(self.lib.dbl_report, self.ffi)

    def problems(self) -> list[str]:
        """The lines of the report that should not be there."""
        return [line for line in self.report() if not line.startswith("info: ")]

    def warnings(self) -> list[str]:
        """What was wrong, without what is not given back yet."""
        return [line.removeprefix("warning: ") for line in self.report() if line.startswith("warning: ")]

    def log(self) -> list[str]:
        """Calls of exports and of callbacks in order, those that a guest repeats left out."""
        return text_lines(self.lib.dbl_log, self.ffi)

    def system(
        self, system_id: str, runtime_id: str | None = None, *, memory_mb: int = MEMORY_MB, running: bool = True
    ) -> "GuestSystem":
        """A virtual machine that somebody else has made; its id is the runtime id when that is not given."""
        number = self.lib.dbl_create_system(system_id.encode(), (runtime_id or system_id).encode(), memory_mb, running)
        assert number >= 0, f"the double cannot make {system_id}"
        return GuestSystem(self, number)

    def find(self, system_id: str) -> "GuestSystem":
        """A virtual machine by its id, whoever made it."""
        number = self.lib.dbl_find_system(system_id.encode())
        assert number >= 0, f"the double has no {system_id}"
        return GuestSystem(self, number)


class GuestSystem:
    """One virtual machine of the double, from outside and from inside."""

    def __init__(self, double: Double, number: int) -> None:
        self.double = double
        self.number = number
        self._lib = double.lib
        self._ffi = double.ffi
        self._interrupt: Any = None

    # -- life ---------------------------------------------------------------------------------------

    def cold_slot(self, instance_id: str, class_id: str = VIRTIO_FS_CLASS, hosting: str = RESTRICTED) -> int:
        """Declare a slot before the start; gives the HRESULT."""
        return unsigned(self._lib.dbl_cold_slot(self.number, instance_id.encode(), class_id.encode(), hosting.encode()))

    def start(self) -> int:
        """Somebody starts it; gives the HRESULT."""
        return unsigned(self._lib.dbl_start(self.number))

    def stop(self) -> int:
        """Somebody stops it; gives the HRESULT."""
        return unsigned(self._lib.dbl_stop(self.number))

    def kill(self) -> None:
        """Its worker process dies."""
        self._lib.dbl_kill(self.number)

    def properties(self, document: str | None) -> None:
        """What HcsGetComputeSystemProperties answers; None is the truth."""
        self._lib.dbl_properties(self.number, self._ffi.NULL if document is None else document.encode())

    # -- the guest's accesses -----------------------------------------------------------------------

    def slot(self, instance_id: str) -> int | None:
        """The number of the slot that the guest sees a device in."""
        number = int(self._lib.dbl_slot(self.number, instance_id.encode()))
        return None if number < 0 else number

    def config_read(self, slot: int, offset: int, size: int) -> int:
        """Read configuration space; all ones where no device is."""
        value = self._ffi.new("uint32_t *")
        self._lib.dbl_config_read(self.number, slot, offset, size, value)
        return int(value[0])

    def config_write(self, slot: int, offset: int, size: int, value: int) -> None:
        """Write configuration space."""
        self._lib.dbl_config_write(self.number, slot, offset, size, value)

    def mmio_read(self, address: int, size: int) -> int:
        """Read where some BAR decodes; all ones where none does."""
        value = self._ffi.new("uint64_t *")
        self._lib.dbl_mmio_read(self.number, address, size, value)
        return int(value[0])

    def mmio_write(self, address: int, size: int, value: int) -> bool:
        """Write where some BAR decodes; whether one does."""
        return not self._lib.dbl_mmio_write(self.number, address, size, value)

    def bar(self, slot: int, index: int) -> Window | None:
        """Where a BAR stands."""
        address, size = self._ffi.new("uint64_t *"), self._ffi.new("uint64_t *")
        if self._lib.dbl_bar(self.number, slot, index, address, size):
            return None
        return Window(address[0], size[0])

    def allocate_bar(self, size: int) -> int:
        """An unused window for a BAR."""
        return int(self._lib.dbl_allocate_bar(self.number, size))

    # -- memory and interrupts ----------------------------------------------------------------------

    def ram(self, address: int, size: int) -> memoryview:
        """RAM as the guest has it, which backs its pages; raises ValueError where there is none."""
        start = self._lib.dbl_ram(self.number, address, size)
        if start == self._ffi.NULL:
            raise ValueError(f"no RAM for {size} bytes at {address:#x}")
        return memoryview(self._ffi.buffer(start, size))

    @property
    def ram_sizes(self) -> tuple[int, int]:
        """Bytes of RAM from 0, and from 4 GiB."""
        low, high = self._ffi.new("uint64_t *"), self._ffi.new("uint64_t *")
        self._lib.dbl_ram_sizes(self.number, low, high)
        return low[0], high[0]

    def backed(self, address: int) -> bool:
        """Whether the guest has touched a page of RAM."""
        return bool(self._lib.dbl_backed(self.number, address))

    def allocate_msi(self) -> tuple[int, int]:
        """A message that the guest may program: address and data."""
        address, data = self._ffi.new("uint64_t *"), self._ffi.new("uint32_t *")
        self._lib.dbl_allocate_msi(self.number, address, data)
        return address[0], data[0]

    def on_interrupt(self, handler: Interrupt | None) -> None:
        """Who is told of interrupts, on the thread that delivers; it must not raise."""
        callback = self._ffi.NULL
        if handler is not None:
            callback = self._ffi.callback("dbl_interrupt", lambda _, address, data: handler(address, data))
        self._lib.dbl_on_interrupt(self.number, callback, self._ffi.NULL)
        _kept.append(callback)  # a thread may be on its way into it
        self._interrupt = callback

    def deliveries(self) -> list[Delivery]:
        """What devices delivered, the last few thousand."""
        lines = text_lines(lambda *buffer: self._lib.dbl_interrupts(self.number, *buffer), self._ffi)
        fields = [[int(field) for field in line.split()] for line in lines]
        return [Delivery(at / 1e6, address, data) for at, address, data in fields]


_kept: list[Any] = []


def signed(code: int) -> int:
    """An HRESULT as C has it."""
    return code - (1 << 32) if code & 0x80000000 else code


def unsigned(code: int) -> int:
    """An HRESULT as people write it."""
    return code & 0xFFFFFFFF
