"""The virtio-fs device: queues on one side, a FUSE server on the other. Options are its constructor's arguments."""

import errno
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import attrs

import hdvkit
from hdvkit import Chain, Finding, Queue, UsageError, VirtioDevice
from hdvkit.native import NativeHandler
from hdvkit.virtio import DeviceType
from hdvkit_virtiofs import flags, options
from hdvkit_virtiofs.cache import RULES, Cache
from hdvkit_virtiofs.fuse import BrokenRequest, Session, decode_header, replies, takes_reply
from hdvkit_virtiofs.fuse.spec import MAX_MAX_WRITE, MIN_MAX_WRITE, OpenReply
from hdvkit_virtiofs.handlers import HANDLERS
from hdvkit_virtiofs.native import hot_path, requests
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.passthrough import Passthrough
from hdvkit_virtiofs.policy import Authorize, Policy, Rules, innermost
from hdvkit_virtiofs.policy.xattrs import lets_acls_pass, lets_labels_pass
from hdvkit_virtiofs.server import Server, Times

MAX_REQUEST_QUEUES = 16
MAX_QUOTA = 2**63 - 1
"""What a guest's ``df`` can count."""
MAX_DESCRIPTORS = 2**31 - 1
LAST_ID = 2**32 - 2
"""The number behind it stands for nobody."""


def _source(value: "str | Path | Operations[Any, Any]") -> "Path | Operations[Any, Any]":
    if value == "":
        raise ValueError("an empty source names no directory; for the current one write .")
    return Path(value) if isinstance(value, str) else value


def _mask(value: str | int) -> int:
    mask = int(value, 8) if isinstance(value, str) else value
    if not 0 <= mask <= 0o777:
        raise ValueError(f"{value!r} takes no permissions away; write three octal digits, such as 022")
    return mask


def _optional_mask(value: str | int | None) -> int | None:
    return None if value is None or value == "none" else _mask(value)


def _share(directory: Path, **options: Any) -> Passthrough:
    try:
        return Passthrough(directory, **options)
    except OSError as error:
        raise UsageError(f"{error.strerror}; name a directory that this user may list") from error


ON_LINUX = ("posix_acl", "security_ctx", "announce_submounts", "max_inode_descriptors")
"""Options that only directories of Linux have a use for."""

ON_WINDOWS = ("uid", "gid", "umask", "fmask", "dmask", "metadata", "case_sensitive", "symlinks")
"""Those that stand for what Windows does not know about a file."""

if sys.platform == "win32":
    HERE, ELSEWHERE, OTHER_HOSTS = ON_WINDOWS, ON_LINUX, "Linux"
else:
    HERE, ELSEWHERE, OTHER_HOSTS = ON_LINUX, ON_WINDOWS, "Windows"


