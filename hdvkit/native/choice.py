"""What is C's: rings where they can be, and what devices and hosts have in C; all else is Python's. One table."""

import importlib
import os
from typing import Final, NamedTuple

import attrs

from hdvkit.errors import UsageError
from hdvkit.memory import Memory, RegionMemory
from hdvkit.virtio import Feature, PackedRing, Ring, RingAddresses, SplitRing

VARIABLE: Final = "HDVKIT_NATIVE"
"""Environment: 0 for Python, 1 to insist on C, unset or empty for C where it was built."""
RINGS: Final = "hdvkit.native._native"


class NativeHandler(NamedTuple):
    """A function of a device in C, as handler.h says: addresses that are valid until the device is closed."""

    answer: int
    context: int


class NativeListener(NamedTuple):
    """What tells kicks on a socket from other messages, in C, as handler.h says: addresses."""

    kicks: int
    context: int


@attrs.frozen
class Native:
    """What is used in this process, and why."""

    used: bool
    reason: str


def native(module: str = RINGS) -> Native:
    """Whether a module in C is used, that of the rings or one of a device or a host kind.

    Looked up anew each time, so that tests may change their mind.

    Raises:
        UsageError: C was insisted on and not built, or the variable says something else.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "0", "1"):
        raise UsageError(f"{VARIABLE} is {wanted!r} in the environment: say 0 for Python, 1 for C, or nothing")
    if wanted == "0":
        return Native(False, f"{VARIABLE}=0 asks for Python")
    try:
        importlib.import_module(module)
    except ImportError as error:
        if wanted == "1":
            raise UsageError(
                f"{VARIABLE}=1 asks for C, which was not built ({error}): install a C compiler and install hdvkit again"
            ) from error
        return Native(False, f"in Python, for C was not built ({error})")
    return Native(True, "in C")


def suits(memory: Memory, addresses: RingAddresses, size: int, *, packed: bool) -> bool:
    """Whether the ring can be C's: it has to stay where it is. Its buffers need not."""
    kind = PackedRing if packed else SplitRing
    sizes = [length for _, length, _ in kind.areas(size)]
    return isinstance(memory, RegionMemory) and memory.maps(zip(addresses, sizes, strict=True)) and native().used


def build_ring(memory: Memory, addresses: RingAddresses, size: int, features: Feature) -> Ring:
    """The device half of a virtqueue.

    C needs memory that stays mapped: with apertures, or memory that messages reach, the ring is Python's.

    Raises:
        GuestError: Its place or size breaks a rule.
        HostError: The platform cannot map it.
    """
    packed = bool(features & Feature.RING_PACKED)
    if suits(memory, addresses, size, packed=packed):
        assert isinstance(memory, RegionMemory)
        from hdvkit.native.rings import NativePackedRing, NativeSplitRing  # only where it was built

        return (NativePackedRing if packed else NativeSplitRing)(memory, addresses, size, features)
    return (PackedRing if packed else SplitRing)(memory, addresses, size, features)
