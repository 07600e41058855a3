"""The model, joined: which rules there are, and which opcodes they are to reach."""

from hdvkit_virtiofs.fuse.spec import Opcode
from hdvkit_virtiofs.handlers import HANDLERS

from virtiofs_model.attributes import Attributes
from virtiofs_model.contents import Contents
from virtiofs_model.locks import Locks
from virtiofs_model.names import Names
from virtiofs_model.open_files import OpenFiles
from virtiofs_model.sessions import Sessions

SERVED = {Opcode(opcode).name for opcode in HANDLERS} | {"FORGET", "INTERRUPT"}
"""Every opcode the server serves: by a handler, and the two that never wait for one."""


class Model(Contents, Names, Attributes, OpenFiles, Locks, Sessions):
    """Does everything twice."""
