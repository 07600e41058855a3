"""MSI-X vectors of a vfio-user client: eventfds given, replaced and taken away, and what SET_IRQS may do."""

import errno
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from hdvkit_vfio_user.irqs import Irqs
from hdvkit_vfio_user.protocol import Refused, SetIrqsRequest
from hdvkit_vfio_user.protocol.spec import SetIrqs
from vfio_user_bells import (
    BOOL,
    ERR,
    EVENTFD,
    INTX,
    MASK,
    MSI,
    MSIX,
    NONE,
    REQ,
    TRIGGER,
    UNMASK,
    VECTORS,
    Bells,
    Line,
    do,
    in_time,
    refused,
)
from vfio_user_bench import no_fds_lost

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

FULL = 2**64 - 2


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


# Vectors


async def test_a_vector_rings_its_eventfd(irqs: Irqs, bells: Bells) -> None:
    first, second = bells.new(), bells.new()
    do(irqs, MSIX, TRIGGER, EVENTFD, 1, 2, [bells.give(first), bells.give(second)])
    irqs.vectors.signal(2)
    irqs.vectors.signal(2)
    assert (bells.heard(first), bells.heard(second)) == (0, 2)
    irqs.vectors.signal(1)
    assert (bells.heard(first), bells.heard(second)) == (1, 0)
    irqs.close()


async def test_what_could_not_be_told_is_told_when_the_eventfd_comes(irqs: Irqs, bells: Bells) -> None:
    for _ in range(3):
        irqs.vectors.signal(1)
    given = [bells.give(bells.new()) for _ in range(3)]
    do(irqs, MSIX, TRIGGER, EVENTFD, 0, 3, given)
    assert [bells.heard(bell) for bell in range(3)] == [0, 1, 0], "however often it was wanted"
    do(irqs, MSIX, TRIGGER, EVENTFD, 1, 1)  # taken away
    do(irqs, MSIX, TRIGGER, EVENTFD, 1, 1, [bells.give(1)])
    assert bells.heard(1) == 0, "it was told already"
    irqs.close()


async def test_between_two_eventfds_nothing_is_lost(irqs: Irqs, bells: Bells) -> None:
    do(irqs, MSIX, TRIGGER, EVENTFD, 0, 1, [bells.give()])
    do(irqs, MSIX, TRIGGER, EVENTFD, 0, 1)
    irqs.vectors.signal(0)
    assert bells.heard() == 0
    irqs.vectors.disconnect(0, VECTORS)  # once more: what is remembered stays so
    do(irqs, MSIX, TRIGGER, EVENTFD, 0, 1, [bells.give()])
    assert bells.heard() == 1
    irqs.close()


@pytest.mark.parametrize("how", ["off", "forget"])
async def test_what_is_forgotten_is_not_told(how: str, irqs: Irqs, bells: Bells) -> None:
    irqs.vectors.signal(0)
    if how == "off":
        do(irqs, MSIX, TRIGGER, NONE, 0, 0)
    else:
        irqs.vectors.forget()
    do(irqs, MSIX, TRIGGER, EVENTFD, 0, 1, [bells.give()])
    assert bells.heard() == 0
    irqs.vectors.signal(0)
    assert bells.heard() == 1
    irqs.close()


async def test_off_takes_every_eventfd_away(irqs: Irqs, bells: Bells) -> None:
    with no_fds_lost():
        given = [bells.give(bells.new()) for _ in range(3)]
        do(irqs, MSIX, TRIGGER, EVENTFD, 0, 3, given)
        do(irqs, MSIX, TRIGGER, NONE, 0, 0)
        for vector in range(VECTORS):
            irqs.vectors.signal(vector)
        assert [bells.heard(bell) for bell in range(3)] == [0, 0, 0]
        for fd in given:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
        bells.close()


