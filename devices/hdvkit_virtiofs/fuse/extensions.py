"""Extensions: what a guest adds behind the body of a request that makes something. Does no I/O.

Linux since 6.3, and 6.1 since 6.1.110, says in ``total_extlen`` how long they are. Linux from 5.17 until then knows
security contexts only, and with ``SECURITY_CTX`` puts one block of them behind the names without a word; flags and
minor version do not tell which it is. What was not negotiated no guest sends, so it is refused here. All other
requests have a length that is known to the byte, and take no extension.
"""

import struct
from typing import Final, NamedTuple

from hdvkit_virtiofs.fuse import layouts, spec
from hdvkit_virtiofs.fuse.decoders import refuse
from hdvkit_virtiofs.fuse.layouts import EXT_HEADER, SECCTX, SUPP_GROUPS
from hdvkit_virtiofs.fuse.messages import InHeader
from hdvkit_virtiofs.fuse.spec import InitFlag, Opcode

ALIGNMENT: Final = 8
"""Each extension, and each security context in one, fills a multiple of so many bytes."""
MAX_GROUPS: Final = 32
"""Of one request; Linux sends one, the group of the directory."""

_NO_ID: Final = 0xFFFF_FFFF

_NAMES: Final[dict[int, tuple[int, int]]] = {
    Opcode.CREATE: (layouts.CREATE_IN.size, 1),
    Opcode.TMPFILE: (layouts.CREATE_IN.size, 1),
    Opcode.MKNOD: (layouts.MKNOD_IN.size, 1),
    Opcode.MKDIR: (layouts.MKDIR_IN.size, 1),
    Opcode.SYMLINK: (0, 2),
}
"""The requests that take extensions: where their names begin, and how many there are."""


class Extensions(NamedTuple):
    """What a guest says of something it makes; see :class:`.answers.Context`."""

    groups: tuple[int, ...] = ()
    security: tuple[tuple[bytes, bytes], ...] = ()


NONE: Final = Extensions()


def take(header: InHeader, body: bytes, flags: InitFlag) -> tuple[bytes, Extensions]:
    """Split ``body`` into what the decoder of its opcode knows, and the extensions behind it.

    ``flags`` are those of the session.

    Raises:
        FuseError: EINVAL. An extension is malformed, comes twice, was not negotiated, or the header lies about them.
    """
    names = _NAMES.get(header.opcode)
    if names is None:
        return body, NONE
    if header.total_extlen:
        end = len(body) - header.total_extlen * ALIGNMENT
        if end < 0:
            refuse()
    elif InitFlag.SECURITY_CTX in flags:
        end = _behind(*names, body)
    else:
        return body, NONE
    return body[:end], _decode(body[end:], flags)


def _behind(start: int, names: int, body: bytes) -> int:
    for _ in range(names):
        start = body.find(0, start) + 1
        if not start:
            return len(body)  # a name without its end, which the decoder refuses
    return start


def _decode(data: bytes, flags: InitFlag) -> Extensions:
    groups: tuple[int, ...] | None = None
    security: tuple[tuple[bytes, bytes], ...] | None = None
    while data:  # at most twice, as neither may come again
        size, kind = _header(data)
        part, data = data[EXT_HEADER.size : size], data[size:]
        if kind == spec.EXT_GROUPS and groups is None and InitFlag.CREATE_SUPP_GROUP in flags:
            groups = _groups(part)
        elif kind <= spec.MAX_NR_SECCTX and security is None and InitFlag.SECURITY_CTX in flags:
            security = _contexts(kind, part)
        else:
            refuse()
    return Extensions(groups or (), security or ())


def _header(data: bytes) -> tuple[int, int]:
    if len(data) < EXT_HEADER.size:
        refuse()
    size, kind = EXT_HEADER.unpack_from(data)
    if size % ALIGNMENT or not EXT_HEADER.size <= size <= len(data):
        refuse()
    return size, kind


def _groups(data: bytes) -> tuple[int, ...]:
    if not data:
        refuse()
    (count,) = SUPP_GROUPS.unpack_from(data)
    if count > MAX_GROUPS or len(data) != _aligned(SUPP_GROUPS.size + 4 * count):
        refuse()
    groups: tuple[int, ...] = struct.unpack_from(f"<{count}I", data, SUPP_GROUPS.size)
    if _NO_ID in groups:
        refuse()
    return groups


def _contexts(count: int, data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    found, start = [], 0
    for _ in range(count):
        if start == len(data):
            refuse()
        (size,) = SECCTX.unpack_from(data, start)
        name = start + SECCTX.size
        value = data.find(0, name) + 1
        end = value + size
        if not 1 <= value - 1 - name <= spec.XATTR_NAME_MAX or end > len(data):
            refuse()
        found.append((data[name : value - 1], data[value:end]))
        start = _aligned(end)
    if start != len(data):
        refuse()
    return tuple(found)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
