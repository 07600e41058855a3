"""Waiting for what must not be left half done."""

import asyncio
from typing import TypeVar

Result = TypeVar("Result")


async def finish(doing: "asyncio.Future[Result]") -> Result:
    """Wait for a task or future; a cancellation of the caller waits for it too, and is raised then."""
    cancelled = None
    while not doing.done():
        try:
            await asyncio.wait([doing])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not doing.cancelled():
            doing.exception()  # looked at: the caller will never hear of it
        raise cancelled
    return doing.result()
