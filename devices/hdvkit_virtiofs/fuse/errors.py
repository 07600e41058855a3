"""The one exception a file system answers with. Knows nothing of messages."""

import errno
import os


class FuseError(Exception):
    """An answer, not a failure: the guest's system call ends with this errno.

    Raised by file systems and by the decoder; nobody logs it.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.errno = code

    def __str__(self) -> str:
        return f"{errno.errorcode.get(self.errno, self.errno)}: {os.strerror(self.errno)}"
