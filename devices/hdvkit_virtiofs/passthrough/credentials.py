"""Who makes a file: the guest's caller, for the moment and on this thread only.

Linux keeps an identity for each thread, and a second one in it for the file system alone (``setfsuid(2)``), which
nobody may send signals by. The kernel itself then decides on owner, group, setgid and quota of what is made, as if
the caller had made it here, so none of its rules is written again.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hdvkit_virtiofs.fuse.answers import Context
from hdvkit_virtiofs.passthrough import _libc
from hdvkit_virtiofs.passthrough.errors import refusal

log = logging.getLogger("hdvkit.virtiofs")

_CHOWN, _FOWNER, _FSETID, _LINUX_IMMUTABLE, _MKNOD, _MAC_OVERRIDE = 0, 3, 4, 9, 27, 32

# What setfsuid(2) takes from a thread that stops being root, less CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: whether
# the caller may make a name here was judged by the guest's kernel, with groups that are not known here. Without
# CAP_FSETID a setgid bit stays only where the caller may have it; where its groups are not told that was judged too.
_PRIVILEGES_OF_ROOT = sum(1 << number for number in (_CHOWN, _FOWNER, _FSETID, _LINUX_IMMUTABLE, _MKNOD, _MAC_OVERRIDE))
_JUDGED_BY_GROUPS = 1 << _FSETID

_PROBE = Context(uid=1, gid=1, groups=(1,))
"""Anybody but root: whoever may become one other user may become all that the host gives this process."""


class ThreadIdentity(NamedTuple):
    """Who a thread is to the file system."""

    uid: int
    gid: int
    groups: Sequence[int]
    capabilities: _libc.Capabilities

    @classmethod
    def of_process(cls) -> "ThreadIdentity":
        """Who this process is, whose threads are all the same between two callers."""
        return cls(os.geteuid(), os.getegid(), os.getgroups(), _libc.capabilities())

    def acting_for(self, context: Context) -> "ThreadIdentity":
        """The caller, with so much of our capabilities as the guest's kernel has checked already."""
        if not context.uid:
            return self._replace(uid=0, gid=context.gid)  # root needs no groups to do what they allow
        lost = _PRIVILEGES_OF_ROOT if context.groups is not None else _PRIVILEGES_OF_ROOT & ~_JUDGED_BY_GROUPS
        privileges = self.capabilities._replace(effective=self.capabilities.effective & ~lost)
        return ThreadIdentity(context.uid, context.gid, context.groups or (), privileges)

    def take(self) -> None:
        """Make the calling thread this one, step by step.

        Raises:
            OSError: EOVERFLOW, the kernel does not take an id; EPERM, a capability. The thread is something between.
        """
        if sorted(os.getgroups()) != sorted(self.groups):
            _libc.set_groups(self.groups)
        if not (_libc.set_fsgid(self.gid) and _libc.set_fsuid(self.uid)):
            raise refusal(errno.EOVERFLOW)
        _libc.set_capabilities(self.capabilities)


class Credentials:
    """Lets callers make files in their own name, where this process may take on any.

    Where it may not, there is one squashed identity: everything made belongs to the user the process runs as. Found
    out once, so construct it as the user who is to serve.

    A switch makes Linux forget two things that somebody may have set: that the process may dump core
    (``PR_SET_DUMPABLE``), and on this thread what signal follows the death of its parent (``PR_SET_PDEATHSIG``).
    """

    def __init__(self) -> None:
        self.switching = False
        if _libc.KNOWS_CREDENTIALS:
            # Refused without the capabilities, and in a user namespace that knows one user only.
            with contextlib.suppress(OSError), _acting_for(_PROBE):
                self.switching = True

    def owner(self, context: Context) -> int:
        """The user whose is what is made for a caller."""
        return context.uid if self.switching else os.geteuid()

    def as_caller(self, context: Context) -> contextlib.AbstractContextManager[None]:
        """What the calling thread makes meanwhile is made by the caller. For synchronous code only.

        Everything else should be done as the process: groups of the caller that would let it are not known here.

        Raises:
            OSError: EOVERFLOW, the host has no such user or group (it may be outside of a user namespace).
        """
        if not self.switching or (context.uid == os.geteuid() == 0 and context.gid == os.getegid()):
            return contextlib.nullcontext()
        return _acting_for(context)


@contextlib.contextmanager
def _acting_for(context: Context) -> Iterator[None]:
    process = ThreadIdentity.of_process()
    try:
        process.acting_for(context).take()
        yield
    finally:
        _return_to(process)


def _return_to(process: ThreadIdentity) -> None:
    """Be the process again, or nobody: what would go on here would serve every guest as that caller."""
    try:
        process.take()
    except BaseException as error:
        try:
            log.critical("cannot be user %d again after making a file for a guest: %r", process.uid, error)
        finally:
            os.abort()