@attrs.define(eq=False)
class VirtioFs(VirtioDevice):
    """A directory of the host, or any file system written as a class, for one guest to mount.

    Options:
        source: The directory, or an :class:`Operations` instance, which the device closes with itself.
        tag: What the guest mounts: ``mount -t virtiofs TAG DIRECTORY``.
        read_only: Refuse every change with EROFS, whatever the guest's mount says.
        cache: How much the guest may remember: auto, always, never or metadata.
        attr_timeout, entry_timeout: Seconds for attributes and names, instead of what ``cache`` says.
        queues: Request queues; a Linux guest since 6.11 uses one for each of its processors.
        queue_size: Places in each queue. Linux sends at most so many pages less four in a request.
        max_write: The longest write in bytes.
        writeback: Let the guest collect writes and send them later. Faster; not for files that the host changes too.
        locks: Locks of the guest hold against host processes and other guests. Without, they hold in this guest only.
        xattr: Offer extended attributes.
        xattr_rules: Which ones, as ``action:prefix``, the first that fits: ``ok``, ``bad`` or ``unsupported``, or
            ``prefix:PREFIX:STORED``. By default those that begin with ``user.``; with ``posix_acl`` those too.
        posix_acl: Offer access control lists, which the guest's kernel enforces.
        security_ctx: Label new files as the guest's kernel says (SELinux, Smack), before a name leads to them. Needs a
            rule in ``xattr_rules`` by which labels pass, such as ``prefix:security.selinux:trusted.guest.``.
        announce_submounts: Show other file systems of the host below the directory as mounts of their own.
        translate_uid, translate_gid: Users and groups between guest and host, as ``map:GUEST:HOST:COUNT`` and the
            other verbs of :class:`.policy.Identity`.
        squash: ``UID:GID`` of the host user whom all that the guest makes belongs to; files are shown as root's.
        deny, allow: Patterns of paths that do not exist for the guest, or that alone do.
        timeouts: ``PATTERN=SECONDS`` for names and attributes of some paths, instead of what ``cache`` says.
        quota_bytes, quota_inodes: What this guest may add to the share; more is EDQUOT.
        max_inode_descriptors: So many files the guest knows are held open at the same time; others are opened again
            when they are needed.
        uid, gid: On Windows, whom files belong to, unless ``metadata`` says otherwise.
        umask, fmask, dmask: On Windows, permissions that files and directories do not have, as octal text; the latter
            two are ``umask`` unless given.
        metadata: On Windows, keep owner, group and mode in extended attributes, where WSL keeps them.
        case_sensitive: On Windows, directories the guest makes tell names apart by their case. Lookups are exact in
            every directory.
        symlinks: On Windows, let the guest make symbolic links, as WSL does; those that exist are always shown.
        authorize: A coroutine function that is asked before every operation, see :class:`.policy.Operation`.
        request_timeout: Seconds after which a guest takes the share for dead when a request is not answered: waiting
            processes get errors then, and the share has to be mounted again. Linux since 6.14, every 15 s; older
            guests wait for ever. 0 is for ever.
    """

    device_type = DeviceType.FS
    class_code = 0x018000  # other mass storage

    source: "Path | Operations[Any, Any]" = attrs.field(converter=_source)
    tag: str = attrs.field(validator=options.TAG)
    read_only: bool = attrs.field(default=False, validator=options.SWITCH)
    cache: Cache = attrs.field(default=Cache.AUTO, converter=Cache)
    attr_timeout: float | None = attrs.field(default=None, validator=options.SECONDS)
    entry_timeout: float | None = attrs.field(default=None, validator=options.SECONDS)
    queues: int = attrs.field(default=1, validator=options.whole(1, MAX_REQUEST_QUEUES))
    queue_size: int = attrs.field(default=1024, validator=options.QUEUE_SIZE)
    max_write: int = attrs.field(default=MAX_MAX_WRITE, validator=options.whole(MIN_MAX_WRITE, MAX_MAX_WRITE))
    request_timeout: int = attrs.field(default=0, validator=options.whole(0, 0xFFFF))
    writeback: bool = attrs.field(default=False, validator=options.SWITCH)
    locks: bool = attrs.field(default=True, validator=options.SWITCH)
    xattr: bool = attrs.field(default=True, validator=options.SWITCH)
    xattr_rules: tuple[str, ...] = attrs.field(default=(), validator=options.XATTR_RULES)
    posix_acl: bool = attrs.field(default=False, validator=options.SWITCH)
    security_ctx: bool = attrs.field(default=False, validator=options.SWITCH)
    announce_submounts: bool = attrs.field(default=True, validator=options.SWITCH)
    translate_uid: tuple[str, ...] = attrs.field(default=(), validator=options.TRANSLATION)
    translate_gid: tuple[str, ...] = attrs.field(default=(), validator=options.TRANSLATION)
    squash: str | None = attrs.field(default=None, validator=options.SQUASH)
    deny: tuple[str, ...] = attrs.field(default=(), validator=options.PATTERNS)
    allow: tuple[str, ...] = attrs.field(default=(), validator=options.PATTERNS)
    timeouts: tuple[str, ...] = attrs.field(default=(), validator=options.TIMEOUTS)
    quota_bytes: int | None = attrs.field(default=None, validator=options.whole(0, MAX_QUOTA, optional=True))
    quota_inodes: int | None = attrs.field(default=None, validator=options.whole(0, MAX_QUOTA, optional=True))
    max_inode_descriptors: int = attrs.field(default=1024, validator=options.whole(64, MAX_DESCRIPTORS))
    uid: int = attrs.field(default=0, validator=options.whole(0, LAST_ID))
    gid: int = attrs.field(default=0, validator=options.whole(0, LAST_ID))
    umask: int = attrs.field(default=0, converter=_mask)
    fmask: int | None = attrs.field(default=None, converter=_optional_mask)
    dmask: int | None = attrs.field(default=None, converter=_optional_mask)
    metadata: bool = attrs.field(default=False, validator=options.SWITCH)
    case_sensitive: bool = attrs.field(default=False, validator=options.SWITCH)
    symlinks: bool = attrs.field(default=True, validator=options.SWITCH)
    authorize: Authorize | None = attrs.field(default=None, validator=options.AUTHORIZE)
    server: Server[Any, Any] = attrs.field(init=False, repr=False)
    _hot: NativeHandler | None = attrs.field(init=False, repr=False, default=None)

    def __attrs_post_init__(self) -> None:
        """Open the source, so that a missing directory is the adder's error and not the guest's."""
        requests()  # that C is insisted on and missing is theirs, too
        if contradiction := self._contradiction():
            raise UsageError(f"options of device virtiofs contradict each other: {contradiction}")
        if other := self._of_other_hosts():
            raise UsageError(
                f"option {other!r} of device virtiofs is for directories on {OTHER_HOSTS}; leave it out here"
            )
        operations = self._rules().around(self._file_system(), lambda reason: self.warn(reason))
        rules = RULES[self.cache]
        times = Times(
            entry=rules.timeout if self.entry_timeout is None else self.entry_timeout,
            attr=rules.timeout if self.attr_timeout is None else self.attr_timeout,
            open_flags=rules.open_flags,
        )
        wanted = flags.wanted(operations.init_flags, self.cache, self.writeback)
        session = Session(wanted, self.max_write, self.max_write, request_timeout=self.request_timeout)
        self.server = Server(operations, session, Policy(read_only=self.read_only), times, HANDLERS)

    @staticmethod
    def check() -> Sequence[Finding]:
        """Look whether the frequent requests are answered in C."""
        return [Finding("requests of virtiofs", requests().reason, good=True)]

    def _contradiction(self) -> str | None:
        """What one option asks for and another takes back. Options that merely have nothing to do do not count."""
        if self.writeback and RULES[self.cache].open_flags & OpenReply.DIRECT_IO:
            return f"writeback=true keeps data in the guest, and cache={self.cache} keeps none there; leave out one"
        if not self.xattr and (self.xattr_rules or self.posix_acl or self.security_ctx):
            return "xattr=false offers no extended attributes, which another option needs; leave out one"
        if self.security_ctx and not lets_labels_pass(self.xattr_rules):
            rule = "prefix:security.:trusted.guest."
            return f"security_ctx=true needs a rule by which labels pass; add ok:security. or {rule} to xattr_rules"
        if self.posix_acl and self.xattr_rules and not lets_acls_pass(self.xattr_rules):
            return "posix_acl=true needs a rule by which ACLs pass; add ok:system.posix_acl_ to xattr_rules, in front"
        if self.squash is not None and (self.translate_uid or self.translate_gid):
            return f"squash={self.squash} is for all ids and leaves none for translate_uid or translate_gid; drop one"
        return None

    def _of_other_hosts(self) -> str | None:
        """An option that was given and means nothing to directories of this host."""
        if isinstance(self.source, Operations):
            return None
        fields = attrs.fields_dict(type(self))
        return next((name for name in ELSEWHERE if getattr(self, name) != fields[name].default), None)

    def _file_system(self) -> Operations[Any, Any]:
        if isinstance(self.source, Operations):
            return self.source
        return _share(
            self.source,
            writeback=self.writeback,
            read_only=self.read_only,
            locks=self.locks,
            **{name: getattr(self, name) for name in HERE},
        )

    def _rules(self) -> Rules:
        of_host = not isinstance(self.source, Operations) or isinstance(innermost(self.source), Passthrough)
        options = {name: getattr(self, name) for name in attrs.fields_dict(Rules) if hasattr(self, name)}
        return Rules(of_host=of_host, **options)

    @property
    def queue_names(self) -> tuple[str, ...]:
        """One high-priority queue, then request queues."""
        return ("hiprio", *(f"requests.{index}" for index in range(self.queues)))

    @property
    def default_name(self) -> str:
        """A share is called by its tag."""
        return self.tag

    def config(self) -> bytes:
        """Section "Device configuration layout" of the file system device: tag and number of request queues."""
        return self.tag.encode().ljust(options.TAG_SIZE, b"\0") + self.queues.to_bytes(4, "little")

    def native_handler(self) -> NativeHandler | None:
        """The frequent requests in C, where they were built and no rule has a say in them."""
        if self._hot is None:
            self._hot = hot_path(self.server)
        return self._hot

    async def serve(self, queue: Queue) -> None:
        """Answer requests, each in a task of its own, so that one that waits delays no other."""
        await queue.each(self._begin, give_up=self.refuse)

    def _begin(self, chain: Chain) -> Coroutine[Any, Any, None] | None:
        call = self.server.begin(chain)
        return None if call is None else self.server.run(call)

    def refuse(self, chain: Chain) -> None:
        """What cannot be answered any more, because the share is being removed or was, ends in ENODEV."""
        try:
            header = decode_header(chain.read(40))
        except BrokenRequest:
            return
        if takes_reply(header.opcode) and chain.writable_size >= replies.HEADER_SIZE:
            chain.write(replies.error(header.unique, errno.ENODEV))

    async def reset(self) -> None:
        """The guest is gone; its open files and nodes go with it."""
        await self.server.reset()

    async def aclose(self) -> None:
        """Let go of every open file, and of the source."""
        await self.server.reset()
        await self.server.operations.aclose()


@hdvkit.hookimpl
def hdvkit_register_devices(register: "hdvkit.hookspecs.RegisterDevice") -> None:
    """A share."""
    register("virtiofs", VirtioFs)
