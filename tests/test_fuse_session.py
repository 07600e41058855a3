"""The session against every order of INIT, DESTROY and the rest."""

import errno
import struct
from typing import Any

import pytest
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.messages import Init
from hdvkit_virtiofs.fuse.session import RULES, Session, State
from hdvkit_virtiofs.fuse.spec import InitFlag, Opcode
from hypothesis import given
from hypothesis import strategies as st

LINUX_6_1 = Init(7, 38, 131072, 0x7BFFFFFB, 0x0B)
LINUX_7_3 = Init(7, 46, 131072, 0x7BFFFFFB, 0x5FF)
WANTED = InitFlag.ASYNC_READ | InitFlag.MAX_PAGES | InitFlag.DO_READDIRPLUS | InitFlag.HAS_EXPIRE_ONLY
OUT = "<IIIIHHIIHHIIH22x"


def answer(payload: bytes) -> dict[str, Any]:
    names = (
        *("major", "minor", "max_readahead", "flags", "max_background", "congestion_threshold"),
        *("max_write", "time_gran", "max_pages", "map_alignment", "flags2", "max_stack_depth"),
        "request_timeout",
    )
    return dict(zip(names, struct.unpack(OUT, payload), strict=True))


def refused(code: int, call: Any, *arguments: Any) -> None:
    with pytest.raises(FuseError) as caught:
        call(*arguments)
    assert caught.value.errno == code


def ready(wanted: InitFlag = WANTED, request: Init = LINUX_6_1, **options: int) -> Session:
    session = Session(wanted, **options)
    session.init(request)
    return session


def test_flags_of_the_second_word_hold_only_with_its_flag() -> None:
    wanted = WANTED | InitFlag.SECURITY_CTX | InitFlag.CREATE_SUPP_GROUP
    old = Session(wanted)
    told = answer(old.init(LINUX_6_1))
    assert InitFlag.SECURITY_CTX in old.flags
    assert InitFlag.CREATE_SUPP_GROUP not in old.flags, "Linux 6.1 does not offer it"
    assert told["flags"] & InitFlag.INIT_EXT
    assert told["flags2"] == (InitFlag.SECURITY_CTX | InitFlag.HAS_EXPIRE_ONLY) >> 32
    new = ready(wanted, LINUX_7_3)
    assert {InitFlag.SECURITY_CTX, InitFlag.CREATE_SUPP_GROUP} <= set(new.flags)
    without = ready(wanted, LINUX_6_1._replace(flags=LINUX_6_1.flags & ~InitFlag.INIT_EXT))
    assert not without.flags >> 32


# F2: the order of requests


def test_f2_nothing_but_init_comes_first() -> None:
    session = Session(WANTED)
    assert session.state is State.NEW
    for opcode in (*(set(Opcode) - {Opcode.INIT}), 0, 31337):
        refused(errno.EIO, session.check, opcode)
    refused(errno.EIO, session.destroy)
    assert session.check(Opcode.INIT) is State.READY
    assert session.state is State.NEW


def test_f2_after_init_anything_but_init() -> None:
    session = ready()
    assert session.state is State.READY
    for opcode in (*(set(Opcode) - {Opcode.INIT, Opcode.DESTROY}), 0, 31337):
        assert session.check(opcode) is State.READY
    assert session.check(Opcode.DESTROY) is State.DESTROYED


def test_f2_second_init_changes_nothing() -> None:
    session = ready()
    refused(errno.EIO, session.check, Opcode.INIT)
    refused(errno.EIO, session.init, LINUX_7_3)
    assert (session.state, session.minor) == (State.READY, 38)


def test_f2_newer_major_version_is_told_ours_and_tries_again() -> None:
    session = Session(WANTED)
    reply = answer(session.init(Init(8, 0)))
    assert (reply.pop("major"), reply.pop("minor")) == (7, 46)
    assert set(reply.values()) == {0}
    assert session.state is State.NEW
    refused(errno.EIO, session.check, Opcode.GETATTR)
    session.init(LINUX_6_1)
    assert session.check(Opcode.GETATTR) is State.READY


@pytest.mark.parametrize(("major", "minor"), [(0, 0), (6, 46), (7, 26), (7, 0)])
def test_f2_guests_too_old(major: int, minor: int) -> None:
    session = Session(WANTED)
    refused(errno.EPROTO, session.init, Init(major, minor))
    assert session.state is State.NEW


@pytest.mark.parametrize(("theirs", "agreed"), [(27, 27), (38, 38), (46, 46), (47, 46), (2**32 - 1, 46)])
def test_f2_the_smaller_minor_version_holds(theirs: int, agreed: int) -> None:
    session = Session(WANTED)
    reply = answer(session.init(Init(7, theirs)))
    assert (session.minor, reply["minor"]) == (agreed, agreed)


def test_f3_unmounted_and_mounted_again() -> None:
    session = ready(WANTED | InitFlag.SETXATTR_EXT)
    assert session.setxattr_ext
    session.destroy()
    assert session.state is State.DESTROYED
    assert (session.flags, session.setxattr_ext, session.max_pages) == (InitFlag(0), False, 32)
    refused(errno.EIO, session.check, Opcode.GETATTR)
    refused(errno.EIO, session.destroy)
    session.init(LINUX_7_3)
    assert (session.state, session.minor) == (State.READY, 46)


