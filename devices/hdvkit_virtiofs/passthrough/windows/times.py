"""Times of Windows, 100 ns since 1601, and nanoseconds since 1970. Pure."""

import errno
from typing import Final

from hdvkit_virtiofs.passthrough.errors import refusal

TICK: Final = 100
"""Nanoseconds."""

EPOCH: Final = 116_444_736_000_000_000
"""1970 in ticks since 1601."""

UNCHANGED: Final = 0
"""Set as a time: leave it as it is."""

_LAST: Final = 2**63 - 1


def to_unix(ticks: int) -> int:
    """Nanoseconds since 1970; negative before."""
    return (ticks - EPOCH) * TICK


def to_windows(nanoseconds: int) -> int:
    """Ticks since 1601, rounded down. The first tick stands for all that lies before: 0 would mean something else.

    Raises:
        OSError: EINVAL, later than Windows can count.
    """
    ticks = nanoseconds // TICK + EPOCH
    if ticks > _LAST:
        raise refusal(errno.EINVAL)
    return max(ticks, 1)
