"""Which extended attributes a guest may use, and what they are called on the host. Knows names, no values.

The host's kernel and its programs act on some attributes (capabilities, labels, ACLs), so a guest gets none of them
unless a rule says so.
"""

import errno
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

from hdvkit_virtiofs.fuse.answers import Context, Handle, Node
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import XATTR_NAME_MAX, InitFlag
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.policy.layer import Layer

Making = Callable[..., Awaitable[object]]
"""A method that makes something and has the context as its last argument."""

_LABEL = b"security.selinux"
_ACL = b"system.posix_acl_access"

_MAKING = ("create", "tmpfile", "mknod", "mkdir", "symlink")
"""The methods that heed ``Context.security``: attributes a file is born with."""

_STORES = (b"user.", b"trusted.")
"""Namespaces of Linux in which a name can be anything."""

_ACTIONS = {"ok": 1, "bad": 1, "unsupported": 1, "prefix": 2}
"""Actions, and how many texts follow each."""


class Rule(NamedTuple):
    """What becomes of the names that begin with ``prefix``."""

    action: str
    prefix: bytes
    argument: bytes = b""


USER = Rule("ok", b"user.")
ACLS = Rule("ok", b"system.posix_acl_")
REST = Rule("unsupported", b"")


class XattrRules(Layer[Node, Handle]):
    """Extended attributes by rules: the first that fits a guest's name decides, and without one it is unsupported.

    A rule is the text ``action:prefix``, for names that begin with ``prefix``:

    - ``ok``: called the same on the host.
    - ``bad``: cannot be set or removed (EPERM), is never there (ENODATA), is not listed.
    - ``unsupported``: EOPNOTSUPP, as on a file system that does not keep such attributes; is not listed.
    - ``prefix``, as ``prefix:PREFIX:ARGUMENT``: called ``ARGUMENT`` + name on the host, and listed without it. An
      ``ok`` name that begins with ``ARGUMENT`` is bad, so no two names of the guest are one on the host.

    An empty prefix fits every name. Without ``rules`` the guest has ``user.`` names, and with ``posix_acl`` access
    control lists. Without ``xattr`` it has nothing: ENOSYS, after which Linux does not ask again. Where the rules do
    not let ACLs pass, or labels, ``POSIX_ACL`` and ``SECURITY_CTX`` are taken off ``init_flags``.

    Raises:
        ValueError: A rule cannot be understood, or could make one host name of two guest names.
    """

    def __init__(
        self,
        inner: Operations[Node, Handle],
        rules: Iterable[str] | None = None,
        *,
        posix_acl: bool = False,
        xattr: bool = True,
    ) -> None:
        super().__init__(inner)
        default = (USER, ACLS) if posix_acl else (USER,)
        self._rules: tuple[Rule, ...] = (*(default if rules is None else parse_all(rules)), REST)
        self._arguments = _arguments(self._rules)
        self._code = 0 if xattr else errno.ENOSYS
        if self._found(_ACL) != _ACL:  # under another name it would not be the host's ACL, nor be inherited
            self.init_flags &= ~InitFlag.POSIX_ACL
        if self._found(_LABEL) is None:
            self.init_flags &= ~InitFlag.SECURITY_CTX
        if InitFlag.SECURITY_CTX in self.init_flags:  # else nothing is born with attributes
            for name in _MAKING:
                setattr(self, name, self._born(getattr(inner, name)))

    async def getxattr(self, node: Node, name: bytes, context: Context) -> bytes:
        """Return the value the name has on the host."""
        return await self.inner.getxattr(node, self._host_name(name, bad=errno.ENODATA), context)

    def refusal(self, name: bytes) -> int:
        """The errno by which ``getxattr`` refuses this name for any file, or 0."""
        try:
            self._host_name(name, bad=errno.ENODATA)
        except FuseError as error:
            return error.errno
        return 0

    async def listxattr(self, node: Node, context: Context) -> Sequence[bytes]:
        """List what the guest could ask for by name, in the guest's words."""
        if self._code:
            raise FuseError(self._code)
        names = map(self._guest_name, await self.inner.listxattr(node, context))
        return [name for name in names if name is not None]

    async def setxattr(self, node: Node, name: bytes, value: bytes, flags: int, context: Context) -> None:
        """Set the name as it is called on the host."""
        await self.inner.setxattr(node, self._host_name(name), value, flags, context)

    async def removexattr(self, node: Node, name: bytes, context: Context) -> None:
        """Remove the name as it is called on the host."""
        await self.inner.removexattr(node, self._host_name(name), context)

    def _born(self, make: Making) -> Making:
        """``make``, with the attributes of new files under the same rules."""

        async def making(*arguments: object) -> object:
            *what, context = arguments
            assert isinstance(context, Context)
            if context.security:
                security = tuple((self._host_name(name), value) for name, value in context.security)
                context = context._replace(security=security)
            return await make(*what, context)

        return making

    def _host_name(self, name: bytes, *, bad: int = errno.EPERM) -> bytes:
        """What a name of the guest is called on the host.

        Raises:
            FuseError: ENOSYS, EOPNOTSUPP or ``bad``, as the rules say; ERANGE for an empty name, or one that is longer
                on the host than Linux has them.
        """
        if self._code:
            raise FuseError(self._code)
        rule = next(rule for rule in self._rules if name.startswith(rule.prefix))
        if rule.action == "unsupported":
            raise FuseError(errno.EOPNOTSUPP)
        if rule.action == "bad" or (rule.action == "ok" and name.startswith(self._arguments)):
            raise FuseError(bad)
        host_name = rule.argument + name
        if not name or len(host_name) > XATTR_NAME_MAX:
            raise FuseError(errno.ERANGE)
        return host_name

    def _guest_name(self, host_name: bytes) -> bytes | None:
        """What a name of the host is called in the guest: the one that leads back to it, or None."""
        argument = next((text for text in self._arguments if host_name.startswith(text)), b"")
        name = host_name[len(argument) :]
        return name if self._found(name) == host_name else None

    def _found(self, name: bytes) -> bytes | None:
        try:
            return self._host_name(name)
        except FuseError:
            return None


