"""A file system is a class: here a JSON document, seen by the guest as folders and files. Read-only."""
# ruff: noqa: T201 - an example prints what it sees

import asyncio
import errno
import itertools
import json
import stat
from collections.abc import Iterable, Iterator

from hdvkit_virtiofs import Attributes, Context, DirEntry, Entry, FuseError, Operations

import hdvkit
from hdvkit.testing import Guest

DOCUMENT = '{"name": "hdvkit", "hosts": {"sim": "works", "hdv": "planned"}, "kinds": ["rng", "virtiofs"]}'


class Node:
    """An object of the document is a folder, anything else a file."""

    def __init__(self, value: object, numbers: Iterator[int]) -> None:
        self.ino = next(numbers)
        self.names: dict[bytes, Node] = {}
        self.data = b""
        if isinstance(value, dict):
            self.names = {name.encode(): Node(inner, numbers) for name, inner in value.items()}
            self.mode = stat.S_IFDIR | 0o555
        else:
            self.data = json.dumps(value).encode() + b"\n"
            self.mode = stat.S_IFREG | 0o444


class JsonFileSystem(Operations[Node, None]):
    """Four methods: find a name, tell attributes, list a folder, read a file. The rest is ENOSYS by itself."""

    def __init__(self, text: str) -> None:
        self.root = Node(json.loads(text), itertools.count(1))

    async def lookup(self, parent: Node, name: bytes, context: Context) -> Entry[Node]:
        """Find a name in a folder."""
        if name not in parent.names:
            raise FuseError(errno.ENOENT)
        return Entry(parent.names[name], attributes(parent.names[name]))

    async def getattr(self, node: Node, handle: None, context: Context) -> Attributes:
        """What ``stat`` shows."""
        return attributes(node)

    async def readdir(self, node: Node, handle: None, offset: int, context: Context) -> Iterable[DirEntry]:
        """List a folder; the offset of an entry is where the listing goes on behind it."""
        entries = enumerate(node.names.items(), start=1)
        return [DirEntry(name, one.ino, stat.S_IFMT(one.mode), at) for at, (name, one) in entries if at > offset]

    async def read(self, node: Node, handle: None, offset: int, size: int, context: Context) -> bytes:
        """A part of a file; fewer bytes only at its end."""
        return node.data[offset : offset + size]


def attributes(node: Node) -> Attributes:
    """What ``stat`` shows of a node."""
    return Attributes(node.ino, node.mode, size=len(node.data))


async def main() -> None:
    """Serve the document, and look at it from the guest."""
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=JsonFileSystem(DOCUMENT), tag="document", read_only=True)
        async with Guest.of(host).mount(share) as mount:
            for entry in await mount.scandir():
                print(f"{entry.name}{'/' if entry.is_dir() else ''}")
            print("hosts/sim says", (await mount.read_text("hosts/sim")).strip())
            try:
                await mount.write_text("name", "mine")
            except OSError as error:
                print("writing fails:", errno.errorcode[error.errno or 0])


if __name__ == "__main__":
    asyncio.run(main())
