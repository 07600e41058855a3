"""What a device author subclasses. One coroutine is required; the constructor's arguments are the options."""

import logging
from collections.abc import Callable, Sequence
from typing import ClassVar

from hdvkit.native import NativeHandler
from hdvkit.runtime.queue import Queue
from hdvkit.virtio.chain import Chain
from hdvkit.virtio.spec import DeviceType

log = logging.getLogger("hdvkit.device")


class VirtioDevice:
    """A virtio device for one guest.

    The runtime builds the PCI function around it, starts ``serve`` once for each queue the guest enables, and
    cancels it when the guest resets. The guest is hostile: ``GuestError`` raised by a queue or chain may pass, and
    so may any other exception. Both mark this device, and no other, DEVICE_NEEDS_RESET.
    """

    device_type: ClassVar[DeviceType | int]
    """Its number in "Device Types"."""
    class_code: ClassVar[int] = 0x088000
    """PCI class as 0xBBSSII: other base system peripheral."""

    warn: Callable[[str], None] = staticmethod(log.warning)
    """Tell whoever runs the device, in one sentence, what they should know: an event ``warning`` once it is added.

    Call it on the event loop, and not for each request: a guest must not be able to fill a log.
    """

    @property
    def queue_names(self) -> Sequence[str]:
        """One name for each queue, in the order of "Virtqueues" of the device type. A plain class attribute will do."""
        return ("requests",)

    @property
    def queue_size(self) -> int:
        """The largest size of each queue, a power of two; the driver may choose less."""
        return 256

    @property
    def features(self) -> int:
        """Feature bits of the device type that are offered. Those of ring and transport are the runtime's."""
        return 0

    @property
    def default_name(self) -> str | None:
        """How the device is called when nobody names it; None for its kind."""
        return None

    def config(self) -> bytes:
        """The device-specific configuration, little-endian. Its length must not change.

        When the content has changed, call ``Function.config_changed``.
        """
        return b""

    def native_handler(self) -> NativeHandler | None:
        """A function in C for the requests that are frequent; those it declines come to ``serve``.

        Asked whenever a driver of the guest enables its first queue. The function is called on a thread of its own,
        without the interpreter's lock.
        """
        return None

    async def serve(self, queue: Queue) -> None:
        """Answer one queue until cancelled. Runs once for each enabled queue, all at the same time.

        To return earlier is a failure of the device: the guest would wait for its requests for ever.
        """
        raise NotImplementedError(f"{type(self).__name__} must override serve()")

    def refuse(self, chain: Chain) -> None:
        """Answer a request after the device was removed: write an error in the device type's own terms.

        The runtime completes the chain. By default the guest gets an empty answer.
        """

    async def reset(self) -> None:
        """The guest reset the device; ``serve`` has ended everywhere. Forget what the guest told you.

        The guest waits until this returns.
        """

    async def aclose(self) -> None:
        """The device was removed or its host closed. Free everything; called once, ``serve`` has ended."""
