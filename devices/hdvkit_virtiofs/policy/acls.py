"""The ids inside a POSIX access control list, as ``linux/posix_acl_xattr.h`` lays it out. Judges nobody by it."""

import errno
import struct
from collections.abc import Callable
from typing import Final

from hdvkit_virtiofs.fuse.errors import FuseError

NAMES: Final = frozenset({b"system.posix_acl_access", b"system.posix_acl_default"})
"""The extended attributes that are such lists."""

MAX_ENTRIES: Final = 1024
"""Of a longer list, E2BIG; file systems that keep lists in blocks of their own take up to 32."""

VERSION: Final = 2
ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_GROUP, ACL_MASK, ACL_OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

_HEADER: Final = struct.Struct("<I")  # a_version
_ENTRY: Final = struct.Struct("<HHI")  # e_tag, e_perm, e_id
_TAGS: Final = frozenset({ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_GROUP, ACL_MASK, ACL_OTHER})

Find = Callable[[int], int]
"""An id as it is on the other side; raises FuseError for one that may not be used."""


def translated(value: bytes, user: Find, group: Find) -> bytes:
    """The same list with other ids for its named users and groups; owners, mask and others have none.

    An empty value, by which Linux removes a list, stays empty.

    Raises:
        FuseError: EINVAL, this is no list; E2BIG, it is too long; what ``user`` and ``group`` raise.
    """
    if not value:
        return value
    if (len(value) - _HEADER.size) % _ENTRY.size or _HEADER.unpack_from(value) != (VERSION,):
        raise FuseError(errno.EINVAL)
    if len(value) > _HEADER.size + MAX_ENTRIES * _ENTRY.size:
        raise FuseError(errno.E2BIG)
    find = {ACL_USER: user, ACL_GROUP: group}
    made = bytearray(value)
    for at in range(_HEADER.size, len(value), _ENTRY.size):
        tag, permissions, number = _ENTRY.unpack_from(value, at)
        if tag not in _TAGS:
            raise FuseError(errno.EINVAL)
        if tag in find:
            _ENTRY.pack_into(made, at, tag, permissions, find[tag](number))
    return bytes(made)
