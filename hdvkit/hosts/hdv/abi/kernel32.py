"""Events of Windows, and being called when one is set, for as many events as there are."""

from collections.abc import Callable
from typing import Final

from hdvkit.hosts.hdv.abi.binding import Pointer, callback, ffi
from hdvkit.hosts.hdv.abi.libraries import Libraries

INFINITE: Final = 0xFFFFFFFF
EXECUTE_IN_WAIT_THREAD: Final = 4
INVALID_HANDLE: Final = (1 << 64) - 1
"""As a completion event: wait until the callback has returned."""


class Event:
    """An event that resets itself, with a function that is called each time it was set.

    Windows waits with one of its own threads for each 63 events. The function is called there, so it must return
    at once.

    Raises:
        HdvError: Windows has no more handles.
    """

    def __init__(self, libraries: Libraries, called: Callable[[], None]) -> None:
        self._libraries = libraries
        self._callback = callback("WAITORTIMERCALLBACK", lambda _context, _timer: called())
        self.handle: Pointer = libraries.kernel32.CreateEventW(ffi().NULL, False, False, ffi().NULL)
        if not self.handle:
            raise libraries.error("making an event")
        self._wait = ffi().new("HANDLE *")
        if not libraries.kernel32.RegisterWaitForSingleObject(
            self._wait, self.handle, self._callback, ffi().NULL, INFINITE, EXECUTE_IN_WAIT_THREAD
        ):
            error = libraries.error("waiting for an event")
            libraries.kernel32.CloseHandle(self.handle)
            raise error

    def close(self) -> None:
        """Stop waiting; when this returns the function is not running and will not be called again.

        Not from the function itself, and not on the event loop: it waits for a thread.
        """
        self._libraries.kernel32.UnregisterWaitEx(self._wait[0], ffi().cast("HANDLE", INVALID_HANDLE))
        self._libraries.kernel32.CloseHandle(self.handle)
