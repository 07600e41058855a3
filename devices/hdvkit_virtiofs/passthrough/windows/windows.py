"""A directory of a Windows host as a file system for one guest: each operation as calls of ntdll.

Names are looked up one component at a time below a handle, exactly as they are spelled, and never along a path or
through a reparse point, so nothing a guest or a host process renames leads out of the share.
"""

import contextlib
import errno
import os

from hdvkit_virtiofs.fuse.answers import Attributes, Changes, Context, Entry, Opened, StatFs, Statx
from hdvkit_virtiofs.fuse.spec import O_EXCL, O_TRUNC, RENAME_NOREPLACE, InitFlag
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.windows import files, layouts, links, nt, times
from hdvkit_virtiofs.passthrough.windows.answers import answers
from hdvkit_virtiofs.passthrough.windows.binding import Handle
from hdvkit_virtiofs.passthrough.windows.changing import change
from hdvkit_virtiofs.passthrough.windows.files import File
from hdvkit_virtiofs.passthrough.windows.layouts import Facts
from hdvkit_virtiofs.passthrough.windows.making import Maker
from hdvkit_virtiofs.passthrough.windows.metadata import Owners, allows
from hdvkit_virtiofs.passthrough.windows.moving import Mover
from hdvkit_virtiofs.passthrough.windows.nodes import Node
from hdvkit_virtiofs.passthrough.windows.open_files import OpenFiles
from hdvkit_virtiofs.passthrough.windows.tree import Tree
from hdvkit_virtiofs.passthrough.windows.volume import ASKING, LOOKING
from hdvkit_virtiofs.passthrough.workers import Workers

CREATE_ATTEMPTS = 16
"""How often ``create`` looks again at a name that host processes make and remove under our hands."""


