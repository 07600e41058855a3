"""One guest's FUSE session: what INIT negotiated and which requests may come when. Does no I/O.

The device calls :meth:`Session.check` for each request before it decodes the body, :meth:`Session.init` and
:meth:`Session.destroy` for those two, and :meth:`Session.reset` when the guest resets the device.
"""

import enum
import errno
from typing import Final

from hdvkit_virtiofs.fuse import replies, spec
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.messages import Init
from hdvkit_virtiofs.fuse.spec import InitFlag, Opcode


class State(enum.Enum):
    """Where a session stands."""

    NEW = "new"
    """The guest has not mounted the share since it started."""
    READY = "ready"
    DESTROYED = "destroyed"
    """The guest has unmounted it, and may mount it again."""


RULES: Final[dict[State, tuple[dict[int, State | None], State | None]]] = {
    State.NEW: ({Opcode.INIT: State.READY}, None),
    State.READY: ({Opcode.INIT: None, Opcode.DESTROY: State.DESTROYED}, State.READY),
    State.DESTROYED: ({Opcode.INIT: State.READY}, None),
}
"""Where a request leads: first by its opcode, then for all others. None: it may not come now."""

SETGID_JUDGED: Final = 37
"""Linux 6.1 has this minor version. Since 6.0 it takes setgid off a mode, where it must, before it asks a FUSE server;
older ones leave that to the server, and groups are told since 7.38."""


class Session:
    """One session, from reset to reset.

    ``wanted`` are the flags the device has a use for; a flag holds when the guest offers it too. ``max_write``
    is the longest WRITE in bytes, kept within 64 KiB and 1 MiB; ``max_readahead`` is in bytes;
    ``max_background`` is how many requests the guest may have under way that no process waits for;
    ``request_timeout`` is how many seconds a guest that can do that waits before it gives the share up, 0 for ever.
    """

    def __init__(
        self,
        wanted: InitFlag,
        max_write: int = spec.MAX_MAX_WRITE,
        max_readahead: int = spec.MAX_MAX_WRITE,
        max_background: int = 64,
        request_timeout: int = 0,
    ) -> None:
        self._wanted = wanted | InitFlag.REQUEST_TIMEOUT if request_timeout else wanted
        self._request_timeout = request_timeout
        self._max_readahead = max_readahead
        self._max_background = min(max(max_background, 1), 0xFFFF)
        whole_pages = max_write // spec.PAGE_SIZE * spec.PAGE_SIZE
        self.max_write = min(max(whole_pages, spec.MIN_MAX_WRITE), spec.MAX_MAX_WRITE)
        self.reset()

    def reset(self) -> None:
        """Forget what was negotiated; the caller must also forget all nodes and open files."""
        self._enter(State.NEW)
        self.minor = spec.KERNEL_MINOR_VERSION
        self.flags = InitFlag(0)
        self.setxattr_ext = False
        self.max_readahead = 0
        self.max_pages = spec.DEFAULT_MAX_PAGES

    @property
    def ready(self) -> bool:
        """Whether the guest has mounted the share."""
        return self.state is State.READY

    @property
    def groups_are_untold(self) -> bool:
        """Whether the device heeds further groups of callers, and the guest has judged by them but cannot tell them."""
        flag = InitFlag.CREATE_SUPP_GROUP
        return flag in self._wanted and flag not in self.flags and self.minor >= SETGID_JUDGED

    def check(self, opcode: int) -> State:
        """Check that a request may come now, and return the state it leads to. The state does not change.

        Raises:
            FuseError: EIO. Nothing but INIT may come before INIT, and no second one after it.
        """
        by_opcode, others = self._rules
        following = by_opcode.get(opcode, others)
        if following is None:
            raise FuseError(errno.EIO)
        return following

    def init(self, request: Init) -> bytes:
        """Negotiate, and return the payload of the reply.

        The session is ready then, unless the guest speaks a newer major version: it sends another INIT.

        Raises:
            FuseError: EIO for a second INIT; EPROTO for a guest older than 7.27.
        """
        following = self.check(Opcode.INIT)
        if request.major > spec.KERNEL_VERSION:
            # "Version negotiation": answer the major version we speak and ignore the rest.
            return replies.init(replies.InitOut())
        if request.major < spec.KERNEL_VERSION or request.minor < spec.OLDEST_MINOR_VERSION:
            raise FuseError(errno.EPROTO)
        self.minor = min(request.minor, spec.KERNEL_MINOR_VERSION)
        self.flags = self._agree(request)
        self.setxattr_ext = InitFlag.SETXATTR_EXT in self.flags
        self.max_readahead = min(request.max_readahead, self._max_readahead)
        self.max_pages = self._pages()
        self._enter(following)
        return replies.init(self._answer())

    def destroy(self) -> None:
        """The guest has unmounted; the caller must forget all nodes and open files, then answer.

        Raises:
            FuseError: EIO when nothing was mounted.
        """
        following = self.check(Opcode.DESTROY)
        self.reset()
        self._enter(following)

    def _enter(self, state: State) -> None:
        self.state = state
        self._rules = RULES[state]  # kept, because check() comes with each request

    def _agree(self, request: Init) -> InitFlag:
        offered = request.flags
        if offered & InitFlag.INIT_EXT:
            offered |= request.flags2 << 32
        taken = InitFlag(offered & int(self._wanted))
        # Without this one the guest does not look at our second word.
        return taken | InitFlag.INIT_EXT if taken >> 32 else taken

    def _pages(self) -> int:
        if InitFlag.MAX_PAGES not in self.flags:
            return spec.DEFAULT_MAX_PAGES
        return -(-self.max_write // spec.PAGE_SIZE)

    def _answer(self) -> replies.InitOut:
        return replies.InitOut(
            minor=self.minor,
            max_readahead=self.max_readahead,
            flags=self.flags,
            max_background=self._max_background,
            congestion_threshold=self._max_background * 3 // 4,
            max_write=self.max_write,
            time_gran=1,
            max_pages=self.max_pages if InitFlag.MAX_PAGES in self.flags else 0,
            request_timeout=self._request_timeout if InitFlag.REQUEST_TIMEOUT in self.flags else 0,
        )
