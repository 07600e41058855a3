"""Kicks in C, told from other messages: what stands in front is counted, and nothing else is taken for one."""

import array
import asyncio
import fcntl
import random
import socket
import struct
import termios

import pytest
from hdvkit_vfio_user.native import posted_kicks

from hdvkit import native
from hdvkit.memory import RegionMemory
from hdvkit.native import NativeHandler
from hdvkit.runtime import Doorbell
from hdvkit.runtime.lanes import LaneThread

pytestmark = pytest.mark.skipif(not native.native().used, reason=native.native().reason)

OFFSET, MULTIPLIER = 0x3000, 4
QUEUES = 5
SERVED = (0, 1, 3)
REGION_WRITE, NO_REPLY = 10, 0x10


def kick(index: int, size: int = 2, **changed: int) -> bytes:
    """A posted write of a queue's index to its register."""
    told = {
        "command": REGION_WRITE,
        "length": 32 + size,
        "flags": NO_REPLY,
        "offset": OFFSET + MULTIPLIER * index,
        "region": 0,
        "count": size,
        "value": index,
    } | changed
    head = struct.pack("<HHIII", 7, told["command"], told["length"], told["flags"], 0)
    access = struct.pack("<QII", told["offset"], told["region"], told["count"])
    return head + access + told["value"].to_bytes(size, "little")


class Bell(Doorbell):
    """A doorbell of a device that is nowhere."""

    def __init__(self, index: int, size: int) -> None:
        self.index, self.offset, self.size = index, OFFSET + MULTIPLIER * index, size


def unread(end: socket.socket) -> int:
    """How many bytes lie in a socket."""
    count = array.array("i", [0])
    fcntl.ioctl(end, termios.FIONREAD, count)
    return count[0]


def in_front(data: bytes, size: int = 2) -> int:
    """How many bytes of kicks C finds."""
    from hdvkit_vfio_user.native._kicks import ffi, lib

    bells = [Bell(index, size) for index in range(QUEUES)]
    kicks = posted_kicks(bells, [bells[index] for index in SERVED])
    assert kicks is not None
    return int(lib.vu_kicks_in_front(ffi.cast("void *", kicks.listener.context), data, len(data)))


@pytest.mark.parametrize("size", [2, 4])
def test_kicks_in_front_are_counted(size: int) -> None:
    data = b"".join(kick(index, size) for index in (0, 1, 3, 3, 0))
    assert in_front(data, size) == len(data)
    assert in_front(data[:-1], size) == len(data) // 5 * 4, "the last is not whole"
    assert in_front(data + kick(2, size) + data, size) == len(data), "a queue of Python's"
    assert in_front(b"", size) == 0


@pytest.mark.parametrize(
    "other",
    [
        kick(0, command=9),
        kick(0, flags=0),
        kick(0, flags=0x11),
        kick(0, flags=0x30),
        kick(0, length=33),
        kick(0, length=0),
        kick(0, length=0xFFFFFFFF),
        kick(0, region=1),
        kick(0, count=1),
        kick(0, count=4),
        kick(0, offset=OFFSET + 1),
        kick(0, offset=OFFSET + MULTIPLIER),
        kick(0, offset=0),
        kick(0, offset=(1 << 64) - 1),
        kick(0, value=1),
        kick(2),
        kick(5),
        kick(63),
        kick(64),
        kick(0xFFFF),
    ],
)
def test_what_is_no_kick_is_left(other: bytes) -> None:
    assert in_front(other) == 0
    assert in_front(kick(1) + other) == len(kick(1))


def test_rubbish_is_left() -> None:
    choose = random.Random(6)
    for _ in range(2000):
        data = bytearray(kick(choose.choice(SERVED)) * 3)
        place = choose.randrange(2, len(data))  # the first two bytes are the message's own number
        data[place] ^= 1 << choose.randrange(8)
        if place % 34 > 1 and not 12 <= place % 34 < 16:  # nor does anybody look at the error of a request
            assert in_front(bytes(data)) == place // 34 * 34


@pytest.mark.parametrize("last", [b"", kick(2)], ids=["the end", "a kick of Python's"])
async def test_a_lane_takes_kicks_at_once_and_leaves_what_comes_behind_them(last: bytes) -> None:
    """What lay in the socket when this process is killed would be an error to the machine."""
    ours, theirs = socket.socketpair()
    bells = [Bell(index, 2) for index in range(QUEUES)]
    kicks = posted_kicks(bells, [bells[index] for index in SERVED])
    assert kicks is not None
    unheard = asyncio.Event()
    lane = LaneThread(RegionMemory(), NativeHandler(0, 0), "of a test")
    async with asyncio.timeout(20):
        lane.listen(ours.fileno(), kicks.listener, unheard.set)
        for number in range(300):
            theirs.send(kick(SERVED[number % 3]))
            while unread(ours) and number % 10 == 0:  # noqa: ASYNC110 - what C reads nobody is told of
                await asyncio.sleep(0)
        assert not unheard.is_set()
        theirs.send(last)
        theirs.shutdown(socket.SHUT_WR)
        await unheard.wait()
        assert ours.recv(1000) == last
        lane.leave()
        await lane.aclose()
    ours.close()
    theirs.close()
