"""The host kind ``vfio-user``: devices for QEMU and other machines that speak the vfio-user protocol.

The map: ``backend`` (options), ``slot`` (one device: its socket, and the client of the moment), ``session`` (one
client, from accept to the end), which uses ``regions``, ``irqs``, ``memory`` and ``kicks``. ``protocol`` knows no
sockets; ``qemu`` knows how to start the other side.
"""

from hdvkit_vfio_user.backend import VfioUserBackend

__all__ = ["VfioUserBackend"]
