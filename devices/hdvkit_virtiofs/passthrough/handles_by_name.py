"""How the file behind a descriptor is known again once that is closed, and the mounts it can be opened on by handle.

Knows descriptors, neither names nor what a guest knows.
"""

import errno
import os
from typing import NamedTuple

import attrs

from hdvkit_virtiofs.passthrough import _libc
from hdvkit_virtiofs.passthrough._handles_by_name import file_handle
from hdvkit_virtiofs.passthrough.descriptors import Descriptors

MAX_MOUNTS = 32
"""Mounts of the host in one share that cost a descriptor; on further ones files are opened again by name."""

Mark = bytes | int
"""What tells a file from one that comes later under its inode number: its handle, or else when it was made."""


class Identity(NamedTuple):
    """Who a file is, asked while it is open."""

    mark: Mark | None
    mount_id: int | None = None


def identity_of(descriptor: int) -> Identity:
    """Ask for the handle; where there is none, for the time of birth; where there is neither, nobody can tell.

    A copy that overlayfs makes of a file when it is first opened for writing has a mark of its own, so ask late.
    """
    try:
        return Identity(*file_handle(descriptor))
    except OSError:
        pass
    try:
        return Identity(_libc.birth_time(descriptor))
    except OSError:
        return Identity(None)


@attrs.define(eq=False)
class Mount:
    """One mount of the host, held open while the guest knows a file there.

    Handles are opened on the mount they came from and no other of the same file system, which may be mounted a second
    time with other rights.
    """

    mount_id: int
    descriptor: int
    users: int = 0


class Mounts:
    """The mounts of one share on which this process may open files by handle."""

    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors
        self._open: dict[int, Mount] = {}
        self._permitted = True

    def of_directory(self, descriptor: int) -> Mount | None:
        """The mount a directory lies on; None where its files cannot be opened by handle."""
        if not self._permitted:
            return None
        try:
            handle, mount_id = file_handle(descriptor)
            mount = self._open.get(mount_id)
            if mount is None and len(self._open) < MAX_MOUNTS:
                mount = self._open[mount_id] = Mount(mount_id, self._opened(descriptor, handle))
            return mount
        except OSError as error:
            # Refused for want of a capability: so it will be everywhere.
            self._permitted = error.errno != errno.EPERM
            return None

    def _opened(self, directory: int, handle: bytes) -> int:
        """Open for ``open_by_handle_at``, which takes no O_PATH descriptor, and see that it works."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        descriptor = self._descriptors.open(".", flags, dir_fd=directory, brief=True)
        try:
            self._descriptors.close(self._descriptors.open_by_handle(descriptor, handle))
        except OSError:
            self._descriptors.close(descriptor)
            raise
        return descriptor

    def leave(self, mount: Mount) -> None:
        """One user less; after the last the host may unmount it."""
        mount.users -= 1
        if not mount.users:
            del self._open[mount.mount_id]
            self._descriptors.close(mount.descriptor)
