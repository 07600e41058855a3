"""Who a user of the guest is on the host, and the other way round. Knows ids, neither permissions nor names.

By itself a guest has every id of the host, root's too: a share served by root gives files to whomever the guest says.
"""

import errno
import inspect
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, get_args, get_origin, get_type_hints

from hdvkit_virtiofs.fuse.answers import Attributes, Changes, Context, Entry, Handle, Node, Statx
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.policy import acls
from hdvkit_virtiofs.policy.layer import Layer

NO_ID: Final = 2**32 - 1
"""Linux has no such user. To ``chown`` it means not to change anything, so nobody may bear it."""

NOBODY: Final = 65534
"""Whom Linux shows for an id it has no name for."""

FORMS: Final = {
    "guest": "guest:FROM:TO:COUNT",
    "host": "host:FROM:TO:COUNT",
    "map": "map:GUEST:HOST:COUNT",
    "squash-guest": "squash-guest:FROM:TO:COUNT",
    "squash-host": "squash-host:FROM:TO:COUNT",
    "forbid-guest": "forbid-guest:FROM:COUNT",
}
"""The verbs, and how a rule of each is written."""

Call = Callable[..., Awaitable[object]]
"""A method with the context as its last argument."""


class Range(NamedTuple):
    """What becomes of ``size`` ids."""

    rule: str
    """As it was written."""
    first: int
    size: int
    to: int | None
    """What ``first`` becomes; None where none of them may be used."""
    squash: bool = False
    """Whether the others become the same, and not those behind it."""


class Table:
    """Ids of one side as ids of the other. What no range holds stays as it is.

    Raises:
        ValueError: Two ranges hold the same id.
    """

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._ranges = sorted(ranges, key=lambda each: each.first)
        self._firsts = [each.first for each in self._ranges]
        for one, other in pairwise(self._ranges):
            if one.first + one.size > other.first:
                raise ValueError(
                    f"{one.rule!r} and {other.rule!r} both say what becomes of {other.first};"
                    " let each id be in one of them only (the last number is how many, not up to which)"
                )

    def find(self, number: int, instead: int | None = None) -> int:
        """What ``number`` is on the other side.

        Raises:
            FuseError: EPERM. It may not be used, and there is no ``instead``.
        """
        index = bisect_right(self._firsts, number) - 1
        if index < 0:
            return number
        _, first, size, to, squash = self._ranges[index]
        if number - first >= size:
            return number
        if to is None:
            if instead is None:
                raise FuseError(errno.EPERM)
            return instead
        return to if squash else to + number - first


