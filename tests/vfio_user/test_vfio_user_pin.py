"""The interrupt pin of a vfio-user client: masked by its own signal, unmasked by the client or an eventfd."""

import asyncio
import errno
import os
import sys
from collections.abc import Iterator

import pytest
from hdvkit_vfio_user.irqs import Irqs
from hdvkit_vfio_user.protocol import Refused, SetIrqsRequest
from vfio_user_bells import (
    BOOL,
    EVENTFD,
    INTX,
    MASK,
    NONE,
    TRIGGER,
    UNMASK,
    VECTORS,
    Bells,
    Line,
    do,
    refused,
)
from vfio_user_bench import no_fds_lost

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")


@pytest.fixture
def bells() -> Iterator[Bells]:
    made = Bells()
    yield made
    made.close()


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
async def irqs(line: Line) -> Irqs:
    return Irqs(VECTORS, line, lambda: None)


async def test_the_pin_is_masked_by_its_own_signal(irqs: Irqs, line: Line, bells: Bells) -> None:
    do(irqs, INTX, TRIGGER, EVENTFD, 0, 1, [bells.give()])
    assert bells.heard() == 0, "the device wants nothing yet"
    line.wanted = True
    for _ in range(3):
        irqs.pin.signal()
    assert bells.heard() == 1
    do(irqs, INTX, UNMASK, NONE)
    assert bells.heard() == 1, "it wants something still"
    line.wanted = False
    do(irqs, INTX, UNMASK, NONE)
    assert bells.heard() == 0
    irqs.pin.signal()
    assert bells.heard() == 1
    irqs.close()


async def test_a_masked_pin_is_silent_until_it_is_unmasked(irqs: Irqs, line: Line, bells: Bells) -> None:
    do(irqs, INTX, TRIGGER, EVENTFD, 0, 1, [bells.give()])
    for mask, unmask in (((NONE, b""), (NONE, b"")), ((BOOL, b"\1"), (BOOL, b"\xff"))):
        do(irqs, INTX, MASK, mask[0], bools=mask[1])
        line.wanted = True
        irqs.pin.signal()
        do(irqs, INTX, MASK, BOOL, bools=b"\0")
        do(irqs, INTX, UNMASK, BOOL, bools=b"\0")  # names no pin
        assert bells.heard() == 0
        do(irqs, INTX, UNMASK, unmask[0], bools=unmask[1])
        assert bells.heard() == 1
        line.wanted = False
        do(irqs, INTX, UNMASK, NONE)
    irqs.close()


async def test_a_pin_that_is_wanted_signals_when_it_is_connected(irqs: Irqs, line: Line, bells: Bells) -> None:
    irqs.pin.signal()
    do(irqs, INTX, TRIGGER, EVENTFD, 0, 1, [bells.give()])
    assert bells.heard() == 0, "nothing is wanted any more"
    line.wanted = True
    do(irqs, INTX, TRIGGER, EVENTFD, 0, 1, [bells.give()])
    assert bells.heard() == 1
    do(irqs, INTX, TRIGGER, NONE, 0, 0)
    irqs.pin.signal()
    irqs.pin.unmask()
    assert bells.heard() == 0
    irqs.close()


async def test_an_eventfd_may_tell_the_end_of_an_interrupt(irqs: Irqs, line: Line, bells: Bells) -> None:
    out, back = bells.new(), bells.new()
    with no_fds_lost():
        do(irqs, INTX, TRIGGER, EVENTFD, 0, 1, [bells.give(out)])
        do(irqs, INTX, UNMASK, EVENTFD, 0, 1, [bells.give(back)])
        line.wanted = True
        irqs.pin.signal()
        for _ in range(3):
            assert bells.heard(out) == 1
            bells.ring(back)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert bells.heard(back) == 0, "it was taken"
        assert bells.heard(out) == 1
        do(irqs, INTX, UNMASK, EVENTFD, 0, 1)  # not any more
        bells.ring(back)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert bells.heard(out) == 0
        assert bells.heard(back) == 1
        do(irqs, INTX, UNMASK, EVENTFD, 0, 1, [bells.give(back)])
        irqs.close()


class Counting(Line):
    """Counts how often it is asked."""

    asked = 0

    def __call__(self) -> bool:
        """What the server asks."""
        self.asked += 1
        return False


async def test_a_descriptor_that_ended_is_not_watched_for_ever() -> None:
    line = Counting()
    irqs = Irqs(VECTORS, line, lambda: None)
    reading, writing = os.pipe()
    os.close(writing)  # readable for ever, and nothing to read
    try:
        do(irqs, INTX, UNMASK, EVENTFD, 0, 1, [reading])
    except Refused:  # that would do as well
        os.close(reading)
    for _ in range(200):
        await asyncio.sleep(0)
    irqs.close()
    assert line.asked < 10


@pytest.mark.parametrize("kind", ["path only", "memory"])
async def test_a_descriptor_that_cannot_be_watched_is_refused(kind: str, irqs: Irqs) -> None:
    with no_fds_lost():
        fd = os.open("/dev/null", os.O_PATH) if kind == "path only" else os.memfd_create("no eventfd")
        request = SetIrqsRequest(INTX, UNMASK, EVENTFD, 0, 1)
        assert refused(irqs, request, [fd]) in (errno.EINVAL, errno.EPERM, errno.EBADF)
        irqs.close()