async def test_replaced_eventfds_are_closed(irqs: Irqs, bells: Bells) -> None:
    bell = bells.new()
    with no_fds_lost():
        for vector in range(VECTORS):
            for _ in range(20):
                do(irqs, MSIX, TRIGGER, EVENTFD, vector, 1, [bells.give(bell)])
        for _ in range(20):
            do(irqs, INTX, TRIGGER, EVENTFD, 0, 1, [bells.give(bell)])
            do(irqs, INTX, UNMASK, EVENTFD, 0, 1, [bells.give(bell)])
        irqs.close()
        irqs.close()


async def test_a_full_eventfd_keeps_nobody_waiting(irqs: Irqs) -> None:
    blocking = os.eventfd(0, os.EFD_CLOEXEC)
    os.eventfd_write(blocking, FULL)  # one more would wait
    with os.fdopen(os.dup(blocking), "rb", buffering=0) as ours:
        do(irqs, MSIX, TRIGGER, EVENTFD, 0, 1, [blocking])
        do(irqs, INTX, TRIGGER, EVENTFD, 0, 1, [os.dup(blocking)])
        with in_time():
            irqs.vectors.signal(0)
            irqs.pin.signal()
        assert int.from_bytes(ours.read(8), "little") > FULL - 3, "signalled, as it was"
        irqs.vectors.signal(0)
        assert int.from_bytes(ours.read(8), "little") == 1
        irqs.close()


async def test_what_is_no_eventfd_harms_nobody_else(irqs: Irqs, bells: Bells) -> None:
    do(irqs, MSIX, TRIGGER, EVENTFD, 1, 1, [bells.give()])
    for strange in (*os.pipe(), os.open("/dev/null", os.O_RDONLY), os.memfd_create("no eventfd")):
        try:
            do(irqs, MSIX, TRIGGER, EVENTFD, 0, 1, [strange])
        except Refused:  # that would do as well
            os.close(strange)
        with in_time():
            for _ in range(10_000):  # more than a pipe takes
                irqs.vectors.signal(0)
    irqs.vectors.signal(1)
    assert bells.heard() == 1
    irqs.close()


@pytest.mark.parametrize("irq", [MSIX, INTX])
async def test_descriptors_that_only_name_a_path_are_refused(irq: int, irqs: Irqs) -> None:
    with no_fds_lost():
        path_only = os.open("/dev/null", os.O_PATH)
        request = SetIrqsRequest(irq, TRIGGER, EVENTFD, 0, 1)
        assert refused(irqs, request, [path_only]) in (errno.EINVAL, errno.EBADF)
        irqs.close()


