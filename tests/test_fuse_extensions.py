"""Extensions of requests: what each age of Linux sends, and everything a hostile guest could put in their place."""

import errno
import struct

import pytest
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.extensions import MAX_GROUPS, NONE, Extensions, take
from hdvkit_virtiofs.fuse.messages import InHeader, NodeId
from hdvkit_virtiofs.fuse.requests import decode
from hdvkit_virtiofs.fuse.spec import InitFlag, Opcode
from hypothesis import example, given
from hypothesis import strategies as st

U32 = 2**32 - 1
BOTH = InitFlag.SECURITY_CTX | InitFlag.CREATE_SUPP_GROUP
SECURITY, GROUPS = InitFlag.SECURITY_CTX, InitFlag.CREATE_SUPP_GROUP
NEITHER = InitFlag(0)

BODIES = {
    Opcode.CREATE: bytes(16) + b"name\0",
    Opcode.TMPFILE: bytes(16) + b"/\0",
    Opcode.MKNOD: struct.pack("<IIII", 0o100644, 0, 0, 0) + b"name\0",
    Opcode.MKDIR: bytes(8) + b"name\0",
    Opcode.SYMLINK: b"name\0../target\0",
}

# Byte by byte, as the kernel packs them
NO_CONTEXT = struct.pack("<II", 8, 0)
LABEL = b"system_u:object_r:tmp_t:s0\0"
SELINUX = struct.pack("<IIII", 64, 1, 27, 0) + b"security.selinux\0" + LABEL + bytes(4)
TWO = (
    struct.pack("<II", 56, 2)
    + (struct.pack("<II", 3, 0) + b"security.a\0abc" + bytes(2))
    + (struct.pack("<II", 5, 0) + b"security.b\0\0\1\2\3\4")
)
GROUP = struct.pack("<IIII", 16, 32, 1, 1000)
THREE_GROUPS = struct.pack("<IIIIII", 24, 32, 3, 7, 8, 9)
assert (len(SELINUX), len(TWO)) == (64, 56)

ONE_LABEL = Extensions(security=((b"security.selinux", LABEL),))


def header(opcode: int, extlen: int) -> InHeader:
    return InHeader(0, opcode, 2, NodeId(1), 0, 0, 1, extlen)