class WindowsPassthrough(OpenFiles):
    """The directory ``source``, whatever it is called later.

    With ``writeback`` the guest collects writes in its page cache; say so when the share does. ``threads`` caps the
    calls that wait on the disk at the same time.

    Files belong to ``uid`` and ``gid``, and have all permissions less ``fmask`` (directories: ``dmask``), which are
    ``umask`` unless given. With ``metadata`` owner, group and mode are kept in extended attributes as WSL does. With
    ``case_sensitive`` directories the guest makes tell names apart by their case, as WSL's ``case=dir``; lookups are
    exact in any case. Without ``symlinks`` the guest makes no symbolic links, which are WSL's.

    Extended attributes of a guest are not kept (ENOSYS): those of NTFS forget the case of their names, so two names
    would be one. Nor are there device controls (ENOTTY).

    ``by_id`` says whether files are opened by their id; None asks the volume.

    Raises:
        OSError: ``source`` cannot be shared; ``strerror`` is a sentence that names it and the reason.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        writeback: bool = False,
        read_only: bool = False,
        locks: bool = True,
        uid: int = 0,
        gid: int = 0,
        umask: int = 0,
        fmask: int | None = None,
        dmask: int | None = None,
        metadata: bool = False,
        case_sensitive: bool = False,
        symlinks: bool = True,
        threads: int = 8,
        by_id: bool | None = None,
    ) -> None:
        owners = Owners(
            uid, gid, umask if fmask is None else fmask, umask if dmask is None else dmask, metadata=metadata
        )
        tree = _open_source(source, owners, by_id)
        super().__init__(tree, Workers(threads), writeback=writeback, locks=locks)
        self.init_flags |= InitFlag.CACHE_SYMLINKS
        self._maker = Maker(tree, case_sensitive, symlinks)
        self._mover = Mover(tree)
        self.root = tree.root

    # Nodes and names

    @answers
    async def lookup(self, parent: Node, name: bytes, context: Context) -> Entry[Node]:
        """Find one component by its exact name; a link is found as itself."""
        return self._entry(*self._tree.find(parent, name))

    def forget(self, node: Node) -> None:
        """Let go of what is kept for the file."""
        if not node.is_root:
            self._tree.nodes.drop(node)

    @answers
    async def getattr(self, node: Node, handle: File | None, context: Context) -> Attributes:
        """Ask the file, also when no name is left but somebody has it open."""
        return self._tree.attributes_of(node)

    @answers
    async def setattr(self, node: Node, changes: Changes, handle: File | None, context: Context) -> Attributes:
        """Change the file; the time of change is the host's own."""
        return change(self._tree, node, changes, handle)

    @answers
    async def statx(self, node: Node, handle: File | None, context: Context) -> Statx:
        """Tell the time of birth."""
        with self._tree.volume.asked(node) as asked:
            facts = self._tree.volume.facts(asked)
            return Statx(self._tree.attributes(asked, facts), times.to_unix(facts.birth))

    @answers
    async def access(self, node: Node, mask: int, context: Context) -> None:
        """Judge by the mode bits for the guest's caller, not for the user this process runs as."""
        if not allows(self._tree.attributes_of(node), mask, context):
            raise refusal(errno.EACCES)

    @answers
    async def readlink(self, node: Node, context: Context) -> bytes:
        """Return the target; one that Windows made has slashes."""
        if not node.is_link:
            raise refusal(errno.EINVAL)
        with self._tree.volume.asked(node) as asked:
            return links.target(nt.control(asked, layouts.GET_REPARSE_POINT, b"", links.LONGEST)[0])

    # Making and removing names

    @answers
    async def create(
        self, parent: Node, name: bytes, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Node], Opened[File]]:
        """Make the file, or open what has exactly this name; EEXIST when Windows takes another name for the same."""
        for _ in range(CREATE_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):
                found, facts = self._tree.find(parent, name)
                if flags & O_EXCL:
                    found.close()
                    raise refusal(errno.EEXIST)
                entry = self._entry(found, facts)
                return entry, self._open(entry.node, flags)
            try:
                return self._create(parent, name, mode, flags, context)
            except FileExistsError:
                if not self._exists(parent, name):
                    raise
        raise refusal(errno.EBUSY)

    def _create(
        self, parent: Node, name: bytes, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Node], Opened[File]]:
        access = files.access_of(flags, writeback=self._writeback)
        made = self._maker.file(parent, name, mode, access, files.options_of(flags), context)
        try:
            entry = self._made(nt.open_again(made, ASKING, nt.OPEN_REPARSE_POINT))
        except OSError:
            made.close()
            raise
        return entry, self._opened(entry.node, made, flags & ~O_TRUNC)

    def _exists(self, parent: Node, name: bytes) -> bool:
        try:
            self._tree.find(parent, name)[0].close()
        except FileNotFoundError:
            return False
        return True

    @answers
    async def mknod(self, parent: Node, name: bytes, mode: int, rdev: int, context: Context) -> Entry[Node]:
        """Make a regular file, fifo, socket or whiteout; other device nodes are EPERM."""
        return self._made(self._maker.node(parent, name, mode, rdev, context))

    @answers
    async def mkdir(self, parent: Node, name: bytes, mode: int, context: Context) -> Entry[Node]:
        """Make a directory."""
        return self._made(self._maker.directory(parent, name, mode, context))

    @answers
    async def symlink(self, parent: Node, name: bytes, target: bytes, context: Context) -> Entry[Node]:
        """Make a link. Where it points does not matter: nothing here follows it."""
        return self._made(self._maker.link(parent, name, target, context))

    @answers
    async def tmpfile(self, parent: Node, mode: int, flags: int, context: Context) -> tuple[Entry[Node], Opened[File]]:
        """EOPNOTSUPP: files of Windows are born with a name. Programs make one and remove it then."""
        raise refusal(errno.EOPNOTSUPP)

    @answers
    async def link(self, node: Node, parent: Node, name: bytes, context: Context) -> Entry[Node]:
        """Name the file once more. One whose last name is gone stays gone."""
        if node.is_directory:
            raise refusal(errno.EPERM)
        return self._entry(*self._mover.link(node, parent, name))

    @answers
    async def unlink(self, parent: Node, name: bytes, context: Context) -> None:
        """Remove the name; open files read on."""
        self._mover.remove(parent, name, directory=False)

    @answers
    async def rmdir(self, parent: Node, name: bytes, context: Context) -> None:
        """Remove an empty directory."""
        self._mover.remove(parent, name, directory=True)

    @answers
    async def rename(
        self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int, context: Context
    ) -> None:
        """Move a name. Windows has no exchange, and nothing that leaves a whiteout: EINVAL, as where Linux cannot."""
        if flags & ~RENAME_NOREPLACE:
            raise refusal(errno.EINVAL)
        self._mover.rename(parent, name, new_parent, new_name, flags)

    # The whole file system

    @answers
    async def statfs(self, node: Node, context: Context) -> StatFs:
        """Tell of the volume. It counts no files."""
        space = self._tree.volume.space()
        unit = space.sectors * space.sector
        return StatFs(space.total, space.free, space.available, 0, 0, bsize=unit, frsize=unit)

    @answers
    async def syncfs(self, node: Node, context: Context) -> None:
        """Wait for what this guest has open for writing; only an administrator may flush the whole volume."""
        for file in [file for file in self._files if file.writable]:
            with file:
                await self._workers.run(nt.flush, file.handle)

    async def aclose(self) -> None:
        """Close everything; a call still running in a thread closes its file when it ends."""
        self._close_files()
        self._tree.close()
        self._workers.close()

    def _made(self, handle: Handle) -> Entry[Node]:
        return self._entry(handle, self._tree.volume.facts(handle))

    def _entry(self, handle: Handle, facts: Facts) -> Entry[Node]:
        try:
            attributes = self._tree.attributes(handle, facts)
        except OSError:
            handle.close()
            raise
        return Entry(self._tree.adopt(handle, facts), attributes)


def _open_source(source: str | os.PathLike[str], owners: Owners, by_id: bool | None) -> Tree:
    """Pin the directory, and see that it can be listed."""
    path = os.fspath(source)
    try:
        root = nt.open_path(_nt_path(path), LOOKING, nt.DIRECTORY_FILE)
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO).lower()
        raise OSError(error.errno, f"cannot share {path!r}: {reason}") from error
    tree = Tree(root, owners, by_id)
    if owners.metadata and not tree.volume.keeps_eas:
        tree.close()
        system = tree.volume.system.name
        raise OSError(errno.EOPNOTSUPP, f"cannot share {path!r} with metadata: {system} keeps no extended attributes")
    return tree


def _nt_path(path: str) -> str:
    """A path as a person writes it, for ntdll. Long ones are as good as short ones there."""
    full = os.path.abspath(path)
    if full.startswith(("\\\\?\\", "\\\\.\\")):
        return f"\\??\\{full[4:]}"
    return f"\\??\\UNC\\{full[2:]}" if full.startswith("\\\\") else f"\\??\\{full}"
