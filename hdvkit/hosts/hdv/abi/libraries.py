"""The libraries of Windows by absolute path, opened when asked for. What is missing is said with what to do."""

import sys
from pathlib import Path, PureWindowsPath
from typing import Final, NamedTuple

import attrs

from hdvkit.errors import HostError
from hdvkit.hosts.hdv.abi.binding import Pointer, ffi
from hdvkit.hosts.hdv.abi.hresult import HdvError

LONGEST_PATH = 260
FEATURE: Final = 'turn on the Windows feature "Hyper-V" (or "Virtual Machine Platform") and restart'
NEWER: Final = "a newer Windows is needed: Windows 11, or Windows Server 2022"


class Export(NamedTuple):
    """One function that is looked for by name, because it is in no header or not on every Windows."""

    library: str
    name: str
    advice: str
    """What its absence means; without any, devices work all the same."""


PROXY: Final = (
    Export("vmdevicehost", "HdvInitializeDeviceHostForProxy", NEWER),
    Export("vmdevicehost", "HdvProxyDeviceHost", NEWER),
)
WORKER: Final = Export("vmwpctrl", "GetVmWorkerProcess", "kicks of the guest are trapped instead, which is slower")


@attrs.frozen(eq=False)
class Libraries:
    """The libraries that a device host needs; ``vmwpctrl`` is None where Windows has none."""

    vmdevicehost: Pointer
    computecore: Pointer
    kernel32: Pointer
    ole32: Pointer
    vmwpctrl: Pointer | None

    @classmethod
    def of_windows(cls) -> "Libraries":
        """Those of this Windows.

        Raises:
            HostError: This is no Windows, or one without Hyper-V.
        """
        if sys.platform != "win32":
            raise HostError(f"the host kind hdv needs Windows; this is {sys.platform}, where vfio-user serves QEMU")
        folder = system_directory()
        return cls(
            vmdevicehost=_open(folder / "vmdevicehost.dll"),
            computecore=_open(folder / "computecore.dll"),
            kernel32=_open(folder / "kernel32.dll"),
            ole32=_open(folder / "ole32.dll"),
            vmwpctrl=_open_optional(folder / "vmwpctrl.dll"),
        )

    @classmethod
    def of_file(cls, path: Path) -> "Libraries":
        """All of them in one file: a double."""
        one = ffi().dlopen(str(path))
        return cls(one, one, one, one, one)

    def has(self, export: Export) -> bool:
        """Whether a function is there."""
        return getattr(getattr(self, export.library), export.name, None) is not None

    def require(self, *exports: Export) -> None:
        """Raise HostError unless all of these functions are there."""
        for export in exports:
            if not self.has(export):
                raise HostError(f"{export.library}.dll has no function {export.name}; {export.advice}")

    def error(self, tried: str) -> HdvError:
        """The failure of a function of Win32 on this thread just now."""
        return HdvError(tried, 0x80070000 | self.kernel32.GetLastError() & 0xFFFF)


def system_directory() -> PureWindowsPath:
    """Where Windows keeps its own libraries. A bare name would be looked for in folders that others may write to."""
    kernel32 = ffi().dlopen("kernel32.dll")  # always loaded, so nothing is looked for
    path = ffi().new("WCHAR[]", LONGEST_PATH)
    length = kernel32.GetSystemDirectoryW(path, LONGEST_PATH)
    return PureWindowsPath(bytes(ffi().buffer(path, 2 * length)).decode("utf-16-le"))


def _open(path: PureWindowsPath) -> Pointer:
    try:
        return ffi().dlopen(str(path))
    except OSError as error:
        raise HostError(f"{path} cannot be loaded ({error}); {FEATURE}") from error


def _open_optional(path: PureWindowsPath) -> Pointer | None:
    try:
        return ffi().dlopen(str(path))
    except OSError:
        return None
