"""Closing a connection: the other side reads what was sent and then the end, whatever it had sent itself."""

import array
import os
import socket
import sys

import pytest
from hdvkit_vfio_user.hangup import hang_up
from vfio_user_bench import no_fds_lost

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")


def test_the_other_side_sees_an_end_and_no_reset() -> None:
    with no_fds_lost():
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        ours.send(b"the last words")
        for _ in range(5):
            theirs.sendmsg([b"unread"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))])
        hang_up(ours)
        assert theirs.recv(100) == b"the last words"
        assert theirs.recv(100) == b""
        theirs.close()


def test_the_other_side_may_be_gone() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    hang_up(ours)
    with pytest.raises(OSError, match=os.strerror(9)):
        ours.send(b"more")
