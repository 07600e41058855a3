"""How long a guest may rely on what it was told, by path."""

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from hdvkit_virtiofs.fuse.answers import Attributes, Changes, Context, Entry, Handle, Node, Opened, Statx
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.policy.globs import Globs, Reach
from hdvkit_virtiofs.policy.paths import ByPath

JUDGED: Final = 128
"""So many components of a path are judged; a guest may nest directories deeper than anybody's patterns go."""

_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class Rule(NamedTuple):
    """One ``PATTERN=SECONDS``."""

    globs: Globs
    seconds: float


class Timeouts(ByPath[Node, Handle]):
    """Gives names and attributes the seconds of the first pattern that matches; others keep what they had.

    ``timeouts`` are texts ``PATTERN=SECONDS``, such as ``node_modules=60``; the patterns are those of :mod:`.globs`,
    and a directory that matches stands for all that is in it. 0 makes the guest ask each time. What lies deeper than
    ``JUDGED`` goes by the directory at that depth.

    Raises:
        ValueError: A text is no such thing, and why.
    """

    def __init__(self, inner: Operations[Node, Handle], timeouts: Iterable[str]) -> None:
        super().__init__(inner)
        self._rules = parse_all(tuple(timeouts))

    async def lookup(self, parent: Node, name: bytes, context: Context) -> Entry[Node]:
        """Find a name."""
        seconds = self._seconds(parent, name)
        return _timed_entry(await self.inner.lookup(parent, name, context), seconds)

    async def create(
        self, parent: Node, name: bytes, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Node], Opened[Handle]]:
        """Make and open a file."""
        seconds = self._seconds(parent, name)
        entry, opened = await self.inner.create(parent, name, mode, flags, context)
        return _timed_entry(entry, seconds), opened

    async def tmpfile(
        self, parent: Node, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Node], Opened[Handle]]:
        """Make and open a file without a name: the directory's seconds."""
        seconds = self._seconds(parent)
        entry, opened = await self.inner.tmpfile(parent, mode, flags, context)
        return _timed_entry(entry, seconds), opened

    async def mknod(self, parent: Node, name: bytes, mode: int, rdev: int, context: Context) -> Entry[Node]:
        """Make a node."""
        seconds = self._seconds(parent, name)
        return _timed_entry(await self.inner.mknod(parent, name, mode, rdev, context), seconds)

    async def mkdir(self, parent: Node, name: bytes, mode: int, context: Context) -> Entry[Node]:
        """Make a directory."""
        seconds = self._seconds(parent, name)
        return _timed_entry(await self.inner.mkdir(parent, name, mode, context), seconds)

    async def symlink(self, parent: Node, name: bytes, target: bytes, context: Context) -> Entry[Node]:
        """Make a link."""
        seconds = self._seconds(parent, name)
        return _timed_entry(await self.inner.symlink(parent, name, target, context), seconds)

    async def link(self, node: Node, parent: Node, name: bytes, context: Context) -> Entry[Node]:
        """Give a node one more name."""
        seconds = self._seconds(parent, name)
        return _timed_entry(await self.inner.link(node, parent, name, context), seconds)

    async def getattr(self, node: Node, handle: Handle | None, context: Context) -> Attributes:
        """Tell the attributes."""
        return _timed(await self.inner.getattr(node, handle, context), self._seconds(node))

    async def setattr(self, node: Node, changes: Changes, handle: Handle | None, context: Context) -> Attributes:
        """Change attributes, and tell what results."""
        seconds = self._seconds(node)
        return _timed(await self.inner.setattr(node, changes, handle, context), seconds)

    async def statx(self, node: Node, handle: Handle | None, context: Context) -> Statx:
        """Tell the attributes with the time of birth."""
        answer = await self.inner.statx(node, handle, context)
        return answer._replace(attributes=_timed(answer.attributes, self._seconds(node)))

    def _seconds(self, node: Node, name: bytes | None = None) -> float | None:
        """What the first matching rule says. Asked before anything is done, because a path may be too long."""
        names = self.paths.names(node)
        if name is not None:
            names.append(name)
        del names[JUDGED:]
        matching = (rule.seconds for rule in self._rules if rule.globs.follow(names).reach is Reach.HERE)
        return next(matching, None)


def _timed(attributes: Attributes, seconds: float | None) -> Attributes:
    return attributes if seconds is None else attributes._replace(timeout=seconds)


def _timed_entry(entry: Entry[Node], seconds: float | None) -> Entry[Node]:
    if seconds is None:
        return entry
    return entry._replace(timeout=seconds, attributes=_timed(entry.attributes, seconds))


def parse_all(texts: Sequence[str]) -> list[Rule]:
    """Read several ``PATTERN=SECONDS``.

    Raises:
        ValueError: One is no such thing, and why; or two speak of the same pattern, so the second would never count.
    """
    patterns = [text.rpartition("=")[0] for text in texts]
    for number, pattern in enumerate(patterns):
        if pattern in patterns[:number]:
            raise ValueError(f"{pattern!r} has two timeouts, {texts[number]!r} the second; write one of them")
    return list(map(_parse, texts))


def _parse(text: str) -> Rule:
    pattern, _, number = text.rpartition("=")
    if not pattern or not _SECONDS.fullmatch(number):
        raise ValueError(f"{text!r} is no timeout; write PATTERN=SECONDS, such as node_modules=60 or *.log=0")
    return Rule(Globs([pattern]), float(number))
