"""Asks the embedder before anything is done: who may do what, operation by operation."""

import errno
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import attrs

from hdvkit_virtiofs.fuse.answers import Context, Handle, Node
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import O_ACCMODE, O_APPEND, O_CREAT, O_TRUNC
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.policy.paths import ByPath
from hdvkit_virtiofs.policy.requests import READING_CONTROLS
from hdvkit_virtiofs.seldom import Seldom

log = logging.getLogger("hdvkit.virtiofs")

READING: Final = frozenset(
    {
        "access",
        "flush",
        "fsync",
        "fsyncdir",
        "getattr",
        "getlk",
        "getxattr",
        "listxattr",
        "lookup",
        "lseek",
        "opendir",
        "read",
        "readdir",
        "readlink",
        "setlk",
        "statfs",
        "statx",
        "syncfs",
    }
)
"""Operations that change no file, no name and no attribute. ``open`` is one of them if its flags are,
``ioctl`` if its command is; no other is."""

ASKED_AGAIN: Final = 8
"""So often the embedder is asked anew because a file moved meanwhile; then the guest gets EBUSY."""

_CHANGING_FLAGS: Final = O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND
_NAMES: Final = {"read_into": "read", "write_from": "write"}  # an embedder need not know of the ways without copies

_METHODS: Final = {
    name: tuple(inspect.signature(method).parameters)[1:]
    for name, method in vars(Operations).items()
    if inspect.isfunction(method) and "context" in inspect.signature(method).parameters
}


@attrs.frozen
class Operation:
    """What a guest is about to do. Paths are relative to the root of the share, which is the empty path."""

    name: str
    """As the method of :class:`Operations` is called: ``lookup``, ``read``, ``unlink``, ..."""
    path: bytes
    """The file it is about. Of a file without a name, the directory it was made in."""
    target: bytes
    """The new path for ``rename`` and ``link``, the other file for ``copy_file_range``, the name of an extended
    attribute, the text of a symbolic link; else empty."""
    writes: bool
    """Whether it can change anything."""
    context: Context
    """Who asks. It is the guest's word only: whoever is root there can say anything."""


Authorize: TypeAlias = Callable[[Operation], Awaitable[None]]
"""Returns to let an operation pass, raises to refuse it.

The errno of an OSError or FuseError is the guest's answer, EACCES for a PermissionError without one; anything else it
raises is logged and refuses with EIO. Called for many operations at once, and cancelled when the guest interrupts one.
"""


class Authorized(ByPath[Node, Handle]):
    """Awaits ``authorize`` before every operation; what is not let pass is never carried out.

    Closing files and forgetting nodes cannot be refused, so nobody is asked. When a file has moved while the embedder
    thought about it, it is asked again: nothing is done under a path it has not seen.
    """

    def __init__(self, inner: Operations[Node, Handle], authorize: Authorize) -> None:
        super().__init__(inner)
        self._authorize = authorize
        self._seldom = Seldom()
        for name, parameters in _METHODS.items():
            setattr(self, name, self._asking(name, parameters))

    def _asking(self, method: str, parameters: tuple[str, ...]) -> Callable[..., Awaitable[object]]:
        carry_out: Callable[..., Awaitable[object]] = getattr(self.inner, method)
        name = _NAMES.get(method, method)

        async def asking(*args: object, **kwargs: object) -> object:
            given = {**dict(zip(parameters, args, strict=False)), **kwargs}
            operation = self._describe(name, given)
            for _ in range(ASKED_AGAIN):
                await self._ask(operation)
                asked, operation = operation, self._describe(name, given)
                if operation == asked:
                    return await carry_out(*args, **kwargs)
            raise FuseError(errno.EBUSY)

        return asking

    async def _ask(self, operation: Operation) -> None:
        try:
            answer = self._authorize(operation)
            if not inspect.isawaitable(answer):
                raise TypeError(f"authorize returned {answer!r} and nothing to await; define it by async def")
            await answer
        except Exception as error:
            code = _code(error)
            if code is None and self._seldom.may_tell(operation.name):  # it is up to the guest how often it asks
                log.exception("authorize failed for %s of %r", operation.name, operation.path)
            raise FuseError(code or errno.EIO) from None

    def _describe(self, name: str, given: dict[str, Any]) -> Operation:
        """Which arguments a method has is known by its signature, and so is what they are."""
        path, target = self.paths.path, b""
        match given:
            case {"new_parent": new_parent, "new_name": new_name}:
                subject, target = path(given["parent"], given["name"]), path(new_parent, new_name)
            case {"node": node, "parent": parent, "name": new_name}:
                subject, target = path(node), path(parent, new_name)
            case {"source": (node, *_), "target": (to_node, *_)}:
                subject, target = path(node), path(to_node)
            case {"parent": parent}:
                subject, target = path(parent, given.get("name")), given.get("target", b"")
            case _:
                subject, target = path(given["node"]), given.get("name", b"")
        return Operation(name, subject, target, _writes(name, given), given["context"])


def _writes(name: str, given: dict[str, Any]) -> bool:
    match name:
        case "open":
            return bool(given["flags"] & _CHANGING_FLAGS)
        case "ioctl":
            return given["command"] not in READING_CONTROLS
    return name not in READING


def _code(error: Exception) -> int | None:
    """The answer an exception is, or None when it is a failure."""
    if isinstance(error, PermissionError) and error.errno is None:
        return errno.EACCES
    return error.errno if isinstance(error, (OSError, FuseError)) and error.errno in errno.errorcode else None
