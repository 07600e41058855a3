"""The server's side of a vfio-user connection: cut, mixed up and hostile streams, and where descriptors end up."""

import errno
import json
import os
import socket
import struct
import sys
from collections.abc import Sequence
from itertools import chain
from typing import TypeAlias

import pytest
from hdvkit_vfio_user.protocol import (
    Answer,
    Connection,
    GetInfo,
    Piece,
    RegionRead,
    RegionWrite,
    Request,
    Reset,
    SetIrqsRequest,
    State,
)
from hdvkit_vfio_user.protocol.connection import MAX_ASKED
from hdvkit_vfio_user.protocol.spec import SetIrqs
from hypothesis import given
from hypothesis import strategies as st

Sent: TypeAlias = tuple[bytes, tuple[int, ...]]
"""A message, or a piece of a stream, with the descriptors that come with it."""


def message(ident: int, command: int, payload: bytes = b"", flags: int = 0, error: int = 0) -> bytes:
    return struct.pack("<HHIII", ident, command, 16 + len(payload), flags, error) + payload


TEXT = (
    b'{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, '
    b'"migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}\0'
)
HELLO = bytes.fromhex("0000 0100 d6000000 00000000 00000000 0000 0000") + TEXT
"""VERSION as QEMU sends it."""
RESET = message(9, 13)
MAP = struct.pack("<IIQQQ", 32, 3, 0, 0x10_0000, 0x1000)
INFO = struct.pack("<IIII", 16, 0, 0, 0)
READ = struct.pack("<QII", 0x3004, 1, 4)
KICK = struct.pack("<QII", 0x3000, 0, 2) + b"\1\0"

REQUESTS = {
    2: MAP,
    3: struct.pack("<IIQQ", 24, 0, 0x10_0000, 0x1000),
    4: INFO,
    5: struct.pack("<IIIIQQ", 32, 0, 7, 0, 0, 0),
    6: INFO,
    7: INFO,
    8: struct.pack("<IIIII", 20, 0x21, 2, 0, 0),
    9: READ,
    10: KICK,
    13: b"",
    15: bytes(8),
}
"""One of each that is understood."""


def trigger(start: int, count: int) -> bytes:
    """SET_IRQS: these vectors signal the descriptors that come along."""
    return struct.pack("<IIIII", 20, 0x24, 2, start, count)


def opened() -> Connection:
    """A connection that has agreed."""
    connection = Connection()
    assert connection.receive_data(HELLO) == []
    assert connection.state is State.OPEN
    assert len(connection.data_to_send()) == 1
    return connection


def only(connection: Connection, data: bytes, fds: tuple[int, ...] = ()) -> Request:
    """The one request that some bytes are."""
    (event,) = connection.receive_data(data, fds)
    assert isinstance(event, Request)
    return event


def sent(connection: Connection) -> bytes:
    """All that goes out, as a stream."""
    return b"".join(piece.data for piece in connection.data_to_send())


def ends(connection: Connection, data: bytes) -> str:
    """The reason why some bytes end a connection, after which it is deaf."""
    assert connection.receive_data(data) == []
    assert connection.state is State.CLOSED
    reason = connection.reason
    assert reason
    connection.data_to_send()
    assert connection.receive_data(RESET + HELLO, (90, 91)) == []
    assert connection.receive_data(b"", (92,)) == []
    assert connection.unwanted_fds() == [90, 91, 92]
    assert (connection.state, connection.reason, sent(connection)) == (State.CLOSED, reason, b"")
    return reason


def short(value: object) -> str | None:
    """The name of a parameter: bytes are told by their length."""
    return f"{len(value)}B" if isinstance(value, bytes) else None


# VERSION


def test_qemus_offer_is_agreed_to() -> None:
    assert len(HELLO) == 214
    connection = Connection()
    assert (connection.state, connection.reason) == (State.NEW, "")
    assert connection.receive_data(HELLO) == []
    assert (connection.state, connection.reason) == (State.OPEN, "")
    assert connection.limits == (16, 1 << 20)
    ((data, fds),) = connection.data_to_send()
    assert data[:20] == bytes.fromhex(f"0000 0100 {len(data):02x}000000 01000000 00000000 0000 0000")
    assert (len(data) <= len(HELLO), data[-1:], fds) == (True, b"\0", ())
    assert json.loads(data[20:-1])["capabilities"]["max_msg_fds"] == 16
    assert connection.data_to_send() == []


