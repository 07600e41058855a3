"""A compute system: the virtual machine as the host compute service (HCS) knows it. Every call may block.

Documents go in and come out as JSON texts; what they say is ``hdvkit.hosts.hdv.documents``' business.
"""

from collections.abc import Callable
from typing import Final

from hdvkit.hosts.hdv.abi.binding import Pointer, ffi, text_at, wide
from hdvkit.hosts.hdv.abi.hresult import check
from hdvkit.hosts.hdv.abi.libraries import Libraries

GENERIC_ALL: Final = 0x10000000
TIMEOUT: Final = 30.0
"""Seconds for one operation."""


class ComputeSystem:
    """A handle on one system; closing it does not stop the machine.

    Raises:
        HdvError: No such system, or no right to it.
    """

    def __init__(self, libraries: Libraries, identity: str) -> None:
        self._libraries = libraries
        self.identity = identity
        handle = ffi().new("HCS_SYSTEM *")
        check(
            libraries.computecore.HcsOpenComputeSystem(wide(identity), GENERIC_ALL, handle),
            f"opening compute system {identity!r}",
        )
        self.handle: Pointer = handle[0]

    def properties(self) -> str:
        """What the service knows of it, as JSON.

        Raises:
            HdvError: The service refused or did not answer in time.
        """

        def ask(operation: Pointer) -> int:
            return int(self._core.HcsGetComputeSystemProperties(self.handle, operation, ffi().NULL))

        return run(self._libraries, f"asking for the properties of {self.identity!r}", ask)

    def modify(self, document: str, tried: str) -> None:
        """Change the running machine as ``document`` says; ``tried`` tells what that is.

        Raises:
            HdvError: The service refused; or did not answer in time, and then it may still happen.
        """

        def ask(operation: Pointer) -> int:
            return int(self._core.HcsModifyComputeSystem(self.handle, operation, wide(document), ffi().NULL))

        run(self._libraries, tried, ask)

    def close(self) -> None:
        """Let go of it."""
        self._core.HcsCloseComputeSystem(self.handle)

    @property
    def _core(self) -> Pointer:
        return self._libraries.computecore


def systems(libraries: Libraries) -> str:
    """All systems that this user may see, as JSON.

    Raises:
        HdvError: The service refused or did not answer in time.
    """

    def ask(operation: Pointer) -> int:
        return int(libraries.computecore.HcsEnumerateComputeSystems(ffi().NULL, operation))

    return run(libraries, "listing the compute systems", ask)


def run(libraries: Libraries, tried: str, ask: Callable[[Pointer], int]) -> str:
    """Start an operation and wait for its document. One that did not start is not waited for.

    Raises:
        HdvError: It failed, with what the service said about it; or took longer than TIMEOUT.
    """
    core = libraries.computecore
    operation = core.HcsCreateOperation(ffi().NULL, ffi().NULL)
    if not operation:
        raise libraries.error(tried)
    try:
        check(ask(operation), tried)
        document = ffi().new("PWSTR *")
        code = core.HcsWaitForOperationResult(operation, round(TIMEOUT * 1000), document)
        text = text_at(document[0])
        if document[0]:
            libraries.kernel32.LocalFree(document[0])
        check(code, tried, text)
    finally:
        core.HcsCloseOperation(operation)
    return text
