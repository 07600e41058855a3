"""Who offers hosts, devices, observers and commands: built-ins and strangers, through the same door.

The door is the entry-point group ``hdvkit``. Each plugin is imported and asked in isolation: one that fails is
recorded with its traceback and harms nobody else. Nothing is global; whoever needs plugins loads a ``Plugins``.

What the environment can say about it is in ``hdvkit.discovery``.
"""

import contextlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Self, TypeVar

import attrs
import click
import pluggy

from hdvkit import discovery, hookspecs
from hdvkit.discovery import Origin
from hdvkit.errors import UsageError
from hdvkit.hookspecs import DeviceFactory, HostFactory
from hdvkit.observe import Observer
from hdvkit.options import check_kind, did_you_mean

Factory = TypeVar("Factory")


@attrs.frozen
class Provided(Generic[Factory]):
    """One kind of host or device, and who provides it."""

    kind: str
    factory: Factory
    plugin: str
    distribution: str | None
    version: str | None
    module: str


@attrs.frozen
class Failure:
    """A plugin, or a part of one, that is missing, and why."""

    name: str
    distribution: str | None
    version: str | None
    traceback_text: str

    @property
    def reason(self) -> str:
        """The last line of the traceback."""
        return self.traceback_text.rstrip().rpartition("\n")[2]


@attrs.frozen
class Listed:
    """One line of ``hdvkit plugins``."""

    name: str
    distribution: str | None
    version: str | None
    module: str
    state: str
    """``loaded``, ``failed`` or ``disabled``."""
    hosts: tuple[str, ...]
    devices: tuple[str, ...]
    reason: str | None
    """Why it, or a part of it, failed."""


@attrs.define
class _Register(Generic[Factory]):
    """What a hook is given as ``register``: keeps what one plugin offers until all of it is known to be good."""

    what: str
    origin: Origin
    taken: Mapping[str, Provided[Factory]]
    offered: dict[str, Provided[Factory]] = attrs.field(factory=dict)

    def __call__(self, kind: str, factory: Factory) -> None:
        check_kind(kind)
        if not callable(factory):
            raise UsageError(f"{self.what} {kind!r} is {factory!r}: register a class or a function that makes one")
        if holder := self.offered.get(kind) or self.taken.get(kind):
            by = f"plugin {holder.plugin!r} of {holder.distribution or holder.module}"
            raise UsageError(f"{self.what} {kind!r} of {self.origin} is taken by {by}: choose another kind")
        origin = self.origin
        self.offered[kind] = Provided(kind, factory, origin.name, origin.distribution, origin.version, origin.module)

    def __repr__(self) -> str:
        return f"<register {self.what}s: {', '.join(self.offered) or 'none'}>"


