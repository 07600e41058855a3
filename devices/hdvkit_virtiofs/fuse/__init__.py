"""The FUSE codec: requests from bytes, replies to bytes, and the session between INIT and DESTROY.

Does no I/O, waits for nothing and imports nothing of hdvkit. A device reads it in this order: :mod:`.requests`
(header, lengths, body), :mod:`.messages` (what came out), :mod:`.session` (may it come now), :mod:`.replies`.
File systems need :mod:`.answers` and :mod:`.errors` only. The tables are :mod:`.spec` and :mod:`.layouts`.
"""

from hdvkit_virtiofs.fuse.answers import (
    Attributes,
    Changes,
    Context,
    DirEntry,
    Entry,
    FileLock,
    Opened,
    StatFs,
    Statx,
)
from hdvkit_virtiofs.fuse.decoders import is_name
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.messages import FileHandle, InHeader, NodeId, Request
from hdvkit_virtiofs.fuse.replies import DirectoryWriter
from hdvkit_virtiofs.fuse.requests import (
    BrokenRequest,
    body_size,
    check_length,
    check_payload,
    decode,
    decode_header,
    takes_reply,
)
from hdvkit_virtiofs.fuse.session import Session, State
from hdvkit_virtiofs.fuse.spec import InitFlag, Opcode, OpenReply

__all__ = [
    "Attributes",
    "BrokenRequest",
    "Changes",
    "Context",
    "DirEntry",
    "DirectoryWriter",
    "Entry",
    "FileHandle",
    "FileLock",
    "FuseError",
    "InHeader",
    "InitFlag",
    "NodeId",
    "Opcode",
    "OpenReply",
    "Opened",
    "Request",
    "Session",
    "StatFs",
    "State",
    "Statx",
    "body_size",
    "check_length",
    "check_payload",
    "decode",
    "decode_header",
    "is_name",
    "takes_reply",
]
