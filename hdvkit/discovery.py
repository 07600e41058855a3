"""Which plugins are installed, and which of them the environment wants. Imports none before it is told to.

=========================  ===========================================================================
HDVKIT_DISABLE_PLUGINS     names not to load; ``*`` or ``all`` is everyone but the plugins of hdvkit itself
HDVKIT_LOAD_PLUGINS        names: load these and no others. An item with a dot or a colon that is no
                           plugin's name is a module to import besides: ``my.module`` or ``module:``
HDVKIT_TRACE_HOOKS=1       print every hook call with its arguments and results to stderr
=========================  ===========================================================================

The lists are comma separated; what is disabled is not loaded even if it is named in the other list.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

import attrs

from hdvkit.errors import UsageError

GROUP = "hdvkit"
OWN = "hdvkit"  # the distribution whose plugins are built in
EVERYBODY = {"*", "all"}


@attrs.frozen
class Origin:
    """Where a plugin came from; no distribution and version when it was not installed."""

    name: str
    distribution: str | None
    version: str | None
    module: str

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution or self.module}"


@attrs.frozen
class Found:
    """A plugin that could be loaded, unless ``disabled``."""

    origin: Origin
    disabled: bool
    _entry: EntryPoint

    def load(self) -> object:
        """Import the plugin; raises whatever its module raises.

        Raises:
            UsageError: The environment names a plugin that is not installed.
        """
        if self._entry.dist is None and not _is_path(self._entry.name):
            name = self._entry.name
            raise UsageError(
                f"HDVKIT_LOAD_PLUGINS names {name!r}, which no installed distribution provides: "
                f"install one, or write {name + ':'!r} for a module"
            )
        return self._entry.load()


def find(environ: Mapping[str, str]) -> list[Found]:
    """The plugins to consider, in the order in which they are asked.

    Our own come first, then the others by name, so that nobody can take a built-in kind.
    """
    disabled = set(_items(environ, "HDVKIT_DISABLE_PLUGINS"))
    installed = sorted(entry_points(group=GROUP), key=lambda entry: (not _is_own(entry), entry.name))
    return [
        Found(_origin(entry), entry.name in disabled or (bool(disabled & EVERYBODY) and not _is_own(entry)), entry)
        for entry in _wanted(installed, _items(environ, "HDVKIT_LOAD_PLUGINS"))
    ]


def _items(environ: Mapping[str, str], name: str) -> list[str]:
    return [item for part in environ.get(name, "").split(",") if (item := part.strip())]


def _wanted(installed: Sequence[EntryPoint], items: Sequence[str]) -> list[EntryPoint]:
    known = {entry.name for entry in installed}
    besides = [EntryPoint(item, item.rstrip(":"), GROUP) for item in items if item not in known]
    only = {item for item in items if item in known or not _is_path(item)}
    return [entry for entry in installed if entry.name in only or not only] + besides


def _is_path(item: str) -> bool:
    return "." in item or ":" in item


def _is_own(entry: EntryPoint) -> bool:
    return entry.dist is not None and entry.dist.name == OWN


def _origin(entry: EntryPoint) -> Origin:
    if entry.dist is None:
        return Origin(entry.name, None, None, entry.value)
    return Origin(entry.name, entry.dist.name, entry.dist.version, entry.value)
