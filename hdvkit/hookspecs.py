"""The four hooks of hdvkit: what a plugin may add. Declarations only; ``hdvkit.plugins`` calls them.

All four are synchronous and called at start-up only, never while a guest is served: whatever waits belongs into
the methods of the classes you register. Each may be implemented in any module or object that an entry point of
the group ``hdvkit`` names, and takes only those of the arguments below that it wants. Plugins are asked one
after the other, those of hdvkit first, then by name; ``tryfirst`` and ``trylast`` change nothing.

A plugin is in with all it brings or not at all: when a hook raises, nothing of that plugin is registered, the
failure is listed by ``hdvkit plugins``, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeAlias

import pluggy

if TYPE_CHECKING:
    import click

    from hdvkit.observe import Observer
    from hdvkit.runtime.backend import Backend
    from hdvkit.runtime.device import VirtioDevice

hookspec = pluggy.HookspecMarker("hdvkit")
hookimpl = pluggy.HookimplMarker("hdvkit")
"""Marks a function as the implementation of the hook whose name it has."""

HostFactory: TypeAlias = "Callable[..., Backend]"
"""Makes a backend; its keyword parameters are the options of the host."""

DeviceFactory: TypeAlias = "Callable[..., VirtioDevice]"
"""Makes a device, in general its class; its keyword parameters are the options of the device."""


class RegisterHost(Protocol):
    """What ``hdvkit_register_hosts`` is given."""

    def __call__(self, kind: str, factory: HostFactory) -> None:
        """Offer ``factory`` as ``hdvkit run KIND:option=value`` and ``hdvkit.open_host(KIND, option=value)``.

        Raises:
            UsageError: ``kind`` is not of the form ``[a-z0-9][a-z0-9-]*``, is taken, or the factory cannot be
                called. Let it pass.
        """


class RegisterDevice(Protocol):
    """What ``hdvkit_register_devices`` is given."""

    def __call__(self, kind: str, factory: DeviceFactory) -> None:
        """Offer ``factory`` as ``hdvkit run HOST KIND:option=value`` and ``host.add(KIND, option=value)``.

        Raises:
            UsageError: As for :class:`RegisterHost`.
        """


@hookspec
def hdvkit_register_hosts(register: RegisterHost) -> None:
    """Offer kinds of device hosts, by calling ``register(kind, factory)`` for each.

    Called once, when the plugin is loaded. Register on every platform: a backend that cannot work here says so
    in its ``open``, where the person who asked for it reads it.

    Args:
        register: Takes the kind and a class or function that makes a :class:`hdvkit.runtime.Backend`. Its
            constructor is the option schema, see ``hdvkit.options``.
    """


@hookspec
def hdvkit_register_devices(register: RegisterDevice) -> None:
    """Offer kinds of devices, by calling ``register(kind, DeviceClass)`` for each.

    Called once, when the plugin is loaded.

    Args:
        register: Takes the kind and a subclass of :class:`hdvkit.VirtioDevice`. Its constructor is the option
            schema, see ``hdvkit.options``.
    """


@hookspec
def hdvkit_observers() -> Iterable[Observer] | None:
    """Return observers that shall watch a host, or None.

    Called once for each host that is opened, before its first device is added. Return new objects each time
    unless one of yours is meant to watch several hosts.
    """


@hookspec
def hdvkit_register_commands(commands: click.Group) -> None:
    """Add subcommands to the command ``hdvkit``.

    Called when the command line starts, and by nothing else.

    Args:
        commands: An empty group; what you add to it becomes ``hdvkit NAME``. A name that is taken already is an
            error, the commands of hdvkit cannot be replaced.
    """