def announced(data: bytes, flags: InitFlag, opcode: int = Opcode.MKDIR) -> Extensions:
    """What is understood of extensions the header tells of; the request itself must come out whole."""
    body, found = take(header(opcode, len(data) // 8), BODIES[Opcode(opcode)] + data, flags)
    assert body == BODIES[Opcode(opcode)]
    return found


def silent(data: bytes, flags: InitFlag, opcode: int = Opcode.MKDIR) -> Extensions:
    """The same when the header is that of a guest older than 6.3."""
    body, found = take(header(opcode, 0), BODIES[Opcode(opcode)] + data, flags)
    assert body == BODIES[Opcode(opcode)]
    return found


def refused(opcode: int, extlen: int, body: bytes, flags: InitFlag) -> None:
    with pytest.raises(FuseError) as caught:
        decode(opcode, take(header(opcode, extlen), body, flags)[0])
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("opcode", BODIES)
@pytest.mark.parametrize("how", [announced, silent])
def test_contexts_come_with_all_that_is_made(opcode: int, how: type[announced]) -> None:
    assert how(NO_CONTEXT, SECURITY, opcode) == NONE
    assert how(SELINUX, SECURITY, opcode) == ONE_LABEL
    assert how(TWO, SECURITY, opcode).security == ((b"security.a", b"abc"), (b"security.b", b"\0\1\2\3\4"))


@pytest.mark.parametrize("opcode", BODIES)
def test_groups_come_with_all_that_is_made(opcode: int) -> None:
    assert announced(GROUP, GROUPS, opcode) == Extensions(groups=(1000,))
    assert announced(THREE_GROUPS, BOTH, opcode) == Extensions(groups=(7, 8, 9))
    assert announced(SELINUX + GROUP, BOTH, opcode) == ONE_LABEL._replace(groups=(1000,))
    assert announced(GROUP + NO_CONTEXT, BOTH, opcode) == Extensions(groups=(1000,))


@pytest.mark.parametrize("flags", [NEITHER, SECURITY, GROUPS, BOTH])
@pytest.mark.parametrize("opcode", BODIES)
def test_there_may_be_none(opcode: int, flags: InitFlag) -> None:
    assert announced(b"", flags, opcode) == NONE


def test_what_was_not_negotiated_is_refused() -> None:
    for data, flags in ((NO_CONTEXT, GROUPS), (SELINUX, NEITHER), (GROUP, SECURITY), (GROUP, NEITHER)):
        refused(Opcode.MKDIR, len(data) // 8, BODIES[Opcode.MKDIR] + data, flags)
        if SECURITY not in flags:
            refused(Opcode.MKDIR, 0, BODIES[Opcode.MKDIR] + data, flags)


def test_what_makes_nothing_takes_no_extension() -> None:
    for opcode, body in ((Opcode.LINK, bytes(8) + b"name\0"), (Opcode.LOOKUP, b"name\0"), (Opcode.GETATTR, bytes(16))):
        assert take(header(opcode, 2), body + GROUP, BOTH) == (body + GROUP, NONE)
        refused(opcode, 2, body + GROUP, BOTH)


MALFORMED = {
    "half a header": b"\x08\0\0\0",
    "size 0": struct.pack("<II", 0, 0),
    "size less than a header": struct.pack("<II", 4, 0),
    "size no multiple of 8": struct.pack("<II", 12, 0) + bytes(8),
    "a context in half of 8 bytes": struct.pack("<IIII", 12, 1, 0, 0),
    "size beyond the end": struct.pack("<II", 16, 32),
    "size of 4 GiB": struct.pack("<II", U32 & ~7, 32),
    "unknown type": struct.pack("<II", 8, 33),
    "type of all ones": struct.pack("<II", 8, U32),
    "contexts twice": NO_CONTEXT + NO_CONTEXT,
    "groups twice": GROUP + GROUP,
    "zeros behind": GROUP + bytes(8),
    "groups without a count": struct.pack("<II", 8, 32),
    "more groups than fit": struct.pack("<IIII", 16, 32, 2, 1000),
    "fewer groups than fit": struct.pack("<IIIIII", 24, 32, 1, 7, 0, 0),
    "4 Gi groups": struct.pack("<IIII", 16, 32, U32, 1000),
    "more groups than Linux has": struct.pack("<III", 16 + 4 * MAX_GROUPS, 32, MAX_GROUPS + 1)
    + bytes(4 * MAX_GROUPS + 4),
    "group -1": struct.pack("<IIII", 16, 32, 1, U32),
    "contexts that are not there": struct.pack("<II", 8, 1),
    "31 contexts that are not there": struct.pack("<II", 8, 31),
    "contexts nobody counted": struct.pack("<IIII", 24, 0, 3, 0) + b"a\0abc\0\0\0",
    "fewer contexts than counted": struct.pack("<II", 64, 2) + SELINUX[8:],
    "no name": struct.pack("<IIII", 24, 1, 3, 0) + b"\0abc\0\0\0\0",
    "a name without its end": struct.pack("<IIII", 24, 1, 0, 0) + b"security",
    "a name of 256 bytes": struct.pack("<IIII", 280, 1, 0, 0) + b"n" * 256 + bytes(8),
    "a value beyond the end": struct.pack("<IIII", 24, 1, 7, 0) + b"a\0abcdef",
    "a value beyond the end, and another context": struct.pack("<IIII", 24, 2, 100, 0) + b"a\0abcdef",
    "a value of 4 GiB": struct.pack("<IIII", 24, 1, U32, 0) + b"a\0abcdef",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str) -> None:
    data = MALFORMED[name]
    for opcode, body in BODIES.items():
        refused(opcode, -(-len(data) // 8), body + data, BOTH)
        refused(opcode, 0, body + data, BOTH)


@pytest.mark.parametrize("extlen", [1, 3, 100, 0xFFFF])
def test_a_header_that_lies_about_the_length(extlen: int) -> None:
    refused(Opcode.MKDIR, extlen, BODIES[Opcode.MKDIR] + GROUP, BOTH)


def test_a_header_that_counts_from_before_the_beginning() -> None:
    body = bytes(8) + b"sevenfo\0" + GROUP
    assert len(body) == 32
    refused(Opcode.MKDIR, (32 + len(GROUP)) // 8, body, BOTH)


def test_names_may_not_reach_into_extensions() -> None:
    """A name without its end, a missing target: the extension is no substitute."""
    refused(Opcode.MKDIR, 2, bytes(8) + b"name" + GROUP, BOTH)
    refused(Opcode.SYMLINK, 1, b"name\0" + NO_CONTEXT, SECURITY)
    refused(Opcode.SYMLINK, 0, b"name\0" + NO_CONTEXT, SECURITY)
    refused(Opcode.MKDIR, 0, bytes(8) + b"name", SECURITY)


def test_the_largest_groups_and_contexts() -> None:
    groups = tuple(range(MAX_GROUPS))
    data = struct.pack(f"<III{MAX_GROUPS}I4x", 16 + 4 * MAX_GROUPS, 32, MAX_GROUPS, *groups)
    assert announced(data, GROUPS).groups == groups
    one = struct.pack("<II", 0, 0) + b"n" * 255 + b"\0"
    data = struct.pack("<II", 8 + 31 * len(one), 31) + 31 * one
    assert announced(data, SECURITY).security == 31 * ((b"n" * 255, b""),)


names = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name)


@given(
    st.lists(st.tuples(names, st.binary(max_size=100)), max_size=31),
    st.lists(st.integers(0, U32 - 1), min_size=1, max_size=MAX_GROUPS) | st.none(),
    st.sampled_from([*BODIES]),
)
def test_whatever_is_packed_comes_out(
    contexts: list[tuple[bytes, bytes]], groups: list[int] | None, opcode: int
) -> None:
    parts = [struct.pack("<II", len(value), 0) + name + b"\0" + value for name, value in contexts]
    data = b"".join(part + bytes(-len(part) % 8) for part in parts)
    data = struct.pack("<II", 8 + len(data), len(contexts)) + data
    assert silent(data, SECURITY, opcode).security == tuple(contexts)
    if groups is not None:
        body = struct.pack(f"<I{len(groups)}I", len(groups), *groups)
        body += bytes(-len(body) % 8)
        data += struct.pack("<II", 8 + len(body), 32) + body
    assert announced(data, BOTH, opcode) == (tuple(groups or ()), tuple(contexts))


@given(st.sampled_from([*BODIES]), st.integers(0, 40), st.binary(max_size=300), st.sampled_from([NEITHER, BOTH]))
@example(Opcode.MKDIR, 0, b"", SECURITY)
def test_random_bytes_end_in_extensions_or_an_answer(opcode: int, extlen: int, tail: bytes, flags: InitFlag) -> None:
    try:
        body, found = take(header(opcode, extlen), tail, flags)
    except FuseError:
        return
    assert tail.startswith(body)
    assert len(found.groups) <= MAX_GROUPS
    assert len(found.security) <= 31
