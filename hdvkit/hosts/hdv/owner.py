"""The one thread of the process that Windows is called on where a call may block, or must be on the thread of another.

A device host is torn down on the thread that made it, and two are never made at once: calls run one after the other.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from hdvkit.runtime.finishing import finish

log = logging.getLogger("hdvkit.hdv")

Result = TypeVar("Result")

_calls: "queue.SimpleQueue[Callable[[], None]]" = queue.SimpleQueue()
_starting = threading.Lock()
_thread: threading.Thread | None = None


async def call(function: Callable[[], Result]) -> Result:
    """Run ``function`` there. It is waited for even when the caller is cancelled: nobody else can undo it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def run() -> None:
        try:
            answer = function()
        except BaseException as error:
            loop.call_soon_threadsafe(done.set_exception, error)
        else:
            loop.call_soon_threadsafe(done.set_result, answer)

    submit(run)
    return await finish(done)


def submit(function: Callable[[], None]) -> None:
    """Run ``function`` there some time, after all that was given before. What it raises is only logged."""
    global _thread
    with _starting:
        if _thread is None:
            _thread = threading.Thread(target=_run, name="hdvkit-hdv", daemon=True)
            _thread.start()
    _calls.put(function)


def call_and_wait(function: Callable[[], None], timeout: float) -> None:
    """Run ``function`` there, without an event loop: for the end of the process."""
    done = threading.Event()

    def run() -> None:
        try:
            function()
        finally:
            done.set()

    submit(run)
    done.wait(timeout)


def _run() -> None:
    while True:
        function = _calls.get()
        try:
            function()
        except Exception:  # a bug of ours; without the thread every later call would wait for ever
            log.exception("%r failed on the thread of Windows' calls", function)
