"""A device for tests of hosts and guests: it gives back what it was sent. Its type number is nobody's."""

from typing import Final

from hdvkit import Chain, Queue, VirtioDevice

ECHO_TYPE: Final = 0x3F
"""The last number that fits PCI ids of modern devices; no device type has it."""
CONFIG: Final = b"hdvkit echo\0" + bytes(range(20))


class Echo(VirtioDevice):
    """Writes the readable bytes of each chain into its writable part. Refuses with ``0xFF`` bytes."""

    device_type = ECHO_TYPE
    queue_names = ("first", "second")
    queue_size = 256

    def config(self) -> bytes:
        """Something to compare."""
        return CONFIG

    async def serve(self, queue: Queue) -> None:
        """Echo."""
        async for chain in queue:
            with chain:
                chain.write(chain.read())

    def refuse(self, chain: Chain) -> None:
        """Recognizable, and as long as there is room."""
        chain.write(b"\xff" * chain.writable_size)
