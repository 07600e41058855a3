"""A listening socket at a path: made with mode 0600, a stale one replaced, anything else left alone."""

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from hdvkit import HostError

log = logging.getLogger("hdvkit_vfio_user")

MAX_PATH = 107
"""Bytes in the address of a Unix socket, without its final zero."""
PAUSE = 1.0
"""Seconds to wait when the process has no descriptor left for a connection."""


class Listener:
    """Accepts connections on one path and hands each to ``accepted``, on the event loop."""

    def __init__(self, path: Path, accepted: Callable[[socket.socket], None]) -> None:
        self.path = path
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._socket = _listen(path)
        self._identity = _identity(path)
        self._watch()

    def close(self) -> None:
        """Stop listening. The path is removed if it still is ours."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._socket.fileno())
        if _identity(self.path) == self._identity:
            self.path.unlink(missing_ok=True)
        self._socket.close()

    def _watch(self) -> None:
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it went away before we came to it
        except OSError as error:
            log.error("%s: no connection can be accepted now: %s", self.path, error)
            self._loop.remove_reader(self._socket.fileno())
            self._retry = self._loop.call_later(PAUSE, self._watch)
            return
        connection.setblocking(False)
        self._accepted(connection)


def _listen(path: Path) -> socket.socket:
    address = os.fsencode(path)
    if len(address) > MAX_PATH:
        raise HostError(f"{str(path)!r} is too long for a socket, at most {MAX_PATH} bytes are allowed; shorten it")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(path)
        os.fchmod(listening.fileno(), 0o600)  # before bind, so that the path is never open to others
        listening.setblocking(False)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        if isinstance(error, HostError):
            raise
        raise HostError(error.errno, f"{str(path)!r} cannot be listened on: {error.strerror}") from error
    return listening


def _clear(path: Path) -> None:
    """Make way for a new socket, if what lies there is one that nobody listens on any more."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise HostError(f"{str(path)!r} is there already and no socket; remove it, or give the device another name")
    if found.st_uid != os.geteuid():
        raise HostError(f"{str(path)!r} belongs to another user; remove it, or give the device another name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fsencode(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # somebody listens and is busy
    raise HostError(f"another process listens on {str(path)!r}; stop it, or give the device another name")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
