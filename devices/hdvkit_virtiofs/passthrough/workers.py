"""Threads for calls that may wait on a disk or a network. Knows nothing of files."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

import anyio

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Workers:
    """At most ``count`` blocking calls at once, none of which outlives the method that asked for it."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="hdvkit-files")

    async def run(
        self, call: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Return what ``call`` returns in a thread.

        Cancelled before the call began, it is not made. Cancelled later, this waits for its end first: it may
        be filling guest pages that are taken away when the caller's method ends.
        """
        job = self._pool.submit(partial(call, *args, **kwargs))
        ended = asyncio.wrap_future(job)
        try:
            # anyio.to_thread shields from cancel scopes only; a plain Task.cancel() would leave the thread behind.
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            if not job.cancel():
                await _end_of(ended)
            raise

    def close(self) -> None:
        """Start nothing any more; what runs ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def _end_of(future: asyncio.Future[Result]) -> None:
    with anyio.CancelScope(shield=True):
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((future,))
    future.exception()  # looked at, or asyncio reports an error nobody is left to hear
