"""What all examples of a run share: one host, one directory shared twice, its plain sibling, and the counts."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import hdvkit
from hdvkit.testing.guest import Guest
from hdvkit.testing.mount import GuestMount

T = TypeVar("T")

RINGS_AND_MINORS = ((False, 38), (True, 46))
"""Two guests: one as Linux 6.1, and one with a packed ring that knows what came later, STATX and a longer copy."""


class Bench:
    """One event loop, one host, one directory shared twice, and its plain sibling."""

    def __init__(self, folder: Path) -> None:
        self.shared = folder / "shared"
        self.plain = folder / "plain"
        self.shared.mkdir()
        self.plain.mkdir()
        self.examples = 0
        self.steps = 0
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """How often what was done ended how: "ok" or the name of an errno."""
        self.loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self.mounts: list[GuestMount] = []
        self.shares: list[hdvkit.Function] = []
        self.run(self._open())

    async def _open(self) -> None:
        host = await self._stack.enter_async_context(hdvkit.open_host("sim"))
        for packed, minor in RINGS_AND_MINORS:
            share = await host.add("virtiofs", source=self.shared, tag=f"7.{minor}", queues=2)
            self.shares.append(share)
            mount = await self._stack.enter_async_context(Guest.of(host).mount(share, packed=packed, minor=minor))
            self.mounts.append(mount)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Let the loop turn until the call is done."""
        return self.loop.run_until_complete(call)

    def close(self) -> None:
        """Unmount and remove everything."""
        self.run(self._stack.aclose())
        self.loop.close()

    @property
    def served(self) -> Counter[str]:
        """How often an opcode was sent and not answered with an error."""
        return sum((mount.requests - mount.refused for mount in self.mounts), Counter())

    def table(self) -> str:
        """How often what succeeded and how it failed, for people."""
        lines = []
        for what in sorted({what for what, _ in self.outcomes}):
            found = sorted((outcome, count) for (name, outcome), count in self.outcomes.items() if name == what)
            lines.append(f"{what:20} " + ", ".join(f"{outcome} {count}" for outcome, count in found))
        return "\n".join([*lines, "", *(f"{name:20} {count}" for name, count in sorted(self.served.items()))])
