"""Names of a guest as names of NTFS and back: a bijection, so no two names of one side are one on the other.

What Windows cannot have in a name is moved to a private range of Unicode, U+F000 and up, as WSL and Cygwin do: ``:``
is U+F03A on the host. A guest's name never holds a character that begins a stream, a path or a pattern there. The
last dot or space of a name, which Win32 would cut off, and the first letter of one that it takes for a device
(``CON``, ``aux.txt``) are moved as well; where a file of the host has such a name by itself, the guest sees the moved
character instead. It can open and remove that file, but make no other of the kind. Characters and their moved forms
change places, which makes it work in both directions.

Pure: no handles, no calls.
"""

import errno
import re
from typing import Final

from hdvkit_virtiofs.passthrough.errors import refusal

LONGEST: Final = 255
"""UTF-16 units of one name."""

MOVED: Final = 0xF000

_FORBIDDEN: Final = frozenset('"*:<>?\\|') | frozenset(map(chr, range(1, 32)))
_NEVER: Final = _FORBIDDEN | {"\0", "/"}
_ENDS: Final = frozenset(". ")
_DOTS: Final = frozenset({".", ".."})

_SWAP: Final = {ord(one): chr(MOVED + ord(one)) for one in _FORBIDDEN} | {MOVED + ord(one): one for one in _FORBIDDEN}

_DEVICE = re.compile(
    r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE | re.DOTALL
)
"""What Win32 takes for a device, with any extension."""


def to_host(name: bytes) -> bytes:
    """The name as NTFS has it, in UTF-16 (little-endian, no end).

    Raises:
        OSError: EILSEQ, it is no UTF-8 (unpaired surrogates, which NTFS may have, are written as three bytes each);
            EINVAL, no file of the host can have the name; ENAMETOOLONG.
    """
    try:
        text = name.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise refusal(errno.EILSEQ) from error
    units = _device(_end(text.translate(_SWAP)))
    if not units or units in _DOTS or not _NEVER.isdisjoint(units):
        raise refusal(errno.EINVAL)
    encoded = units.encode("utf-16-le", "surrogatepass")
    if encoded.decode("utf-16-le", "surrogatepass") != units:  # two halves of one character, written apart
        raise refusal(errno.EILSEQ)
    if len(encoded) > 2 * LONGEST:
        raise refusal(errno.ENAMETOOLONG)
    return encoded


def to_new(name: bytes) -> bytes:
    """The same for something that is to be made: nothing that Win32 would take for another file, or a device.

    Raises:
        OSError: EINVAL for that too: the guest wrote the moved character by itself.
    """
    units = to_host(name)
    text = units.decode("utf-16-le", "surrogatepass")
    if text[-1] in _ENDS or _DEVICE.fullmatch(text):
        raise refusal(errno.EINVAL)
    return units


def to_guest(units: bytes) -> bytes:
    """The name of a file of the host as the guest sees it. Every name has one."""
    text = units.decode("utf-16-le", "surrogatepass")
    return _end(_device(text)).translate(_SWAP).encode("utf-8", "surrogatepass")


def _end(text: str) -> str:
    """Move a last dot or space, or move it back."""
    last = text[-1:]
    if last in _ENDS and last:
        return text[:-1] + chr(MOVED + ord(last))
    if last and chr(ord(last) & 0xFF) in _ENDS and ord(last) & 0xFF00 == MOVED and ord(last) < 0x10000:
        return text[:-1] + chr(ord(last) - MOVED)
    return text


def _device(text: str) -> str:
    """Move the first letter of a device, or move it back."""
    if _DEVICE.fullmatch(text):
        return chr(MOVED + ord(text[0])) + text[1:]
    first = ord(text[0]) - MOVED if text else -1
    if 0 < first < 0x80 and _DEVICE.fullmatch(back := chr(first) + text[1:]):
        return back
    return text