def test_f3_reset_from_every_state() -> None:
    session = Session(WANTED)
    session.reset()
    session.init(LINUX_6_1)
    session.reset()
    assert (session.state, session.minor, session.flags) == (State.NEW, 46, InitFlag(0))
    session.init(LINUX_6_1)
    session.destroy()
    session.reset()
    assert session.state is State.NEW


def test_every_state_has_its_rules() -> None:
    assert set(RULES) == set(State)


# What is negotiated


def test_flags_hold_when_wanted_and_offered() -> None:
    session = ready(WANTED | InitFlag.PASSTHROUGH | InitFlag.FILE_OPS)
    assert session.flags == WANTED | InitFlag.INIT_EXT
    assert InitFlag.PASSTHROUGH not in session.flags


def test_second_word_counts_only_when_announced() -> None:
    quiet = LINUX_6_1._replace(flags=LINUX_6_1.flags & ~(1 << 30))
    session = Session(WANTED)
    reply = answer(session.init(quiet))
    assert InitFlag.HAS_EXPIRE_ONLY not in session.flags
    assert (reply["flags"] >> 30, reply["flags2"]) == (0, 0)


def test_second_word_is_announced_only_when_it_says_something() -> None:
    reply = answer(Session(InitFlag.ASYNC_READ).init(LINUX_7_3))
    assert (reply["flags"], reply["flags2"]) == (1, 0)


def test_the_whole_reply_to_a_stock_guest() -> None:
    assert answer(Session(WANTED, max_readahead=65536).init(LINUX_6_1)) == {
        "major": 7,
        "minor": 38,
        "max_readahead": 65536,
        "flags": 1 | 1 << 13 | 1 << 22 | 1 << 30,
        "max_background": 64,
        "congestion_threshold": 48,
        "max_write": 1 << 20,
        "time_gran": 1,
        "max_pages": 256,
        "map_alignment": 0,
        "flags2": 1 << 3,
        "max_stack_depth": 0,
        "request_timeout": 0,
    }


@pytest.mark.parametrize(
    ("guest", "wanted", "told"),
    [(LINUX_6_1, 30, 0), (LINUX_7_3._replace(flags2=LINUX_7_3.flags2 | 1 << 10), 30, 30), (LINUX_7_3, 0, 0)],
    ids=["too old", "can", "not wanted"],
)
def test_a_guest_that_can_is_told_how_long_to_wait(guest: Init, wanted: int, told: int) -> None:
    reply = answer(Session(WANTED, request_timeout=wanted).init(guest))
    assert (reply["request_timeout"], reply["flags2"] >> 10 & 1) == (told, bool(told))


def test_old_init_without_a_second_word() -> None:
    session = ready(request=Init(7, 31, 131072, 0x00FFFFFB))
    assert session.flags == InitFlag.ASYNC_READ | InitFlag.MAX_PAGES | InitFlag.DO_READDIRPLUS


@pytest.mark.parametrize(("theirs", "agreed"), [(0, 0), (4096, 4096), (2**32 - 1, 1 << 20)])
def test_the_smaller_readahead_holds(theirs: int, agreed: int) -> None:
    assert ready(request=LINUX_6_1._replace(max_readahead=theirs)).max_readahead == agreed


@pytest.mark.parametrize(
    ("asked", "given_", "pages"),
    [
        (0, 65536, 16),
        (65535, 65536, 16),
        (65536, 65536, 16),
        (70000, 69632, 17),
        (1 << 20, 1 << 20, 256),
        ((1 << 20) + 1, 1 << 20, 256),
        (1 << 40, 1 << 20, 256),
    ],
)
def test_max_write_stays_in_its_range(asked: int, given_: int, pages: int) -> None:
    session = ready(max_write=asked)
    assert (session.max_write, session.max_pages) == (given_, pages)


def test_guest_that_cannot_be_told_a_number_of_pages() -> None:
    session = Session(InitFlag.ASYNC_READ)
    reply = answer(session.init(LINUX_6_1))
    assert (session.max_pages, reply["max_pages"], reply["max_write"]) == (32, 0, 1 << 20)


@pytest.mark.parametrize(("asked", "sent", "threshold"), [(0, 1, 0), (12, 12, 9), (10**6, 65535, 49151)])
def test_max_background_fits_its_field(asked: int, sent: int, threshold: int) -> None:
    reply = answer(Session(WANTED, max_background=asked).init(LINUX_6_1))
    assert (reply["max_background"], reply["congestion_threshold"]) == (sent, threshold)


U32 = st.integers(0, 2**32 - 1)


@given(U32, st.integers(5, 8) | U32, st.integers(20, 50) | U32, U32, U32, U32)
def test_any_init_ends_in_a_reply_or_an_answer(
    wanted: int, major: int, minor: int, readahead: int, flags: int, flags2: int
) -> None:
    session = Session(InitFlag(wanted))
    request = Init(major, minor, readahead, flags, flags2)
    if major < 7 or (major == 7 and minor < 27):
        refused(errno.EPROTO, session.init, request)
        return
    reply = answer(session.init(request))
    assert reply["major"] == 7
    assert reply["flags"] & ~(wanted | InitFlag.INIT_EXT) == 0
    assert session.state is (State.READY if major == 7 else State.NEW)
