"""``hdvkit check``: can this machine do it, and what is missing if not. No printing here."""

import platform
import sys
from collections.abc import Callable, Sequence
from importlib import metadata

from hdvkit.native import native
from hdvkit.plugins import Plugins
from hdvkit.runtime import Backend, Finding


def check(host: str | None, plugins: Plugins) -> list[Finding]:
    """Look at what hdvkit needs everywhere and, for one or all host kinds, at what the kind itself looks at.

    Raises:
        UsageError: There is no such host kind.
    """
    findings = [_python(), *_packages(), _rings(), *_plugins(plugins)]
    kinds = [host] if host is not None else sorted(plugins.hosts)
    for kind in kinds:
        ask: Callable[[], Sequence[Finding]] = getattr(plugins.host(kind), "check", Backend.check)
        findings += ask() or [Finding(f"host {kind}", "needs nothing more", good=True)]
    return findings


def _python() -> Finding:
    good = sys.version_info >= (3, 11) and sys.byteorder == "little"
    found = f"{platform.python_implementation()} {platform.python_version()}, {sys.byteorder}-endian"
    return Finding("Python", found, good, "" if good else "use Python 3.11 or newer on a little-endian machine")


def _packages() -> list[Finding]:
    return [Finding(name, metadata.version(name), good=True) for name in ("hdvkit", "anyio", "pluggy", "cffi")]


def _rings() -> Finding:
    return Finding("rings", native().reason, good=True)


def _plugins(plugins: Plugins) -> list[Finding]:
    return [
        Finding(
            f"plugin {one.name}", one.reason or one.state, good=False, advice="see hdvkit plugins for the traceback"
        )
        for one in plugins.listing
        if one.state == "failed" or one.reason
    ]
