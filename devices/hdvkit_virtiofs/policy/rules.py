"""The rules of one share, and the layers that enforce them, from the file system to the guest."""

from collections.abc import Callable
from typing import Any

import attrs

from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.policy.authorize import Authorize, Authorized
from hdvkit_virtiofs.policy.identity import Identity
from hdvkit_virtiofs.policy.quota import Quota
from hdvkit_virtiofs.policy.timeouts import Timeouts
from hdvkit_virtiofs.policy.visibility import Visible
from hdvkit_virtiofs.policy.xattrs import XattrRules

FileSystem = Operations[Any, Any]
Warn = Callable[[str], None]


@attrs.frozen
class Rules:
    """What of a share's options stands in front of its file system."""

    of_host: bool = False
    """The files are the host's, where some extended attributes have a meaning that is not for a guest to set."""
    quota_bytes: int | None = None
    quota_inodes: int | None = None
    xattr: bool = True
    xattr_rules: tuple[str, ...] = ()
    posix_acl: bool = False
    translate_uid: tuple[str, ...] = ()
    translate_gid: tuple[str, ...] = ()
    squash: str | None = None
    timeouts: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    authorize: Authorize | None = None

    def around(self, operations: FileSystem, warn: Warn) -> FileSystem:
        """Put in front of ``operations`` what the rules ask for.

        Raises:
            ValueError: A rule has no meaning; the text says which and why.
        """
        for layer in _LAYERS:
            operations = layer(self, operations, warn) or operations
        return operations


def _quota(rules: Rules, inner: FileSystem, warn: Warn) -> FileSystem | None:
    if rules.quota_bytes is None and rules.quota_inodes is None:
        return None
    return Quota(inner, max_bytes=rules.quota_bytes, max_inodes=rules.quota_inodes, warn=warn)


def _xattrs(rules: Rules, inner: FileSystem, _: Warn) -> FileSystem | None:
    if rules.xattr and not rules.xattr_rules and not rules.of_host:
        return None
    return XattrRules(inner, rules.xattr_rules or None, posix_acl=rules.posix_acl, xattr=rules.xattr)


def _identity(rules: Rules, inner: FileSystem, _: Warn) -> FileSystem | None:
    if not rules.translate_uid and not rules.translate_gid and rules.squash is None:
        return None
    return Identity(inner, rules.translate_uid, rules.translate_gid, squash=rules.squash)


def _timeouts(rules: Rules, inner: FileSystem, _: Warn) -> FileSystem | None:
    return Timeouts(inner, rules.timeouts) if rules.timeouts else None


def _visible(rules: Rules, inner: FileSystem, _: Warn) -> FileSystem | None:
    return Visible(inner, deny=rules.deny, allow=rules.allow) if rules.deny or rules.allow else None


def _authorized(rules: Rules, inner: FileSystem, _: Warn) -> FileSystem | None:
    return Authorized(inner, rules.authorize) if rules.authorize is not None else None


_LAYERS: tuple[Callable[[Rules, FileSystem, Warn], FileSystem | None], ...] = (
    _quota,  # next to the file system: it weighs what is stored
    _xattrs,
    _identity,
    _timeouts,
    _authorized,  # it hears the guest's own users
    _visible,  # and nothing of what does not exist
)
