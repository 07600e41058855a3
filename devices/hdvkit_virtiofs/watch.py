"""Who else answers a guest from the same tables: told of every node and file, asked for those that it alone knows."""

from typing import Generic, NamedTuple, Protocol, TypeVar

from hdvkit_virtiofs.fuse import Session

NodeKept = TypeVar("NodeKept")
HandleKept = TypeVar("HandleKept")


class Taken(NamedTuple, Generic[HandleKept]):
    """An open file that is taken over."""

    handle: HandleKept
    flags: int
    directory: bool


class Watch(Protocol[NodeKept, HandleKept]):
    """What a server says to whoever answers requests beside it. Called on the loop, each before its answer is out.

    Either side may give the guest nodes and open files. What this side asks about becomes its own, with its number.
    """

    def agreed(self, session: Session) -> None:
        """What the guest and the host speak has changed: a session began, or ended."""
        ...

    def entered(self, nodeid: int, node: NodeKept) -> int:
        """The guest is given a node: the number it knows it by, another one where it was given it elsewhere."""
        ...

    def met(self, nodeid: int) -> NodeKept | None:
        """Take over the node that was given out elsewhere under this number, if one was."""
        ...

    def given(self, nodeid: int) -> int:
        """How many references on a node of this side were given out elsewhere since this was asked last."""
        ...

    def dropped(self, nodeid: int) -> int:
        """The guest gave up its last reference: forget it and return 0, or as ``given`` where there are more."""
        ...

    def forgotten(self, nodeid: int, count: int) -> None:
        """The guest gives up references on a node this side does not know."""
        ...

    def count(self) -> int:
        """How many nodes this side does not know."""
        ...

    def opened(self, fh: int, nodeid: int, handle: HandleKept, *, readable: bool, writable: bool) -> None:
        """The guest has a file open, not a directory."""
        ...

    def taken(self, fh: int, nodeid: int) -> Taken[HandleKept] | None:
        """Take over the file that was opened elsewhere, if it was."""
        ...

    def closed(self, fh: int) -> None:
        """It has closed it."""
        ...

    def cleared(self) -> None:
        """It knows nothing any more but the root, which is entered again."""
        ...
