"""Embedding: share a folder with a guest, let the guest use it, take it away again.

The guest is the simulated one, so this runs anywhere. With a real machine only the argument of ``open_host``
changes, and what the guest does is none of our code.
"""
# ruff: noqa: T201 - an example prints what it sees

import asyncio
import tempfile
from pathlib import Path

import hdvkit
from hdvkit.testing import Guest


async def main() -> None:
    """One share, from its folder to its end."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "question.txt").write_text("What does the guest see?\n")

        async with hdvkit.open_host("sim") as host:
            share = await host.add("virtiofs", source=folder, tag="job")

            async with Guest.of(host).mount(share) as mount:
                await share.ready()  # the guest's driver is up
                print("the guest reads:", (await mount.read_text("question.txt")).strip())
                await mount.write_text("answer.txt", "The same files as the host.\n")

            print("the host reads: ", (folder / "answer.txt").read_text().strip())
            queue = share.stats().queues[1]
            print(f"served:          {queue.chains} requests on queue {queue.name}")
            print("the share is:   ", await host.remove(share))


if __name__ == "__main__":
    asyncio.run(main())
