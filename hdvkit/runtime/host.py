"""Hosts: a connection to one machine and the devices attached to it.

A host owns one supervisor task, and every task of its devices is that task's child. So a host may be opened in one
task, used in others and closed in yet another, and nothing outlives it.
"""

import asyncio
import itertools
import logging
import warnings
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from types import TracebackType

import anyio
from anyio.abc import TaskGroup

from hdvkit.errors import UsageError
from hdvkit.observe import Event, EventKind, Observer, Observers
from hdvkit.runtime.backend import Backend, Removal
from hdvkit.runtime.device import VirtioDevice
from hdvkit.runtime.events import EventStream
from hdvkit.runtime.finishing import finish
from hdvkit.runtime.function import Function
from hdvkit.runtime.stats import State

log = logging.getLogger("hdvkit.runtime")

MakeDevice = Callable[[str, Mapping[str, object]], VirtioDevice]
"""Makes a device of a kind from its options; raises UsageError."""


class DeviceHost:
    """Where devices are attached. Open one with :func:`hdvkit.open_host`; close it, or use ``async with``."""

    def __init__(self, backend: Backend, make: "MakeDevice", *, observers: Iterable[Observer] = ()) -> None:
        self.backend = backend
        self._make = make
        self._tell = _HostEvents()
        self._observers = Observers([self._tell, *observers])
        self._functions: dict[str, Function] = {}
        self._closing = asyncio.Event()
        self._changing = asyncio.Lock()
        self._tasks: TaskGroup | None = None
        self._supervisor: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect to the machine.

        Raises:
            HostError: The platform refused. Nothing is left behind.
        """
        await self.backend.open()
        started = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(started), name="hdvkit supervisor")
        try:
            await started
        except BaseException:
            self._closing.set()
            await finish(self._supervisor)
            raise

    async def add(self, device: str | VirtioDevice, /, *, name: str | None = None, **options: object) -> Function:
        """Attach a device to the machine.

        Arguments:
            device: A kind and its options, or a device you made; the host closes it when it is removed or refused.
            name: Unique on this host; by default the device's own, or its kind.
            options: The options of the kind, as its constructor takes them.

        Raises:
            UsageError: Unknown kind, bad options, a name that is taken.
            HostError: The platform refused.
        """
        if isinstance(device, str):
            kind, device = device, self._make(device, options)
        elif options:
            raise UsageError(f"options {', '.join(options)} were given with a finished device: give them to its class")
        elif not isinstance(device, VirtioDevice):
            raise UsageError(f"{device!r} is no device: give a kind, or an instance of a VirtioDevice class")
        elif any(function.device is device for function in self.devices):
            raise UsageError(f"{device!r} is attached already: make another one")
        else:
            kind = type(device).__name__.lower()
        adding = asyncio.create_task(self._add(device, name, kind))
        try:
            return await finish(adding)
        except asyncio.CancelledError:
            if not adding.cancelled() and adding.exception() is None:
                await self.remove(adding.result())  # nobody else knows of it
            raise

    async def remove(self, function: Function) -> Removal:
        """Take a device from the guest.

        When this returns, the guest's requests end in errors and nothing of the host can be reached through the
        device, whatever the platform said. PARKED means that it stays visible until the machine stops. A removal
        that has begun is finished, even when the caller is cancelled.

        Raises:
            UsageError: The device is not on this host.
        """
        if not isinstance(function, Function):
            raise UsageError(f"{function!r} is no attached device: give what add() returned")
        return await finish(asyncio.create_task(self._remove(function)))

    @property
    def devices(self) -> tuple[Function, ...]:
        """What is attached, parked devices included."""
        return tuple(self._functions.values())

    def events(self) -> AsyncIterator[Event]:
        """All that happens to any device from now on. Ends when the host is closed."""
        return self._tell.listen()

    async def wait_closed(self) -> None:
        """Wait until the host is closed, by whomever."""
        if self._supervisor is not None:
            await asyncio.wait([self._supervisor])

    async def aclose(self) -> None:
        """Remove all devices and let go of the machine. May be called from any task, and twice."""
        self._closing.set()
        if self._supervisor is not None:
            await finish(self._supervisor)

    async def __aenter__(self) -> "DeviceHost":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._supervisor is not None and not self._closing.is_set():
            self._warn()

    def _warn(self) -> None:
        warnings.warn(f"{self!r} was dropped without being closed", ResourceWarning, stacklevel=2, source=self)

    def _name(self, name: object, default: str) -> str:
        if name is not None:
            if not isinstance(name, str) or not name or not name.isprintable():
                raise UsageError(f"{name!r} is no name of a device; give a text that can be printed, as in 'job'")
            if name in self._functions:
                raise UsageError(f"a device named {name!r} is attached already; give this one another name")
            return name
        names = itertools.chain([default], (f"{default}-{number}" for number in itertools.count(2)))
        return next(free for free in names if free not in self._functions)

    def _function(self, device: VirtioDevice, name: str, kind: str) -> Function:
        if self._tasks is None or self._closing.is_set():
            raise UsageError("the host is not open; add devices between open_host() and aclose()")
        function = Function(
            device,
            name=name,
            kind=kind,
            observers=self._observers,
            tasks=self._tasks,
            backend=self.backend,
            lost=self._lost,
        )
        function.slot = self.backend.slot(function)
        return function

    async def _add(self, device: VirtioDevice, name: str | None, kind: str) -> Function:
        async with self._changing:
            try:
                function = self._function(device, self._name(name, device.default_name or kind), kind)
            except BaseException:
                await device.aclose()
                raise
            try:
                await function.slot.attach()
            except BaseException:
                await function.end(State.CLOSED, EventKind.CLOSED)
                raise
            self._functions[function.name] = function
        function.announce(EventKind.LISTENING)
        return function

    async def _remove(self, function: Function) -> Removal:
        async with self._changing:
            if self._functions.get(function.name) is not function:
                raise UsageError(f"device {function.name!r} is not attached to this host")
            await function.revoke()
            result = await function.slot.detach()
            if result is Removal.REMOVED:
                del self._functions[function.name]
                await function.end(State.REMOVED, EventKind.REMOVED)
            else:
                function.announce(EventKind.PARKED, "the platform cannot remove it from a running guest")
            return result

    def _lost(self, function: Function) -> None:
        """The machine of a parked function went away; other functions wait for another machine."""
        if self._tasks is not None and function.state is State.PARKED and not self._closing.is_set():
            self._tasks.start_soon(self._forget, function)

    async def _forget(self, function: Function) -> None:
        async with self._changing:
            if self._functions.get(function.name) is function and function.state is State.PARKED:
                del self._functions[function.name]
                await function.end(State.REMOVED, EventKind.REMOVED)

    async def _supervise(self, started: "asyncio.Future[None]") -> None:
        forgotten = False
        try:
            async with anyio.create_task_group() as self._tasks:
                if not started.done():
                    started.set_result(None)
                try:
                    await self._closing.wait()
                finally:
                    forgotten = not self._closing.is_set()
                    self._closing.set()
                    await self._close_all()
        finally:
            self._tell.end()
            if forgotten:
                self._warn()

    async def _close_all(self) -> None:
        async with self._changing:
            for function in self.devices:
                await function.revoke()
                try:
                    await function.slot.detach()
                except Exception:
                    log.exception("device %s could not be detached cleanly", function.name)
                await function.end(State.CLOSED, EventKind.CLOSED)
            self._functions.clear()
        await self.backend.aclose()


class Opening:
    """A host about to be opened: ``async with`` it, or ``await`` it and close the host later."""

    def __init__(self, host: DeviceHost) -> None:
        self._host = host

    def __await__(self) -> Generator[object, None, DeviceHost]:
        return self._open().__await__()

    async def __aenter__(self) -> DeviceHost:
        return await self._open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._host.aclose()

    async def _open(self) -> DeviceHost:
        await self._host.open()
        return self._host


class _HostEvents(Observer):
    """Carries events of all devices to the streams of the host."""

    def __init__(self) -> None:
        self._streams: set[EventStream] = set()
        self._over = False

    def listen(self) -> EventStream:
        stream = EventStream(self._streams.discard)
        if self._over:
            stream.end()
        else:
            self._streams.add(stream)
        return stream

    def event(self, event: Event) -> None:
        for stream in tuple(self._streams):
            stream.put(event)

    def end(self) -> None:
        self._over = True
        for stream in tuple(self._streams):
            stream.end()