def test_answer_has_the_id_of_the_offer() -> None:
    connection = Connection()
    connection.receive_data(message(0xFFFE, 1, b"\0\0\0\0{}\0"))
    assert sent(connection)[:4] == b"\xfe\xff\1\0"
    assert connection.limits == (1, 1 << 20)


@pytest.mark.parametrize(
    ("command", "payload"),
    [
        *REQUESTS.items(),
        (99, b""),
        (1, b""),
        (1, b"\1\0\0\0" + TEXT),
        (1, b"\0\0\0\0" + TEXT[:-1]),
        (1, b"\0\0\0\0" + b"[" * 100_000 + b"\0"),
        (1, b'\0\0\0\0{"capabilities":{"max_msg_fds":"16"}}\0'),
    ],
    ids=short,
)
def test_anything_else_at_first_is_answered_and_ends_it(command: int, payload: bytes) -> None:
    for flags in (0, 0x10):
        connection = Connection()
        assert connection.receive_data(message(7, command, payload, flags) + HELLO + RESET, (50,)) == []
        assert (connection.state, bool(connection.reason)) == (State.CLOSED, True)
        refusal = struct.pack("<HHIII", 7, command, 16, 0x21, errno.EINVAL)
        assert sent(connection) == (b"" if flags else refusal)
        assert connection.unwanted_fds() == [50]
        ends(connection, b"")


def test_version_with_a_descriptor_gives_it_back() -> None:
    connection = Connection()
    connection.receive_data(HELLO, (50,))
    assert connection.unwanted_fds() == [50]


def test_second_version_is_refused_and_changes_nothing() -> None:
    connection = opened()
    assert connection.receive_data(message(5, 1, b"\0\0\0\0{}\0")) == []
    ident, command, size, flags, error = struct.unpack("<HHIII", sent(connection))
    assert (ident, command, size, flags) == (5, 1, 16, 0x21)
    assert error in {errno.EINVAL, errno.ENOTSUP}
    assert (connection.state, connection.limits) == (State.OPEN, (16, 1 << 20))
    assert only(connection, RESET).message == Reset()


# Requests and replies


@pytest.mark.parametrize("ident", [0, 1, 250, 0xFFFF])
def test_request_carries_its_header(ident: int) -> None:
    connection = opened()
    request = only(connection, message(ident, 9, READ))
    assert request == Request(ident, 9, True, RegionRead(0x3004, 1, 4), ())
    assert request.wants_reply is True
    assert connection.data_to_send() == []


@pytest.mark.parametrize("flags", [0x20, 0x40, 0x8000_0000])
def test_unknown_flags_of_a_header_do_not_matter(flags: int) -> None:
    assert only(opened(), message(1, 13, b"", flags, error=5)) == Request(1, 13, True, Reset(), ())


@pytest.mark.parametrize(
    ("command", "payload", "golden"),
    [
        (2, "", "10000000 01000000"),
        (3, "18000000 00000000 0000100000000000 0010000000000000", "28000000 01000000"),
        (4, "10000000 03000000 09000000 05000000", "20000000 01000000"),
        (5, "20000000 03000000 00000000 00000000 0040000000000000 0000000000000000", "30000000 01000000"),
        (6, "10000000 00000000 00000000 00000000", "20000000 01000000"),
        (7, "10000000 01000000 02000000 03000000", "20000000 01000000"),
        (8, "", "10000000 01000000"),
        (9, "0430000000000000 01000000 04000000 aabbccdd", "24000000 01000000"),
        (10, "0030000000000000 00000000 02000000", "20000000 01000000"),
        (13, "", "10000000 01000000"),
        (15, "0000000000000000", "18000000 01000000"),
    ],
)
def test_reply_and_refusal_of_each_command(command: int, payload: str, golden: str) -> None:
    connection = opened()
    request = only(connection, message(0x1234, command, REQUESTS[command]))
    connection.reply(request, bytes.fromhex(payload))
    assert sent(connection) == bytes.fromhex(f"3412 {command:02x}00 {golden} 00000000 {payload}")
    connection.refuse(request, errno.ENOENT)
    assert sent(connection) == bytes.fromhex(f"3412 {command:02x}00 10000000 21000000 02000000")