def refusal(operations: Operations[Any, Any], name: bytes) -> int:
    """The errno that every file answers with when it is asked for this attribute; 0 where that depends."""
    while isinstance(operations, Layer) and not isinstance(operations, XattrRules):
        if operations.getxattr != operations.inner.getxattr:
            return 0
        operations = operations.inner
    return operations.refusal(name) if isinstance(operations, XattrRules) else 0


def parse_all(texts: Iterable[str]) -> tuple[Rule, ...]:
    """Read the rules of one share.

    Raises:
        ValueError: One is none, or two could make one host name of two guest names; says which text, why, and what to
            write.
    """
    rules = tuple(map(parse, texts))
    _arguments(rules)
    return rules


def lets_acls_pass(texts: Iterable[str]) -> bool:
    """Whether by these rules the guest's access control lists are the host's own."""
    return _action(texts, _ACL) == "ok"


def lets_labels_pass(texts: Iterable[str]) -> bool:
    """Whether by these rules the guest's security labels are kept, under whatever name."""
    return _action(texts, _LABEL) in ("ok", "prefix")


def _action(texts: Iterable[str], name: bytes) -> str:
    return next(rule.action for rule in (*parse_all(texts), REST) if name.startswith(rule.prefix))


def parse(text: str) -> Rule:
    """Read one rule, or raise ValueError as ``parse_all`` does."""
    action, *texts = text.split(":")
    if action not in _ACTIONS:
        raise ValueError(f"{text!r} begins with no action; write one of {', '.join(_ACTIONS)} before the first colon")
    if len(texts) != _ACTIONS[action]:
        form = ":".join((action, *("PREFIX", "ARGUMENT")[: _ACTIONS[action]]))
        raise ValueError(f"{text!r} has {len(texts)} texts behind its action; write {form}")
    rule = Rule(action, *(part.encode(errors="surrogateescape") for part in texts))
    if len(rule.prefix + rule.argument) > XATTR_NAME_MAX or "\0" in text:
        raise ValueError(
            f"{text[:80]!r} fits no name: one has up to {XATTR_NAME_MAX} bytes and no NUL; write a shorter"
        )
    if action == "prefix" and not rule.argument.startswith(_STORES):
        raise ValueError(
            f"{text!r} would store names under {texts[1]!r}, which Linux does not keep;"
            " let the argument begin with user. or, where the server is root, trusted."
        )
    return rule


def _arguments(rules: Iterable[Rule]) -> tuple[bytes, ...]:
    """The arguments of all rules, once each; none may continue another, or names stored under both could meet."""
    found = tuple(dict.fromkeys(rule.argument for rule in rules if rule.argument))
    for short in found:
        for long in found:
            if short != long and long.startswith(short):
                raise ValueError(
                    f"names are to be stored under {short.decode()!r} and under {long.decode()!r}, which is part of"
                    " the former; choose arguments of which none begins with another"
                )
    return found
