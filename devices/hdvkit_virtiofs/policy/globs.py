"""Patterns for paths below the root of a share, as in .gitignore. Knows bytes only, no nodes and no requests.

``*`` stands for any bytes within one component of a path, ``?`` for any one byte, ``[a-z]`` for one of a set and
``[!a-z]`` for one that is not in it, ``**`` for any number of whole components. A pattern without a slash matches
a name at any depth; one with a slash, also in front, begins at the root. Behind the last slash ``**`` matches
what lies in a directory, but not the directory. Names that begin with a dot are names like others.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, IntEnum
from typing import Final, NamedTuple, NoReturn, TypeAlias

MAX_PATTERN: Final = 4096
"""Characters of the longest pattern; Linux has no longer paths."""


class Reach(IntEnum):
    """How far patterns reach, seen from one path."""

    NOWHERE = 0
    """They match neither the path nor anything that could lie below it."""
    BELOW = 1
    """They do not match the path, but might match something below it."""
    HERE = 2
    """They match the path, or a directory it lies in: a directory that matches stands for all that is in it."""


class Progress(NamedTuple):
    """How far patterns have come on the way to one path."""

    reach: Reach
    pending: frozenset[int] = frozenset()
    """Where patterns with a slash have arrived; as long as there are any, they might match something below."""


_MATCHED: Final = Progress(Reach.HERE)


class _Special(Enum):
    MANY = "any number of components"
    END = "the pattern has matched"


_Part: TypeAlias = "re.Pattern[bytes] | _Special"


class Globs:
    """A set of patterns, compiled once. To match takes a time linear in the length of the path.

    Patterns are text and meant as UTF-8, what they match is bytes.

    Raises:
        ValueError: A pattern is none, and why.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        split = [_split(pattern) for pattern in patterns]
        names = [parts[1] for parts in split if parts[0] == b"**" and len(parts) == 2]
        self._names = re.compile(b"|".join(map(_translate, names)), re.DOTALL) if names else None
        self._parts: list[_Part] = []  # of all patterns with a slash, one behind the other
        first = [self._add(parts) for parts in split if not (parts[0] == b"**" and len(parts) == 2)]
        self.root = self._progress(frozenset(position for start in first for position in self._reached(start)))
        """Where every path begins."""

    def step(self, progress: Progress, name: bytes) -> Progress:
        """Go on to a name in the directory that ``progress`` has come to."""
        if progress.reach is Reach.HERE or (self._names and self._names.match(name)):
            return _MATCHED
        if not progress.pending:
            return progress
        pending = frozenset(self._steps(progress.pending, name))
        return progress if pending == progress.pending else self._progress(pending)

    def follow(self, names: Sequence[bytes]) -> Progress:
        """Go all the way from the root."""
        progress = self.root
        for name in names:
            if progress.reach is not Reach.BELOW:
                break
            progress = self.step(progress, name)
        return progress

    def _add(self, parts: Iterable[bytes]) -> int:
        start = len(self._parts)
        for part in parts:
            self._parts.append(_Special.MANY if part == b"**" else re.compile(_translate(part), re.DOTALL))
        self._parts.append(_Special.END)
        return start

    def _steps(self, pending: Iterable[int], name: bytes) -> Iterator[int]:
        for position in pending:
            part = self._parts[position]
            if part is _Special.MANY:
                yield from self._reached(position)
            elif isinstance(part, re.Pattern) and part.match(name):
                yield from self._reached(position + 1)

    def _reached(self, position: int) -> Iterator[int]:
        """``**`` may stand for no component at all, so who comes to it has also come behind it."""
        yield position
        while self._parts[position] is _Special.MANY:
            position += 1
            yield position

    def _progress(self, pending: frozenset[int]) -> Progress:
        if any(self._parts[position] is _Special.END for position in pending):
            return _MATCHED
        return Progress(Reach.BELOW if pending or self._names else Reach.NOWHERE, pending)


def _split(pattern: str) -> list[bytes]:
    """The components of a pattern. A name at any depth is ``**/name``, and ``a/**`` is ``a/**/*``."""
    if len(pattern) > MAX_PATTERN:
        _refuse(pattern[:40] + "...", f"no path has {len(pattern)} bytes; write one of up to {MAX_PATTERN}")
    if not pattern.strip("/"):
        _refuse(pattern, "it names nothing below the root of the share; write a name, or a path such as /private/*.key")
    if pattern.endswith("/"):
        _refuse(pattern, "leave out the slash at its end; a directory stands for all that is in it")
    parts = pattern.encode(errors="surrogateescape").removeprefix(b"/").split(b"/")
    for part in parts:
        _check(pattern, part)
    if "/" not in pattern:
        parts.insert(0, b"**")
    if parts[-1] == b"**":
        parts.append(b"*")
    first = next(index for index, part in enumerate(parts) if part != b"**")
    return [b"**", *parts[first:]] if first else parts


def _check(pattern: str, part: bytes) -> None:
    if part in (b"", b".", b".."):
        _refuse(pattern, f"no path below the root of a share has the component '{part.decode()}'; leave it out")
    if b"\0" in part:
        _refuse(pattern, "no name has a NUL in it; leave it out")
    if part == b"**":
        return
    try:
        _translate(part)
    except ValueError as error:
        _refuse(pattern, str(error))


def _refuse(pattern: str, why: str) -> NoReturn:
    raise ValueError(f"bad pattern {pattern!r}: {why}")


def _translate(part: bytes) -> bytes:
    """One component as a regular expression.

    What lies between two stars has a fixed length, so the first place where it fits is as good as any later one:
    an atomic group keeps the engine from trying the others, which would take a time exponential in the stars.
    """
    runs = [b""]
    at = 0
    while at < len(part):
        token, at = _token(part, at)
        if token is None and len(runs) > 1 and not runs[-1]:
            raise ValueError("** stands between slashes, for whole components; within one write *")
        if token is None:
            runs.append(b"")
        else:
            runs[-1] += token
    if len(runs) == 1:
        return runs[0] + rb"\Z"
    first, *middle, last = runs
    return first + b"".join(b"(?>.*?%b)" % run for run in middle if run) + b".*" + last + rb"\Z"


def _token(part: bytes, at: int) -> tuple[bytes | None, int]:
    """What stands for one byte of a name, or None for a star; and where the next begins."""
    match part[at : at + 1]:
        case b"*":
            return None, at + 1
        case b"?":
            return b".", at + 1
        case b"[":
            end = part.find(b"]", at + (3 if part[at + 1 : at + 2] in (b"!", b"^") else 2))
            if end < 0:
                raise ValueError("[ is not closed; for the character itself write [[]")
            return _set(part[at + 1 : end]), end + 1
        case other:
            return re.escape(other), at + 1


def _set(inside: bytes) -> bytes:
    negated = inside[:1] in (b"!", b"^")
    members = inside[1:] if negated else inside
    if not members.isascii():
        raise ValueError("only ASCII goes between [ and ], as others are several bytes; write ? or *")
    ranges = (_range(low or one, high or one) for low, high, one in re.findall(rb"(.)-(.)|(.)", members, re.DOTALL))
    return b"[%b%b]" % (b"^" if negated else b"", b"".join(ranges))


def _range(low: bytes, high: bytes) -> bytes:
    if high < low:
        first, last = high.decode(), low.decode()
        raise ValueError(f"the range {last}-{first} runs backwards; write {first}-{last}")
    return rb"\x%02x-\x%02x" % (*low, *high)