@pytest.mark.parametrize("command", REQUESTS)
def test_nobody_answers_what_wants_no_reply(command: int) -> None:
    connection = opened()
    request = only(connection, message(3, command, REQUESTS[command], flags=0x10))
    assert request.wants_reply is False
    connection.reply(request, b"data", (4, 5))
    connection.refuse(request, errno.EIO)
    assert connection.receive_data(message(4, command, REQUESTS[command] + b"\0", flags=0x10)) == []
    assert connection.receive_data(message(5, 14, b"", flags=0x10)) == []
    assert (connection.data_to_send(), connection.unwanted_fds(), connection.state) == ([], [], State.OPEN)


def test_descriptors_of_a_reply_go_with_its_first_byte() -> None:
    connection = opened()
    first, second = only(connection, message(1, 6, INFO)), only(connection, message(2, 4, INFO))
    connection.reply(second, b"second")
    connection.reply(first, b"first", (7, 8))
    assert connection.data_to_send() == [
        Piece(message(2, 4, b"second", flags=1), ()),
        Piece(message(1, 6, b"first", flags=1), (7, 8)),
    ]
    assert connection.data_to_send() == []


@pytest.mark.parametrize(
    ("command", "payload", "flags", "code"),
    [
        *((command, payload + b"\0", 0, errno.EINVAL) for command, payload in REQUESTS.items()),
        *((command, payload, kind, errno.EINVAL) for command, payload in REQUESTS.items() for kind in (2, 3, 8, 15)),
        *((command, bytes(16), 0, errno.ENOTSUP) for command in (0, 11, 12, 14, 16, 17, 18, 99, 0xFFFF)),
    ],
    ids=short,
)
def test_bad_request_is_refused_by_a_header_and_forgotten(command: int, payload: bytes, flags: int, code: int) -> None:
    connection = opened()
    for fds in ((), (50, 51)):
        assert connection.receive_data(message(0xABCD, command, payload, flags), fds) == []
        assert connection.data_to_send() == [Piece(struct.pack("<HHIII", 0xABCD, command, 16, 0x21, code), ())]
        assert (connection.unwanted_fds(), connection.unwanted_fds()) == (list(fds), [])
    assert only(connection, RESET) == Request(9, 13, True, Reset(), ())


# Descriptors


@pytest.mark.parametrize(
    ("command", "payload", "most"),
    [
        *((command, payload, int(command == 2)) for command, payload in REQUESTS.items()),
        (8, struct.pack("<IIIII", 21, 0x22, 2, 0, 1) + b"\1", 0),
        (8, struct.pack("<IIIII", 20, 0x21, 2, 0, 1), 0),
        (8, trigger(0, 0), 0),
    ],
    ids=short,
)
def test_more_descriptors_than_belong_come_back(command: int, payload: bytes, most: int) -> None:
    for count in range(18):
        connection = opened()
        fds = tuple(range(50, 50 + count))
        events = connection.receive_data(message(1, command, payload), fds)
        assert [event.fds for event in events if isinstance(event, Request)] == ([fds] if count <= most else [])
        assert connection.unwanted_fds() == ([] if count <= most else list(fds))
        assert len(connection.data_to_send()) == (count > most)


@pytest.mark.parametrize("count", range(1, 19))
@pytest.mark.parametrize("action", [8, 0x10, 0x20])
def test_interrupts_take_a_descriptor_for_each_vector_or_none(count: int, action: int) -> None:
    payload = struct.pack("<IIIII", 20, action | 4, 2, 5, count)
    asked = SetIrqsRequest(2, SetIrqs(action), SetIrqs.DATA_EVENTFD, 5, count)
    for given_fds in range(20):
        connection = opened()
        fds = tuple(range(50, 50 + given_fds))
        events = connection.receive_data(message(1, 8, payload), fds)
        fits = not fds or given_fds == count <= 16
        assert events == ([Request(1, 8, True, asked, fds)] if fits else [])
        assert connection.unwanted_fds() == ([] if fits else list(fds))


