"""Clients that come while another is served: each is told so in answer to its first message, and let go."""

import asyncio
import errno
import logging
import socket

from hdvkit_vfio_user.hangup import hang_up
from hdvkit_vfio_user.protocol import Connection, State

log = logging.getLogger("hdvkit_vfio_user")

MAX_WAITING = 16
"""Clients whose first message is waited for; one more, and the oldest is cut off."""
PATIENCE = 5.0
"""Seconds a client has to ask, and to close its end."""
RECEIVE = 4096
"""Bytes taken from a socket at once."""


class Refusals:
    """Answers VERSION with EBUSY, which QEMU tells its user, and waits for the client to close."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[socket.socket, asyncio.TimerHandle] = {}

    def add(self, connection: socket.socket) -> None:
        """Turn this client away; the socket is ours from now on."""
        if len(self._waiting) == MAX_WAITING:
            self._close(next(iter(self._waiting)))
        self._waiting[connection] = self._loop.call_later(PATIENCE, self._close, connection)
        self._loop.add_reader(connection.fileno(), self._readable, connection, Connection(refuses=errno.EBUSY))

    def close(self) -> None:
        """Cut off all that still wait."""
        for connection in list(self._waiting):
            self._close(connection)

    def _readable(self, connection: socket.socket, protocol: Connection) -> None:
        try:
            data = connection.recv(RECEIVE)  # without room for descriptors: the kernel closes what comes
            protocol.receive_data(data)
            for piece in protocol.data_to_send():
                connection.send(piece.data)
            if protocol.state is State.CLOSED:
                connection.shutdown(socket.SHUT_WR)  # whatever else it sends is read and forgotten
        except BlockingIOError:
            return
        except OSError as error:
            log.debug("a client that is turned away broke off: %s", error.strerror)
            data = b""
        if not data:
            self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        self._waiting.pop(connection).cancel()
        self._loop.remove_reader(connection.fileno())
        hang_up(connection)