@pytest.mark.parametrize(("rounds", "pause"), [(3000, 0.0), (40, 0.0005)], ids=["many", "each at its worst moment"])
async def test_signals_from_other_threads_meet_no_closed_descriptor(
    rounds: int, pause: float, irqs: Irqs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another eventfd takes the number of each one that was closed: it would hear a signal that comes too late."""
    stop = threading.Event()
    problems: list[BaseException] = []
    heard = 0
    write = os.eventfd_write

    def write_late(fd: int, value: int) -> None:
        time.sleep(pause)
        write(fd, value)

    def signalling() -> None:
        try:
            while not stop.is_set():
                irqs.vectors.signal(0)
                irqs.pin.signal()
        except BaseException as error:
            problems.append(error)

    def wait(seconds: float) -> None:
        if seconds:
            time.sleep(seconds)

    def listen() -> int:
        """Sit in the place of a closed eventfd for a moment."""
        with os.fdopen(os.eventfd(0, os.EFD_NONBLOCK), "rb", buffering=0) as canary:
            wait(3 * pause)
            return len(canary.read(8) or b"")

    if pause:
        monkeypatch.setattr(os, "eventfd_write", write_late)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=signalling)
    thread.start()
    try:
        for _ in range(rounds):
            irqs.vectors.connect(0, [os.eventfd(0, os.EFD_NONBLOCK)])
            wait(pause / 2)
            irqs.vectors.disconnect(0, 1)
            heard += listen()
            irqs.pin.connect(os.eventfd(0, os.EFD_NONBLOCK))
            wait(pause / 2)
            irqs.pin.off()
            heard += listen()
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    assert problems == []
    assert heard == 0
    irqs.close()


# SET_IRQS

ACTIONS = {
    (MSIX, TRIGGER, EVENTFD),
    (MSIX, TRIGGER, NONE),
    (MSIX, TRIGGER, BOOL),
    (INTX, TRIGGER, EVENTFD),
    (INTX, TRIGGER, NONE),
    (INTX, TRIGGER, BOOL),
    (INTX, MASK, NONE),
    (INTX, MASK, BOOL),
    (INTX, UNMASK, NONE),
    (INTX, UNMASK, BOOL),
    (INTX, UNMASK, EVENTFD),
}
"""What can be done at all; all else is refused."""


@pytest.mark.parametrize("irq", [INTX, MSI, MSIX, ERR, REQ, 5, 0xFFFFFFFF])
async def test_what_can_be_done_to_which_interrupt(irq: int, irqs: Irqs, bells: Bells) -> None:
    with no_fds_lost():
        for action, data in itertools.product((MASK, UNMASK, TRIGGER), (NONE, BOOL, EVENTFD)):
            bools = b"\1" if data is BOOL else b""
            fds = [os.eventfd(0, os.EFD_NONBLOCK)] if data is EVENTFD else []
            request = SetIrqsRequest(irq, action, data, 0, 1, bools)
            if (irq, action, data) in ACTIONS:
                irqs.set(request, fds)
            else:
                assert refused(irqs, request, fds) == errno.EINVAL
        irqs.close()


@pytest.mark.parametrize(
    ("irq", "start", "number"),
    [
        *((MSIX, 0, 4), (MSIX, 3, 1), (MSIX, 2, 2), (MSIX, 4, 0), (MSIX, 0xFFFFFFFF, 1)),
        *((INTX, 0, 2), (INTX, 1, 1), (INTX, 2, 0), (MSI, 0, 1), (ERR, 0, 1), (REQ, 0, 1)),
    ],
)
async def test_interrupts_that_are_not_there_are_refused(
    irq: int, start: int, number: int, irqs: Irqs, bells: Bells
) -> None:
    with no_fds_lost():
        for data in (NONE, BOOL, EVENTFD):
            fds = [os.eventfd(0) for _ in range(number)] if data is EVENTFD else []
            request = SetIrqsRequest(irq, TRIGGER, data, start, number, bytes(number) if data is BOOL else b"")
            assert refused(irqs, request, fds) == errno.EINVAL


@pytest.mark.parametrize(("data", "bools", "rung"), [(NONE, b"", [0, 1, 1]), (BOOL, b"\0\7", [0, 0, 1])])
async def test_a_client_may_trigger_vectors_itself(
    data: SetIrqs, bools: bytes, rung: list[int], irqs: Irqs, bells: Bells
) -> None:
    do(irqs, MSIX, TRIGGER, EVENTFD, 0, 3, [bells.give(bells.new()) for _ in range(3)])
    do(irqs, MSIX, TRIGGER, data, 1, 2, bools=bools)
    assert [bells.heard(bell) for bell in range(3)] == rung
    do(irqs, INTX, TRIGGER, EVENTFD, 0, 1, [bells.give(0)])
    do(irqs, INTX, TRIGGER, data, 0, 1, bools=bools[1:])
    assert bells.heard(0) == 1
    irqs.close()


async def test_info_says_what_there_is(irqs: Irqs) -> None:
    assert irqs.info(INTX) == (7, 1)
    assert irqs.info(MSIX) == (1, VECTORS)
    assert irqs.info(MSI) == irqs.info(ERR) == irqs.info(REQ) == (0, 0)
    with pytest.raises(Refused):
        irqs.info(5)
    assert Irqs(0, Line(), lambda: None).info(MSIX)[1] == 0