@pytest.mark.parametrize("cut", range(1, 48))
def test_descriptors_belong_to_the_message_with_the_last_byte(cut: int) -> None:
    first, second = message(1, 2, MAP), message(2, 2, MAP)
    connection = opened()
    events = connection.receive_data(RESET + first + second[:cut], (50,))
    events += connection.receive_data(second[cut:] + RESET)
    assert [event.fds for event in events if isinstance(event, Request)] == [(), (), (50,), ()]


def test_descriptors_of_a_message_that_never_ends_come_back() -> None:
    connection = opened()
    request = only(connection, message(1, 2, MAP), (50,))
    connection.receive_data(message(2, 2, MAP)[:-1], (51,))
    assert (request.fds, connection.unwanted_fds()) == ((50,), [])
    connection.receive_data(b"")
    assert (connection.unwanted_fds(), connection.unwanted_fds()) == ([51], [])


# The end


def test_end_of_stream_ends_it() -> None:
    assert "closed" in ends(Connection(), b"")
    for before in (RESET[:1], RESET[:15], message(1, 10, KICK)[:20]):
        connection = opened()
        assert connection.receive_data(before) == []
        assert "closed" in ends(connection, b"")


@pytest.mark.parametrize("size", [0, 1, 15, (1 << 20) + 4096, 0x8000_0000, 0xFFFF_FFFF])
def test_impossible_size_ends_it_at_the_header(size: int) -> None:
    connection = opened()
    header = struct.pack("<HHIII", 1, 10, size, 0, 0)
    (event,) = connection.receive_data(message(4, 4, INFO) + header[:15])
    assert isinstance(event, Request)
    assert str(size) in ends(connection, header[15:])


def test_what_came_before_a_violation_counts_and_nothing_behind_it() -> None:
    connection = opened()
    events = connection.receive_data(message(1, 4, INFO) + message(2, 4, b"", 1) + message(3, 4, INFO), (50,))
    assert events == [Request(1, 4, True, GetInfo(), ())]
    assert (connection.state, connection.unwanted_fds(), sent(connection)) == (State.CLOSED, [50], b"")


def test_largest_write_passes() -> None:
    data = bytes(range(256)) * 4096
    request = only(opened(), message(1, 10, struct.pack("<QII", 0, 3, 1 << 20) + data))
    assert request.message == RegionWrite(0, 3, data)


# Questions of ours


def test_questions_have_64_bit_counts() -> None:
    connection = opened()
    first, second = connection.ask_read(0x1_0000_2000, 1 << 20), connection.ask_write(0x3000, b"data")
    assert first != second
    assert connection.data_to_send() == [
        Piece(struct.pack("<HHIIIQQ", first, 11, 32, 0, 0, 0x1_0000_2000, 1 << 20), ()),
        Piece(struct.pack("<HHIIIQQ", second, 12, 36, 0, 0, 0x3000, 4) + b"data", ()),
    ]


PLACE = struct.pack("<QQ", 0x3000, 4)
WRONG_PLACES = [struct.pack("<QQ", 0x3001, 4), struct.pack("<QQ", 0x3000, 5), struct.pack("<QI", 0x3000, 4), b""]


def test_answers_come_in_any_order_between_requests() -> None:
    connection = opened()
    read, write = connection.ask_read(0x3000, 4), connection.ask_write(0x3000, b"data")
    stream = message(write, 12, PLACE, 1) + message(read, 13) + message(read, 11, PLACE + b"read", 1)
    assert connection.receive_data(stream, (50,)) == [
        Answer(write, 0, b""),
        Request(read, 13, True, Reset(), ()),
        Answer(read, 0, b"read"),
    ]
    assert connection.unwanted_fds() == [50]


def test_largest_and_smallest_read() -> None:
    connection = opened()
    for count in (1 << 20, 0):
        ident = connection.ask_read(0, count)
        reply = message(ident, 11, struct.pack("<QQ", 0, count) + bytes(count), 1)
        assert connection.receive_data(reply) == [Answer(ident, 0, bytes(count))]


