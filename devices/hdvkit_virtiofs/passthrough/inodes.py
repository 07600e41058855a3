"""Files the guest knows, told apart by (st_dev, st_ino), each behind an O_PATH descriptor while it is used.

An O_PATH descriptor names an inode, not a path: renames and removals on either side do not touch it, and as
long as it is open the kernel gives the inode number to nobody else. There is a budget of them. What was not used for
longest is closed and opened again when it is wanted: by file handle where this process may, else by the names that
lead to it. What cannot be opened again, a file without a name above all, is closed last.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from hdvkit_virtiofs.passthrough.budget import Budget
from hdvkit_virtiofs.passthrough.descriptors import Descriptors
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.handles_by_name import Mount, Mounts, identity_of
from hdvkit_virtiofs.passthrough.inode import CLOSED, DROPPED, NUMBER_BITS
from hdvkit_virtiofs.passthrough.inode import Inode as Inode

REFERENCE = os.O_PATH | os.O_NOFOLLOW
"""How a name becomes a descriptor: without reading, without waiting, and never through a link."""

BUDGET = 1024
"""Descriptors for the inodes of one share, unless it is told otherwise or the process has less to give."""

MAX_DEPTH = 512
"""Directories opened one after the other to reach an inode by its names; what lies deeper is ESTALE."""


class InodeTable:
    """Gives the same Inode for the same file, however it was reached. The first is the root and stays open.

    At most ``budget`` descriptors are open for inodes, fewer where the process has not so many to give.
    """

    def __init__(self, descriptors: Descriptors, budget: int = BUDGET) -> None:
        self._descriptors = descriptors
        self._known: dict[int, Inode] = {}
        self._mounts = Mounts(descriptors)
        self._budget = budget
        self.lent = 0
        """How many of them somebody else has."""
        self.open: Budget[Inode] = Budget(self.size, remember=self._remember, close=self._close)
        """Inodes that have a descriptor now."""
        descriptors.spare = self.open.spare
        self._by_name = False
        """Whether names matter: something was closed, or can be opened again by its name only."""

    def __len__(self) -> int:
        return len(self._known)

    def size(self) -> int:
        """How many descriptors may be open for inodes now."""
        return self._descriptors.inode_budget(self._budget) - self.lent

    # Finding

    def find(self, parent: Inode, name: bytes) -> tuple[Inode, os.stat_result]:
        """Look up one component.

        Each call is one reference for the guest: the Inode stays until ``drop``.

        Raises:
            OSError: The kernel's answer.
        """
        found = self._descriptors.open(name, REFERENCE, dir_fd=parent.descriptor, brief=True)
        return self.adopt(found, parent, name)

    def adopt(
        self, descriptor: int, parent: Inode | None = None, name: bytes | None = None
    ) -> tuple[Inode, os.stat_result]:
        """Take over an O_PATH descriptor and give the Inode it stands for, with its attributes.

        ``parent`` and ``name`` are what it was opened by; a file without a name has only a parent. Call it last in an
        operation: an Inode that then is not given to the guest is never forgotten.
        """
        try:
            status = os.fstat(descriptor)
            inode = self._same(status, descriptor) or self._new(status, descriptor, parent)
            self._take(inode, descriptor)
        except OSError:
            self._descriptors.close(descriptor)
            raise
        self.learn(inode, parent, name)
        return inode, status

    def meet(self, number: int, kind: int, mark: bytes, descriptor: int) -> Inode:
        """Take over what was found elsewhere, on the mount of the root; closed if ``descriptor`` is negative."""
        known = self._known.get(number)
        if known is not None and mark == (known.mark if known.open_as < 0 else identity_of(known.open_as).mark):
            inode = known
        else:
            inode = Inode(self, number, kind, self._of_root())
            inode.mark = mark
        if descriptor >= 0:
            self._take(inode, self._descriptors.adopt(descriptor))
        if known is None or (known is not inode and self._lives(inode)):
            self._known[number] = inode  # whoever had the number is found by nothing but its own descriptor
        return inode

    def _lives(self, inode: Inode) -> bool:
        """Whether the number is this one's still, of two that had it."""
        if inode.open_as < 0:
            with contextlib.suppress(OSError):
                self.reopen(inode)
        return inode.open_as >= 0

    def _of_root(self) -> Mount | None:
        mount = None if self.open.always is None else self.open.always.mount
        if mount is not None:
            mount.users += 1
        return mount

    def _same(self, status: os.stat_result, descriptor: int) -> Inode | None:
        """Who is known under this number, unless the host gave it to another file while nobody held it."""
        inode = self._known.get(number_of(status))
        if inode is None or inode.open_as >= 0:
            return inode
        if inode.mark is not None and inode.mark == identity_of(descriptor).mark:
            return inode
        self._forget_who(inode)
        return None

    def _new(self, status: os.stat_result, descriptor: int, parent: Inode | None) -> Inode:
        if stat.S_ISDIR(status.st_mode):
            mount = self._mounts.of_directory(descriptor)
        else:  # asked again before it matters: a single file may be mounted too
            mount = None if parent is None else parent.mount
        inode = Inode(self, number_of(status), stat.S_IFMT(status.st_mode), mount)
        if mount is None:
            self._by_name = True
        else:
            mount.users += 1
        self._known[inode.number] = inode
        self.open.always = self.open.always or inode
        return inode

    # Names

    def learn(self, inode: Inode, parent: Inode | None, name: bytes | None) -> None:
        """``inode`` has this name; where handles do not work it is found again by the name seen last."""
        if inode.mount is None and inode is not self.open.always and parent is not None and name is not None:
            inode.parent, inode.name = parent, name

    @contextlib.contextmanager
    def removing(self, parent: Inode, name: bytes) -> Iterator[None]:
        """Around the removal of a name: what the guest knows by it is opened first, and lives on without."""
        with self._held(parent, name):
            inode = self._standing_at(parent, name)
            yield
            if inode is not None:
                _unlearn(inode, parent, name)

    @contextlib.contextmanager
    def moving(
        self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, *, exchange: bool = False
    ) -> Iterator[None]:
        """Around a rename: what it replaces lives on, and what it moves is found where it is then."""
        with self._held(new_parent, new_name):
            inode, replaced = self._standing_at(parent, name), self._standing_at(new_parent, new_name)
            yield
            if replaced is not None:
                _unlearn(replaced, new_parent, new_name)
                if exchange:
                    self.learn(replaced, parent, name)
            if inode is not None:
                self.learn(inode, new_parent, new_name)

    @contextlib.contextmanager
    def _held(self, parent: Inode, name: bytes) -> Iterator[None]:
        """Keep what stands there open: taking its last name frees nothing then, closing it does."""
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):  # nothing stands there; else the call itself says what is wrong
                found = self._descriptors.open(name, REFERENCE, dir_fd=parent.descriptor, brief=True)
                held.callback(self._descriptors.close, found)
                if self._descriptors.sharer is not None:
                    self._descriptors.sharer.unnaming(found)
            yield

    def _standing_at(self, parent: Inode, name: bytes) -> Inode | None:
        """Who is known by a name, opened; None also where that does not matter."""
        if not self._by_name:
            return None
        with contextlib.suppress(OSError):
            inode = self._known.get(number_of(os.stat(name, dir_fd=parent.descriptor, follow_symlinks=False)))
            if inode is None or inode.open_as >= 0:
                return inode
            found = self._descriptors.open(name, REFERENCE, dir_fd=parent.descriptor, brief=True)
            inode = self._same(os.fstat(found), found)
            if inode is None:
                self._descriptors.close(found)
            else:
                self._take(inode, found)
            return inode
        return None

    # Forgetting

    def drop(self, inode: Inode) -> None:
        """Close what stands for ``inode``. Works twice."""
        self.open.leave(inode)
        self._close(inode)
        self._forget_who(inode)
        inode.open_as = DROPPED

    def drop_all(self) -> None:
        """Close everything, the root too."""
        for inode in list(self._known.values()):
            self.drop(inode)

    def _forget_who(self, inode: Inode) -> None:
        """Nothing is found under this inode's number and names any more; closed it is ESTALE."""
        if self._known.get(inode.number) is inode:
            del self._known[inode.number]
            if self._descriptors.sharer is not None:
                self._descriptors.sharer.disowned(*inode.key)
        if inode.mount is not None:
            self._mounts.leave(inode.mount)
        inode.mount = inode.mark = inode.parent = None

    # Closing

    def _take(self, inode: Inode, descriptor: int) -> None:
        """Let ``descriptor`` be the one of ``inode``, unless it has one."""
        if inode.open_as >= 0:
            self._descriptors.close(descriptor)
        else:
            self._keep(inode, descriptor)

    def _keep(self, inode: Inode, descriptor: int) -> int:
        inode.open_as = descriptor
        self.open.enter(inode)
        if self._descriptors.sharer is not None:
            self._descriptors.sharer.reopened(*inode.key, descriptor, named=inode.mount is None)
        self._descriptors.relieve()
        return descriptor

    def _close(self, inode: Inode) -> None:
        descriptor, inode.open_as = inode.open_as, CLOSED
        if descriptor >= 0:
            # Nothing was written through an O_PATH descriptor, so there is no error worth telling.
            with contextlib.suppress(OSError):
                self._descriptors.close(descriptor)

    def _remember(self, inode: Inode) -> bool:
        """Note who this is before it is closed, and tell whether it could be opened again."""
        self._by_name = True
        who = identity_of(inode.open_as)
        inode.mark = who.mark
        if inode.mount is not None and inode.mount.mount_id != who.mount_id:
            self._mounts.leave(inode.mount)
            inode.mount = None
        try:
            named = os.fstat(inode.open_as).st_nlink
        except OSError:
            return False
        return bool(named) and who.mark is not None and (inode.mount is not None or _has_place(inode))

    # Opening again

    def reopen(self, inode: Inode) -> int:
        """Give ``inode`` a descriptor again.

        Raises:
            OSError: ESTALE, it is gone, or not where it was; EBADF after ``drop``.
        """
        if inode.open_as == DROPPED:
            raise refusal(errno.EBADF)
        if inode.mount is not None and isinstance(inode.mark, bytes):
            descriptor = self._descriptors.open_by_handle(inode.mount.descriptor, inode.mark)
        else:
            descriptor = self._open_by_names(inode)
        try:
            status = os.fstat(descriptor)
            if number_of(status) != inode.number or stat.S_IFMT(status.st_mode) != inode.type:
                raise refusal(errno.ESTALE)
        except OSError:
            self._descriptors.close(descriptor)
            raise
        return self._keep(inode, descriptor)

    def _open_by_names(self, inode: Inode) -> int:
        try:
            descriptor = self._walk(inode)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise refusal(errno.ESTALE) from error
        if identity_of(descriptor).mark != inode.mark:
            self._descriptors.close(descriptor)
            raise refusal(errno.ESTALE)
        return descriptor

    def _walk(self, inode: Inode) -> int:
        """Open what stands at an inode's place now, from the nearest directory above it that is open."""
        names: list[bytes] = []
        above = inode
        while above.open_as < 0:
            # Renames by the host can leave places that lie in each other.
            if above.parent is None or inode.mark is None or len(names) == MAX_DEPTH:
                raise refusal(errno.ESTALE)
            names.append(above.name)
            above = above.parent
        return self._descriptors.descend(above.open_as, reversed(names), REFERENCE)


def number_of(status: os.stat_result) -> int:
    """The ``Inode.number`` of who has these attributes."""
    return status.st_dev << NUMBER_BITS | status.st_ino


def _has_place(inode: Inode) -> bool:
    return inode.parent is not None and inode.parent.open_as != DROPPED


def _unlearn(inode: Inode, parent: Inode, name: bytes) -> None:
    if inode.parent is parent and inode.name == name:
        inode.parent = None
