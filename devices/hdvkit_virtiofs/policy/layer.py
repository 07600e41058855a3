"""What stands between a guest and a file system: a file system in front of another."""

from typing import Any, Generic

from hdvkit_virtiofs.fuse.answers import Handle, Node
from hdvkit_virtiofs.operations import Operations

_METHODS = tuple(name for name, value in vars(Operations).items() if callable(value) and not name.startswith("_"))


class Layer(Operations[Node, Handle], Generic[Node, Handle]):
    """Overrides what it has a say in, and calls ``self.inner``; everything else goes straight to that.

    Nodes and handles are those of the innermost file system. Of ``read`` and ``write`` the device calls only
    ``read_into`` and ``write_from``, so those are the ones to override.
    """

    def __init__(self, inner: Operations[Node, Handle]) -> None:
        self.inner = inner
        self.root = inner.root
        self.init_flags = inner.init_flags
        for name in _METHODS:
            if getattr(type(self), name) is getattr(Operations, name):
                setattr(self, name, getattr(inner, name))


def innermost(operations: Operations[Any, Any]) -> Operations[Any, Any]:
    """The file system behind all layers."""
    while isinstance(operations, Layer):
        operations = operations.inner
    return operations