class Identity(Layer[Node, Handle]):
    """Translates users and groups: in requests from guest to host, in attributes from host to guest.

    ``uids`` and ``gids`` are rules, in any order as no two may speak of the same id of the same side:

    - ``guest:FROM:TO:COUNT``: guest ids from FROM on are host ids from TO on, in requests.
    - ``host:FROM:TO:COUNT``: host ids from FROM on are shown as guest ids from TO on.
    - ``map:GUEST:HOST:COUNT``: both.
    - ``squash-guest:FROM:TO:COUNT``: all these guest ids are the one host id TO, in requests.
    - ``squash-host:FROM:TO:COUNT``: all these host ids are shown as the one guest id TO.
    - ``forbid-guest:FROM:COUNT``: requests of these guest ids, and giving files to them, are EPERM.

    Ids without a rule stay as they are. ``squash`` stands for rules for all ids: ``UID:GID`` are the host's that
    every guest process has, and every host file is shown as root's, or with ``UID:GID:UID:GID`` as that user's.

    What is done to open files is never forbidden: it was allowed at open, and the guest's kernel writes pages back
    in nobody's name with the uid of root. Forbidden ids are ``NOBODY`` there.

    The users and groups that an access control list names are translated like owners. So two of them may become one,
    and the first of a user's entries counts.

    Raises:
        ValueError: A rule cannot be understood, or two contradict each other.
    """

    def __init__(
        self,
        inner: Operations[Node, Handle],
        uids: Iterable[str] = (),
        gids: Iterable[str] = (),
        *,
        squash: str | None = None,
    ) -> None:
        super().__init__(inner)
        uids, gids = tuple(uids), tuple(gids)
        if squash is not None:
            if uids or gids:
                raise ValueError(f"squash={squash!r} is for all ids and leaves none for other rules; write one of both")
            uids, gids = squashed(squash)
        self._host_uids, self._guest_uids = tables(uids)
        self._host_gids, self._guest_gids = tables(gids)
        for name, kind in _ASKING.items():
            if getattr(type(self), name) is getattr(Operations, name):
                setattr(self, name, self._translated(kind, getattr(inner, name)))

    async def setattr(self, node: Node, changes: Changes, handle: Handle | None, context: Context) -> Attributes:
        """Give the file to whom the guest's ids are on the host."""
        instead = None if handle is None else NOBODY
        if changes.uid is not None:
            changes = changes._replace(uid=self._host_uids.find(changes.uid))
        if changes.gid is not None:
            changes = changes._replace(gid=self._host_gids.find(changes.gid))
        return self._attributes(await self.inner.setattr(node, changes, handle, self._context(context, instead)))

    async def getxattr(self, node: Node, name: bytes, context: Context) -> bytes:
        """Whom an ACL names, in the guest's ids."""
        value = await self.inner.getxattr(node, name, self._context(context))
        return acls.translated(value, self._guest_uids.find, self._guest_gids.find) if name in acls.NAMES else value

    async def setxattr(self, node: Node, name: bytes, value: bytes, flags: int, context: Context) -> None:
        """Name in an ACL whom the guest's ids are on the host; EPERM for one that is forbidden."""
        await self.inner.setxattr(node, name, self._host_value(name, value), flags, self._context(context))

    def _host_value(self, name: bytes, value: bytes) -> bytes:
        return acls.translated(value, self._host_uids.find, self._host_gids.find) if name in acls.NAMES else value

    def _translated(self, kind: "_Kind", call: Call) -> Call:
        """``call``, asked in the host's ids and answering in the guest's."""
        instead = NOBODY if kind.on_open_file else None

        def asking(*arguments: object) -> Awaitable[object]:
            *what, context = arguments
            assert isinstance(context, Context)
            return call(*what, self._context(context, instead))

        async def answering(*arguments: object) -> object:
            return self._answer(await asking(*arguments))

        return answering if kind.tells_owner else asking

    def _context(self, context: Context, instead: int | None = None) -> Context:
        """Who asks, in the host's ids; ``instead`` of forbidden ones, else EPERM."""
        uid = self._host_uids.find(context.uid, instead)
        gid = self._host_gids.find(context.gid, instead)
        # None becomes nothing: what the guest judged was its own groups, not those of who its user is here.
        groups = tuple(self._host_gids.find(group, instead) for group in context.groups or ())
        security = context.security and tuple((name, self._host_value(name, value)) for name, value in context.security)
        if (uid, gid, groups, security) == (context.uid, context.gid, context.groups, context.security):
            return context
        return context._replace(uid=uid, gid=gid, groups=groups, security=security)

    def _answer(self, answer: object) -> object:
        match answer:
            case Attributes():
                return self._attributes(answer)
            case Statx() | Entry():
                attributes = self._attributes(answer.attributes)
                return answer if attributes is answer.attributes else answer._replace(attributes=attributes)
            case (Entry() as entry, opened):
                return self._answer(entry), opened
        return answer

    def _attributes(self, attributes: Attributes) -> Attributes:
        """Whose the file is, in the guest's ids."""
        uid, gid = self._guest_uids.find(attributes.uid), self._guest_gids.find(attributes.gid)
        if uid == attributes.uid and gid == attributes.gid:
            return attributes
        return attributes._replace(uid=uid, gid=gid)


class _Kind(NamedTuple):
    """What is to be known of a method of Operations."""

    on_open_file: bool
    tells_owner: bool