@pytest.mark.parametrize("command", [11, 12])
@pytest.mark.parametrize("code", [0, 1, 7, 19])
def test_refused_question_has_an_errno(command: int, code: int) -> None:
    connection = opened()
    ident = connection.ask_read(0x3000, 4) if command == 11 else connection.ask_write(0x3000, b"data")
    (answer,) = connection.receive_data(message(ident, command, b"", 0x21, code))
    assert answer == Answer(ident, code or errno.EIO, b"")  # the protocol lets the number be absent
    assert "not made" in ends(connection, message(ident, command, b"", 0x21, code))


@pytest.mark.parametrize(
    ("command", "payload"),
    [
        *((11, place + b"read") for place in WRONG_PLACES),
        *((11, PLACE + b"read"[:length]) for length in range(4)),
        (11, PLACE + b"reads"),
        *((12, place) for place in WRONG_PLACES),
        *((12, PLACE + more) for more in (b"d", b"data")),
    ],
    ids=short,
)
def test_answer_that_does_not_fit_ends_it(command: int, payload: bytes) -> None:
    connection = opened()
    ident = connection.ask_read(0x3000, 4) if command == 11 else connection.ask_write(0x3000, b"data")
    assert "fit" in ends(connection, message(ident, command, payload, 1))


def test_answer_to_nothing_ends_it() -> None:
    for command in (0, 1, 4, 11, 12, 99):
        for flags in (0x1, 0x21):
            assert "not made" in ends(opened(), message(0, command, b"", flags))
            assert "not made" in ends(Connection(), message(0, command, b"", flags))
    connection = opened()
    assert "12" in ends(connection, message(connection.ask_read(0x3000, 4), 12, PLACE, 1))
    connection = opened()
    assert "4" in ends(connection, message(connection.ask_write(0x3000, b"data"), 4, b"", 0x21))


def test_numbers_of_unanswered_questions_are_not_given_again() -> None:
    connection = opened()
    waiting: set[int] = set()
    for which in range(0x1_0000 + 100):
        ident = connection.ask_read(which, 1)
        assert ident in range(0x1_0000)
        assert ident not in waiting
        waiting.add(ident)
        if which % 100:  # one of a hundred is never answered
            reply = message(ident, 11, struct.pack("<QQQ", which, 1, 0)[:17], 1)
            assert connection.receive_data(reply) == [Answer(ident, 0, b"\0")]
            waiting.discard(ident)


def test_client_that_answers_nothing_is_given_up() -> None:
    connection = opened()
    asked = {connection.ask_read(which, 1) for which in range(MAX_ASKED)}
    assert (len(asked), connection.state) == (MAX_ASKED, State.OPEN)
    assert connection.ask_write(0, b"") == -1
    assert connection.state is State.CLOSED
    assert "unanswered" in connection.reason


# Any stream

MAYBE_WITH_FDS = [
    (RESET, 0), (message(1, 4, INFO), 0), (message(2, 10, KICK, 0x10), 0), (message(3, 2, MAP), 0),
    (message(4, 2, MAP), 1), (message(5, 8, trigger(3, 2)), 2), (message(6, 8, trigger(0, 16)), 16),
    (message(7, 8, trigger(0, 3)), 2), (message(8, 13), 1), (message(9, 2, MAP[:-1]), 1), (message(10, 77), 3),
    (message(11, 10, struct.pack("<QII", 0, 0, 300) + bytes(300)), 0), (message(12, 5, INFO, 0x10), 1),
]  # fmt: skip


def numbered(counts: Sequence[tuple[bytes, int]]) -> list[Sent]:
    """Each with as many descriptors, no number twice."""
    numbers = iter(range(100, 100_000))
    return [(data, tuple(next(numbers) for _ in range(count))) for data, count in counts]


def received(connection: Connection, pieces: Sequence[Sent]) -> tuple[list[Request | Answer], list[int], list[Piece]]:
    """Events, unwanted descriptors and what goes out, of all pieces."""
    events = list(chain.from_iterable(connection.receive_data(*piece) for piece in pieces))
    return events, connection.unwanted_fds(), connection.data_to_send()


