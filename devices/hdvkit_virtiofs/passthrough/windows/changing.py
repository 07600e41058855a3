"""How attributes of files of Windows change: all that was asked for, or nothing."""

import contextlib
import errno
import stat
from typing import Final

from hdvkit_virtiofs.fuse.answers import Attributes, Changes
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.windows import layouts, metadata, nt, times
from hdvkit_virtiofs.passthrough.windows.binding import Handle
from hdvkit_virtiofs.passthrough.windows.files import WRITING, File
from hdvkit_virtiofs.passthrough.windows.nodes import Node
from hdvkit_virtiofs.passthrough.windows.tree import Tree
from hdvkit_virtiofs.passthrough.windows.volume import ASKING

_NO_ID: Final = 2**32 - 1


def change(tree: Tree, node: Node, changes: Changes, file: File | None) -> Attributes:
    """Apply ``changes`` and return the attributes that result. Times come last, because truncation moves them.

    Without ``metadata`` a mode sets or clears the read-only bit of Windows, by whether anybody may write, and the rest
    of it is not kept, as on every file system of Windows.

    Raises:
        OSError: EPERM, a new owner where none can be kept; else Windows' answer.
    """
    _check(node, changes)
    access = ASKING | nt.WRITE_ATTRIBUTES
    if tree.owners.metadata:
        access |= nt.WRITE_EA
    with contextlib.ExitStack() as cleanup, contextlib.ExitStack() as undo:
        writable = None
        if changes.size is not None:
            writable = _writable(tree, node, file, cleanup)
        handle = cleanup.enter_context(tree.volume.asked(node, access))
        facts = tree.volume.facts(handle)
        before = tree.attributes(handle, facts)
        if changes.mode is not None or changes.uid is not None or changes.gid is not None:
            undo.callback(_put_back, tree, handle, before, facts)
            _set_owner_and_mode(tree, handle, facts, before, changes)
        if writable is not None and changes.size is not None:
            nt.set_information(writable, layouts.END_OF_FILE, layouts.size(changes.size))
        if changes.atime_ns is not None or changes.mtime_ns is not None:
            nt.set_information(handle, layouts.BASIC, layouts.basic(_time(changes.atime_ns), _time(changes.mtime_ns)))
        undo.pop_all()
        return tree.attributes(handle)


def _check(node: Node, changes: Changes) -> None:
    if _NO_ID in (changes.uid, changes.gid) or (changes.size is not None and changes.size < 0):
        raise refusal(errno.EINVAL)
    if node.is_link and changes.mode is not None:
        raise refusal(errno.EOPNOTSUPP)
    if changes.size is not None and node.kind != stat.S_IFREG:
        raise refusal(errno.EISDIR if node.is_directory else errno.EINVAL)


def _writable(tree: Tree, node: Node, file: File | None, cleanup: contextlib.ExitStack) -> Handle:
    """What to truncate by: the guest's own, or a handle for this moment."""
    if file is not None and file.writable:
        cleanup.enter_context(file)
        return file.handle
    return cleanup.enter_context(tree.volume.open(node, WRITING, nt.NON_DIRECTORY_FILE))


def _set_owner_and_mode(tree: Tree, handle: Handle, facts: layouts.Facts, before: Attributes, changes: Changes) -> None:
    if tree.owners.metadata:
        values = metadata.changed(before, changes.mode, changes.uid, changes.gid)
        nt.set_eas(handle, layouts.eas(values))
    elif changes.uid not in (None, before.uid) or changes.gid not in (None, before.gid):
        raise refusal(errno.EPERM)
    if changes.mode is not None and stat.S_ISREG(before.mode):
        _set_read_only(handle, facts.attributes, read_only=not changes.mode & metadata.WRITE_BITS)


def _set_read_only(handle: Handle, attributes: int, *, read_only: bool) -> None:
    wanted = attributes | layouts.READONLY if read_only else attributes & ~layouts.READONLY
    if wanted != attributes:
        nt.set_information(handle, layouts.BASIC, layouts.basic(attributes=wanted or layouts.NORMAL))


def _put_back(tree: Tree, handle: Handle, before: Attributes, facts: layouts.Facts) -> None:
    with contextlib.suppress(OSError):  # the guest is told of the error that brought us here
        if tree.owners.metadata:
            values = metadata.changed(before, before.mode, before.uid, before.gid)
            nt.set_eas(handle, layouts.eas(values))
        nt.set_information(handle, layouts.BASIC, layouts.basic(attributes=facts.attributes or layouts.NORMAL))


def _time(nanoseconds: int | None) -> int:
    return times.UNCHANGED if nanoseconds is None else times.to_windows(nanoseconds)
