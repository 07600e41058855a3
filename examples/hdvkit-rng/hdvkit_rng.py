"""A virtio entropy source: the guest's hardware random number generator, fed by the host's."""

import os

import attrs

import hdvkit
from hdvkit import DeviceType, Queue, VirtioDevice


@attrs.define
class Rng(VirtioDevice):
    """Entropy source for one guest."""

    device_type = DeviceType.RNG
    queue_names = ("requests",)
    limit: int = attrs.field(default=64 * 1024, validator=attrs.validators.gt(0))

    async def serve(self, queue: Queue) -> None:
        """Fill each buffer the guest lends, up to the limit."""
        async for chain in queue:
            with chain:
                chain.write(os.urandom(min(chain.writable_size, self.limit)))


@hdvkit.hookimpl
def hdvkit_register_devices(register: "hdvkit.hookspecs.RegisterDevice") -> None:
    """Offer the kind ``rng``."""
    register("rng", Rng)
