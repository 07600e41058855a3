"""Counts the turns of the loop, where a test asks how much is done in one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """``number`` grows by one in each turn, as long as ``counted`` is entered."""

    def __init__(self) -> None:
        self.number = 0

    @asynccontextmanager
    async def counted(self) -> AsyncIterator[None]:
        """Count."""
        task = asyncio.create_task(self._count())
        try:
            yield
        finally:
            task.cancel()

    async def _count(self) -> None:
        while True:
            self.number += 1
            await asyncio.sleep(0)
