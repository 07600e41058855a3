"""Extensions of requests that make something, as Linux packs them behind the names. No I/O."""

from collections.abc import Sequence
from struct import Struct, pack

EXT_GROUPS = 32

_HEADER = Struct("<II")  # size, and type or number of contexts
_SECCTX = Struct("<II")  # size of the value, padding


def security_contexts(contexts: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Extended attributes that something is born with, names and values; Linux tells also that there are none."""
    body = b"".join(_padded(_SECCTX.pack(len(value), 0) + name + b"\0" + value) for name, value in contexts)
    return _HEADER.pack(_HEADER.size + len(body), len(contexts)) + body


def supplementary_groups(groups: Sequence[int]) -> bytes:
    """Further groups of the caller."""
    body = _padded(pack(f"<I{len(groups)}I", len(groups), *groups))
    return _HEADER.pack(_HEADER.size + len(body), EXT_GROUPS) + body


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)
