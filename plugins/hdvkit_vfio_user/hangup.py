"""How a connection is closed so that QEMU outlives it."""

import contextlib
import socket

RECEIVE = 64 * 1024
"""Bytes taken from a socket at once."""


def hang_up(connection: socket.socket) -> None:
    """Close a socket after reading whatever has come.

    A Unix socket closed with something unread gives the other side ECONNRESET instead of an end, and QEMU (11.1.3)
    fails an assertion at that. Nothing more can come after ``shutdown``, so what is read here is bounded.
    """
    with contextlib.suppress(OSError):  # it is gone already
        connection.shutdown(socket.SHUT_RDWR)
        while connection.recv(RECEIVE):  # without room for descriptors: the kernel closes what comes
            pass
    connection.close()
