"""Where a refusal of Windows becomes an answer to the guest, and how long one of them is waited out."""

import asyncio
import errno
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.passthrough.errors import answers_errno

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

PAUSES: Final = (0.01, 0.04, 0.15)
"""Seconds between tries while a host program has a file for itself: scanners and indexers let go of it soon."""


def answers(
    method: Callable[Parameters, Coroutine[Any, Any, Result]],
) -> Callable[Parameters, Coroutine[Any, Any, Result]]:
    """Decorate an operation: OSError ends it as FuseError; one that is EBUSY, having done nothing, is tried again."""
    attempt = answers_errno(method)

    @functools.wraps(method)
    async def answering(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        for pause in PAUSES:
            try:
                return await attempt(*args, **kwargs)
            except FuseError as error:
                if error.errno != errno.EBUSY:
                    raise
            await asyncio.sleep(pause)
        return await attempt(*args, **kwargs)

    return answering
