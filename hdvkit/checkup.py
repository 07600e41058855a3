"""``hdvkit check``: can this machine do it, and what is missing if not. No printing here."""

import platform
import sys
from collections.abc import Callable, Sequence
from importlib import metadata

from hdvkit.native import native
from hdvkit.plugins import Plugins
from hdvkit.runtime import Finding


def check(host: str | None, plugins: Plugins) -> list[Finding]:
    """Look at what hdvkit needs everywhere, and at what each device and, of one or all, each host kind looks at itself.

    Raises:
        UsageError: There is no such host kind.
    """
    findings = [_python(), *_packages(), _rings(), *_plugins(plugins)]
    for one in plugins.devices.values():
        findings += _asked(one.factory)
    for kind in [host] if host is not None else sorted(plugins.hosts):
        findings += _asked(plugins.host(kind)) or [Finding(f"host {kind}", "needs nothing more", good=True)]
    return findings


def _python() -> Finding:
    good = sys.version_info >= (3, 11) and sys.byteorder == "little"
    found = f"{platform.python_implementation()} {platform.python_version()}, {sys.byteorder}-endian"
    return Finding("Python", found, good, "" if good else "use Python 3.11 or newer on a little-endian machine")


def _packages() -> list[Finding]:
    return [Finding(name, metadata.version(name), good=True) for name in ("hdvkit", "anyio", "pluggy", "cffi")]


def _rings() -> Finding:
    return Finding("rings", native().reason, good=True)


def _asked(factory: Callable[..., object]) -> Sequence[Finding]:
    """A factory may be a function, and a device need not have anything to look at."""
    check: Callable[[], Sequence[Finding]] | None = getattr(factory, "check", None)
    return check() if check else ()


def _plugins(plugins: Plugins) -> list[Finding]:
    return [
        Finding(
            f"plugin {one.name}", one.reason or one.state, good=False, advice="see hdvkit plugins for the traceback"
        )
        for one in plugins.listing
        if one.state == "failed" or one.reason
    ]
