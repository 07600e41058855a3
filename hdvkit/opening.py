"""Where kinds and options become hosts and devices: :func:`open_host`."""

from collections.abc import Iterable, Mapping

from hdvkit.native import native
from hdvkit.observe import Observer
from hdvkit.options import build
from hdvkit.plugins import Plugins
from hdvkit.runtime import DeviceHost, Opening, VirtioDevice


def open_host(
    kind: str, /, *, plugins: Plugins | None = None, observers: Iterable[Observer] = (), **options: object
) -> Opening:
    """Open a device host: ``async with`` it, or ``await`` it and close the host with ``aclose`` from whatever task.

    Arguments:
        kind: The host kind: ``sim``, ``vfio-user``, ``hdv``, or a plugin's.
        plugins: Where kinds are looked up; loaded from the installed packages by default.
        observers: Hear of everything on this host, besides the observers that plugins bring.
        options: The options of the host kind.

    Raises:
        UsageError: Unknown kind, bad options, or HDVKIT_NATIVE asks for what is not there; at once, not when it is
            awaited.
        HostError: The platform refused, when it is awaited.
    """
    native()  # C may be insisted on, and missing
    plugins = plugins or Plugins.load()
    backend = build(plugins.host(kind), options, f"host {kind}")

    def make(device: str, options: Mapping[str, object]) -> VirtioDevice:
        return build(plugins.device(device), options, f"device {device}")

    return Opening(DeviceHost(backend, make, observers=[*plugins.observers(), *observers]))