def through_a_socket(stream: Sequence[Sent], sizes: Sequence[int], most: int) -> list[Sent]:
    """What ``recvmsg`` gives of a stream: it stops behind the buffer that descriptors came with."""
    buffers = [(data[at : at + most], () if at else fds) for data, fds in stream for at in range(0, len(data), most)]
    given: list[Sent] = []
    while buffers:
        room, data, fds = sizes[len(given) % len(sizes)], b"", tuple[int, ...]()
        while buffers and room > len(data) and not fds:
            (held, fds), missing = buffers.pop(0), room - len(data)
            data += held[:missing]
            if held[missing:]:
                buffers.insert(0, (held[missing:], ()))
        given.append((data, fds))
    return given


STREAMS = st.lists(st.sampled_from(MAYBE_WITH_FDS), max_size=12).map(numbered)


@given(STREAMS, st.lists(st.integers(1, 200), min_size=1, max_size=20), st.integers(1, 400))
def test_cuts_change_nothing(stream: list[Sent], sizes: list[int], most: int) -> None:
    whole = [(HELLO, ()), *stream]
    assert received(Connection(), through_a_socket(whole, sizes, most)) == received(Connection(), whole)


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are attributed as Linux delivers them")
@pytest.mark.parametrize("size", [1, 15, 17, 48, 61, 100, 4096])
def test_real_socket_cuts_as_expected(size: int) -> None:
    stream = numbered(MAYBE_WITH_FDS * 2)
    pipes = {number: os.pipe() for number in chain.from_iterable(fds for _, fds in stream)}
    inodes = {os.fstat(pipe[0]).st_ino: number for number, pipe in pipes.items()}
    ours, theirs = socket.socketpair()
    pieces: list[Sent] = []
    with ours, theirs:
        for data, fds in stream:
            socket.send_fds(theirs, [data], [pipes[number][0] for number in fds])
        theirs.close()
        while pieces[-1:] != [(b"", ())]:
            data, got, _, _ = socket.recv_fds(ours, size, 16)
            pieces.append((data, tuple(inodes[os.fstat(fd).st_ino] for fd in got)))
            for fd in [*got, *(end for number in pieces[-1][1] for end in pipes[number])]:
                os.close(fd)
    assert pieces[:-1] == through_a_socket(stream, [size], 4096)
    assert received(opened(), pieces[:-1]) == received(opened(), stream)


ANSWERS = [
    message(ident, command, PLACE + data, flags)
    for ident in range(4)
    for command, data in ((11, b"read"), (12, b""))
    for flags in (1, 0x21)
]
HONEST = st.sampled_from([HELLO, *(data for data, _ in MAYBE_WITH_FDS), *ANSWERS])
MUTATED = st.builds(
    lambda data, at, byte: data[: at % len(data)] + bytes([byte]) + data[at % len(data) + 1 :],
    HONEST, st.integers(0, 60), st.integers(0, 255),
)  # fmt: skip
CUT = st.builds(lambda data, at: data[: at % len(data)], HONEST, st.integers(0, 300))
HOSTILE = st.lists(st.tuples(HONEST | HONEST | MUTATED | CUT | st.binary(max_size=80), st.integers(0, 17)), max_size=12)


@given(st.booleans(), HOSTILE.map(numbered))
def test_no_stream_raises_or_loses_a_descriptor(agreed: bool, stream: list[Sent]) -> None:
    connection = opened() if agreed else Connection()
    asked = [connection.ask_read(0x3000, 4), connection.ask_write(0x3000, b"data"), connection.ask_read(0x3000, 4)]
    connection.data_to_send()
    kept: list[int] = []
    for data, fds in [*stream, (b"", ())]:
        over = connection.state is State.CLOSED
        for event in (events := connection.receive_data(data, fds)):
            if isinstance(event, Request):
                kept += event.fds
            else:
                asked.remove(event.id)
        kept += connection.unwanted_fds()
        answers = connection.data_to_send()
        assert not over or (events, answers) == ([], [])
        assert all(struct.unpack_from("<I", answer.data, 4) == (len(answer.data),) for answer in answers)
        assert bool(connection.reason) == (connection.state is State.CLOSED)
    assert connection.state is State.CLOSED
    assert sorted(kept) == sorted(chain.from_iterable(fds for _, fds in stream))
