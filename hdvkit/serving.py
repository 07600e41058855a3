"""``hdvkit run``: attach devices and serve until a signal. Tells what happens through a callback; no printing here."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence

from hdvkit.observe import Event, Observer
from hdvkit.opening import open_host
from hdvkit.options import Spec
from hdvkit.plugins import Plugins

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Tell(Observer):
    """Passes events on; when nobody can hear them any more, serving ends."""

    def __init__(self, tell: Callable[[Event], None], stopped: asyncio.Event) -> None:
        self.problem: OSError | None = None
        self._tell = tell
        self._stopped = stopped

    def event(self, event: Event) -> None:
        if self.problem is None:
            try:
                self._tell(event)
            except OSError as error:
                self.problem = error
                self._stopped.set()


async def serve(host: Spec, devices: Sequence[Spec], plugins: Plugins, tell: Callable[[Event], None]) -> None:
    """Serve until SIGINT or SIGTERM, then remove everything and return.

    An option ``name`` of a device is its name on the host.

    Raises:
        UsageError: Unknown kind, bad options.
        HostError: The platform refused.
        OSError: ``tell`` could not tell; everything was removed.
    """
    with _stopping() as stopped:
        teller = _Tell(tell, stopped)
        async with open_host(host.kind, plugins=plugins, observers=[teller], **host.options) as opened:
            for device in devices:
                options: dict[str, object] = dict(device.options)
                name = options.pop("name", None)
                await opened.add(device.kind, name=str(name) if name is not None else None, **options)
            await stopped.wait()
    if teller.problem is not None:
        raise teller.problem


@contextlib.contextmanager
def _stopping() -> Iterator[asyncio.Event]:
    """An event that a signal sets; a second signal does nothing more, so that the clean end is not cut short."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def stop(*_: object) -> None:
        loop.call_soon_threadsafe(stopped.set)

    for number in SIGNALS:
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows loops have none; the interpreter's own arrive at the next wake-up
            signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, handler)
