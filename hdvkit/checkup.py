"""``hdvkit check``: can this machine do it, and what is missing if not. No printing here."""

import platform
import sys
from collections.abc import Callable
from importlib import metadata

import attrs

from hdvkit.plugins import Plugins


@attrs.frozen
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    good: bool
    advice: str = ""
    """What to do when it is not good."""


def check(host: str | None, plugins: Plugins) -> list[Finding]:
    """Look at what hdvkit needs everywhere and, for one or all host kinds, at what the kind itself looks at.

    A host factory that has a function ``check`` without arguments is asked; it returns findings.

    Raises:
        UsageError: There is no such host kind.
    """
    findings = [_python(), *_packages(), *_plugins(plugins)]
    kinds = [host] if host is not None else sorted(plugins.hosts)
    for kind in kinds:
        ask: Callable[[], list[Finding]] | None = getattr(plugins.host(kind), "check", None)
        if ask is None:
            findings.append(Finding(f"host {kind}", "needs nothing more", good=True))
        else:
            findings += ask()
    return findings


def _python() -> Finding:
    good = sys.version_info >= (3, 11) and sys.byteorder == "little"
    found = f"{platform.python_implementation()} {platform.python_version()}, {sys.byteorder}-endian"
    return Finding("Python", found, good, "" if good else "use Python 3.11 or newer on a little-endian machine")


def _packages() -> list[Finding]:
    return [Finding(name, metadata.version(name), good=True) for name in ("hdvkit", "anyio", "pluggy", "cffi")]


def _plugins(plugins: Plugins) -> list[Finding]:
    return [
        Finding(
            f"plugin {one.name}", one.reason or one.state, good=False, advice="see hdvkit plugins for the traceback"
        )
        for one in plugins.listing
        if one.state == "failed" or one.reason
    ]
