"""Shares in guests: booting with them, and one folder as both sides see it."""

import asyncio
import contextlib
import os
import textwrap
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import attrs
from hdvkit_virtiofs import VirtioFs
from hdvkit_vm import Assets, GuestCommandFailed, VirtualMachine

import hdvkit
from hdvkit import Function

LONG = os.environ.get("HDVKIT_E2E") == "long"
"""Whether everything runs as often and as long as it can, by ``make e2e-long``."""

LIMIT = 3000.0 if LONG else 300.0
"""Seconds for one step. The longest takes 15 where nothing else runs."""


@contextlib.asynccontextmanager
async def booted(
    kernel: str,
    assets: Assets,
    room: Path,
    log: Path,
    shares: Sequence[VirtioFs],
    *,
    packed: bool = True,
    **hardware: Any,
) -> AsyncIterator[tuple[VirtualMachine, list[Function]]]:
    """A guest that has mounted each share on a directory called by its tag, and the shares' functions."""
    async with hdvkit.open_host("vfio-user", directory=room, packed=packed) as host:
        functions = [await host.add(share) for share in shares]
        sockets = [function.place["socket"] for function in functions]
        async with VirtualMachine(kernel, sockets=sockets, log=log, assets=assets, **hardware) as vm:
            async with asyncio.timeout(LIMIT):
                for function in functions:
                    await function.ready()
            for share in shares:
                await vm.run(f"mkdir /{share.tag} && mount -t virtiofs {share.tag} /{share.tag}")
            yield vm, functions


def tools(assets: Assets) -> VirtioFs:
    """The share ``/tools``, in which guests find their Python."""
    return VirtioFs(source=assets.tools, tag="tools", read_only=True, cache="always")


@attrs.frozen
class Folder:
    """One folder as both sides see it."""

    vm: VirtualMachine
    host: Path
    guest: str

    def sub(self, name: str) -> "Folder":
        """A new folder in this one."""
        (self.host / name).mkdir()
        return Folder(self.vm, self.host / name, f"{self.guest}/{name}")

    async def sh(self, script: str) -> str:
        """What a script writes that runs there; each of its commands must succeed."""
        return await self.vm.run(f"set -e; cd {self.guest}\n{script}", timeout=LIMIT)

    async def sh_fails(self, script: str) -> str:
        """What a script writes that must fail."""
        try:
            output = await self.sh(script)
        except GuestCommandFailed as error:
            return error.output
        raise AssertionError(f"{script!r} should have failed; it wrote {output!r}")

    async def python(self, code: str) -> str:
        """What a Python script writes; needs the share of ``tools``."""
        return await self.sh(f"/tools/python - <<'END OF CODE'\n{textwrap.dedent(code)}\nEND OF CODE")

    def names(self) -> list[str]:
        """What the host lists there."""
        return sorted(os.listdir(self.host))  # noqa: PTH208 - names, not paths

    def read(self, name: str) -> bytes:
        """What the host reads there."""
        return (self.host / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Have the host write."""
        (self.host / name).write_bytes(data)