def _kind(method: Call) -> _Kind:
    hints = get_type_hints(method)
    answer = hints.pop("return")
    # ``Handle | None`` is no open file: those methods take one where there is one. A tuple has one in it.
    on_open_file = any(
        hint is Handle or (get_origin(hint) is tuple and Handle in get_args(hint)) for hint in hints.values()
    )
    return _Kind(on_open_file, (get_origin(answer) or answer) in {Attributes, Statx, Entry, tuple})


_ASKING: Final = {
    name: _kind(method)
    for name, method in vars(Operations).items()
    if inspect.isfunction(method) and "context" in inspect.signature(method).parameters
}
"""All methods somebody asks. One that Operations gets later is among them by itself."""


def tables(rules: Iterable[str]) -> tuple[Table, Table]:
    """From guest to host, and from host to guest.

    Raises:
        ValueError: A rule cannot be understood, or two contradict each other.
    """
    to_host = [Range("the end of all ids", NO_ID, 1, None)]
    to_guest = []
    for rule in rules:
        match _parsed(rule):
            case "guest", (first, to, count):
                to_host.append(Range(rule, first, count, to))
            case "host", (first, to, count):
                to_guest.append(Range(rule, first, count, to))
            case "map", (guest, host, count):
                to_host.append(Range(rule, guest, count, host))
                to_guest.append(Range(rule, host, count, guest))
            case "squash-guest", (first, to, count):
                to_host.append(Range(rule, first, count, to, squash=True))
            case "squash-host", (first, to, count):
                to_guest.append(Range(rule, first, count, to, squash=True))
            case "forbid-guest", (first, count):
                to_host.append(Range(rule, first, count, None))
    return Table(to_host), Table(to_guest)


def _parsed(rule: str) -> tuple[str, tuple[int, ...]]:
    verb, *texts = rule.split(":")
    form = FORMS.get(verb)
    if form is None:
        raise ValueError(f"{rule!r} begins with no verb; write one of {', '.join(FORMS)} before the first colon")
    if len(texts) != form.count(":"):
        raise ValueError(f"{rule!r} has {len(texts)} numbers; write {form}")
    *starts, count = numbers = _numbers(rule, texts)
    sizes = (count, 1) if verb.startswith("squash") else (count, count)
    if not count:
        raise ValueError(f"{rule!r} is about no ids; the last number of {form} is how many, so write at least 1")
    if any(start + size > NO_ID for start, size in zip(starts, sizes, strict=False)):
        raise ValueError(f"{rule!r} is about ids behind the last; let {form} end at {NO_ID - 1}")
    return verb, numbers


def squashed(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The rules for uids and gids that ``squash`` stands for; ValueError when it is no such thing.

    NFS's all_squash goes one way and shows the host's owners, whose numbers mean nothing to a guest or somebody else.
    Here owners are what the guest's kernel judges by, so a file has to belong to whom the guest works as: most
    often root, and those who use virtiofsd or rootless containers like this write it so.
    """
    parts = text.split(":")
    if len(parts) not in (2, 4):
        raise ValueError(f"{text!r} is not two users; write UID:GID of the host, or UID:GID:UID:GID of host and guest")
    numbers = _numbers(text, parts)
    if NO_ID in numbers:
        raise ValueError(f"{text!r} has {NO_ID}, which is nobody's number; write one from 0 to {NO_ID - 1}")
    uid, gid, guest_uid, guest_gid = (*numbers, 0, 0)[:4]
    return _all(uid, guest_uid), _all(gid, guest_gid)


def _all(host: int, guest: int) -> tuple[str, ...]:
    return f"squash-guest:0:{host}:{NO_ID}", f"squash-host:0:{guest}:{NO_ID}"


def _numbers(text: str, parts: Sequence[str]) -> tuple[int, ...]:
    for part in parts:
        if not (part.isascii() and part.isdecimal() and len(part) <= 10 and int(part) <= NO_ID):
            raise ValueError(f"{text!r} has {part!r} for a number; write a decimal one from 0 to {NO_ID}")
    return tuple(map(int, parts))
