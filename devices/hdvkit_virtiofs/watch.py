"""Who else answers a guest from the same tables: told of every node and file, and asked what it has given out."""

from typing import Protocol, TypeVar

from hdvkit_virtiofs.fuse import Session

NodeSeen = TypeVar("NodeSeen", contravariant=True)
HandleSeen = TypeVar("HandleSeen", contravariant=True)


class Watch(Protocol[NodeSeen, HandleSeen]):
    """What a server tells whoever answers requests beside it. Called on the loop, each before its answer is out."""

    def agreed(self, session: Session) -> None:
        """What the guest and the host speak has changed: a session began, or ended."""
        ...

    def entered(self, nodeid: int, node: NodeSeen) -> None:
        """The guest knows a node by this number from now on."""
        ...

    def given(self, nodeid: int) -> int:
        """How many references on it were given out elsewhere since this was asked last."""
        ...

    def dropped(self, nodeid: int) -> int:
        """The guest gave up its last reference: forget it and return 0, or as ``given`` where there are more."""
        ...

    def opened(self, fh: int, nodeid: int, handle: HandleSeen, *, readable: bool, writable: bool) -> None:
        """The guest has a file open, not a directory."""
        ...

    def closed(self, fh: int) -> None:
        """It has closed it."""
        ...

    def cleared(self) -> None:
        """It knows nothing any more but the root, which is entered again."""
        ...