class Plugins:
    """What can be attached here, and to what. Make one with ``load``; without it there are no plugins at all."""

    def __init__(self, *, trace: bool = False) -> None:
        self.hosts: dict[str, Provided[HostFactory]] = {}
        self.devices: dict[str, Provided[DeviceFactory]] = {}
        self.failures: list[Failure] = []
        self._trace = trace
        self._states: dict[Origin, str] = {}
        # A manager for each plugin, so that one hook call concerns one plugin, and what fails can be dropped whole.
        self._managers: dict[Origin, pluggy.PluginManager] = {}

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Find, import and register all plugins this environment asks for. Never fails; see ``failures``."""
        plugins = cls(trace=environ.get("HDVKIT_TRACE_HOOKS", "0") not in ("", "0"))
        for found in discovery.find(environ):
            plugins._states[found.origin] = "disabled" if found.disabled else "failed"
            if not found.disabled:
                with plugins._isolated(found.origin):
                    plugins._admit(found.load(), found.origin)
        return plugins

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin of your own, a module or any object with hook implementations.

        Raises:
            UsageError: The name or a kind is taken, or the plugin does not fit the hooks. Nothing of it was added.
                What else its hooks raise passes through.
        """
        module = plugin.__name__ if inspect.ismodule(plugin) else type(plugin).__module__
        self._admit(plugin, Origin(name, None, None, module))

    def host(self, kind: str) -> HostFactory:
        """What makes a backend of this kind.

        Raises:
            UsageError: Nobody provides it; the message names what there is and what may be missing.
        """
        return self._find("host", self.hosts, kind)

    def device(self, kind: str) -> DeviceFactory:
        """What makes a device of this kind; raises UsageError as ``host`` does."""
        return self._find("device", self.devices, kind)

    def observers(self) -> list[Observer]:
        """Ask every plugin for observers. One that fails is recorded, and watches nothing."""
        found: list[Observer] = []
        for origin, manager in self._managers.items():
            with self._isolated(origin):
                offered = [observer for answer in manager.hook.hdvkit_observers() for observer in answer]
                if wrong := [one for one in offered if not isinstance(one, Observer)]:
                    raise UsageError(f"{origin} offers {wrong[0]!r}: return a list of hdvkit.Observer objects")
                found += offered
        return found

    def add_commands(self, group: click.Group) -> None:
        """Let every plugin add subcommands to ``group``, which must hold our own already."""
        for origin, manager in self._managers.items():
            with self._isolated(origin):
                offered = click.Group(group.name)
                manager.hook.hdvkit_register_commands(commands=offered)
                if taken := sorted(offered.commands.keys() & group.commands.keys()):
                    raise UsageError(f"command {taken[0]!r} of {origin} is taken: choose another name")
                group.commands.update(offered.commands)

    @property
    def listing(self) -> list[Listed]:
        """Every plugin that was found, in the order in which they were asked."""
        return [
            Listed(
                name=origin.name,
                distribution=origin.distribution,
                version=origin.version,
                module=origin.module,
                state=state,
                hosts=_kinds(self.hosts, origin),
                devices=_kinds(self.devices, origin),
                reason=next((failure.reason for failure in self.failures if _of(failure, origin)), None),
            )
            for origin, state in self._states.items()
        ]

    def _admit(self, plugin: object, origin: Origin) -> None:
        for holder in self._managers:
            if holder.name == origin.name:
                raise UsageError(f"the name of {origin} is taken by {holder}: rename one of them")
        manager = self._new_manager(plugin, origin)
        hosts = _Register("host", origin, self.hosts)
        devices = _Register("device", origin, self.devices)
        manager.hook.hdvkit_register_hosts(register=hosts)
        manager.hook.hdvkit_register_devices(register=devices)
        self.hosts |= hosts.offered
        self.devices |= devices.offered
        self._managers[origin] = manager
        self._states[origin] = "loaded"

    def _new_manager(self, plugin: object, origin: Origin) -> pluggy.PluginManager:
        manager = pluggy.PluginManager("hdvkit")
        manager.add_hookspecs(hookspecs)
        if self._trace:
            manager.add_hookcall_monitoring(_before, _after)
        try:
            manager.register(plugin, origin.name)
            manager.check_pending()
        except pluggy.PluginValidationError as problem:
            raise UsageError(f"{origin} does not fit: {' '.join(str(problem).split())}") from problem
        _check_hooks(manager, plugin, origin)
        return manager

    @contextlib.contextmanager
    def _isolated(self, origin: Origin) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as problem:  # a module that exits when imported shall not take us along
            text = "".join(traceback.format_exception(problem))
            failure = Failure(origin.name, origin.distribution, origin.version, text)
            if failure not in self.failures:
                self.failures.append(failure)

    def _find(self, what: str, known: Mapping[str, Provided[Factory]], kind: str) -> Factory:
        if kind in known:
            return known[kind].factory
        hints = [f"plugin {failure.name!r} failed ({failure.reason})" for failure in self.failures]
        hints += [
            f"plugin {origin.name!r} is disabled by HDVKIT_DISABLE_PLUGINS"
            for origin, state in self._states.items()
            if state == "disabled"
        ]
        raise UsageError(
            f"there is no {what} {kind!r}{did_you_mean(kind, known)}: "
            + "; ".join([f"known are {', '.join(sorted(known)) or 'none'}", *hints])
        )


def _kinds(provided: Mapping[str, Provided[Any]], origin: Origin) -> tuple[str, ...]:
    return tuple(kind for kind, one in provided.items() if _of(one, origin))


def _of(one: Provided[Any] | Failure, origin: Origin) -> bool:
    name = one.plugin if isinstance(one, Provided) else one.name
    return (name, one.distribution) == (origin.name, origin.distribution)


# Hooks


def _check_hooks(manager: pluggy.PluginManager, plugin: object, origin: Origin) -> None:
    callers = manager.get_hookcallers(plugin) or []
    if not callers:
        raise UsageError(f"{origin} implements no hook: put @hdvkit.hookimpl before a function hdvkit_...")
    for caller in callers:
        if any(inspect.iscoroutinefunction(hook.function) for hook in caller.get_hookimpls()):
            raise UsageError(f"{caller.name} of {origin} is async: hooks are called before there is an event loop")


def _before(name: str, hooks: Sequence[pluggy.HookImpl], arguments: Mapping[str, object]) -> None:
    if hooks:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        sys.stderr.write(f"hdvkit > {name}({given}) of {hooks[0].plugin_name}\n")


def _after(
    outcome: pluggy.Result[Any], name: str, hooks: Sequence[pluggy.HookImpl], arguments: Mapping[str, object]
) -> None:
    if hooks:
        result = outcome.exception if outcome.exception is not None else outcome.get_result()
        left = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        sys.stderr.write(f"hdvkit < {name}({left}) of {hooks[0].plugin_name}: {result!r}\n")
