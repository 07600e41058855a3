"""A host directory as a file system for a guest. The face of the package: ``Passthrough``."""

import errno
import os
import sys

if sys.platform == "linux":
    from hdvkit_virtiofs.passthrough.linux import Passthrough
elif sys.platform == "win32":
    from hdvkit_virtiofs.passthrough.windows import WindowsPassthrough as Passthrough
else:
    from hdvkit_virtiofs.operations import Operations

    class Passthrough(Operations[object, object]):
        """Stands here so that everything else can be imported where directories cannot be shared yet.

        Raises:
            OSError: Always. Share an ``Operations`` of your own, such as ``MemoryFileSystem``.
        """

        def __init__(self, source: str | os.PathLike[str], **_: object) -> None:
            raise OSError(errno.ENOTSUP, f"cannot share {os.fspath(source)!r}: not supported on {sys.platform} yet")


__all__ = ["Passthrough"]
