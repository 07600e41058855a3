"""Kicks that come as messages, told from others in C. Where it was not built, Python reads them all."""

from collections.abc import Sequence
from typing import Any, Final

import attrs

from hdvkit.native import NativeListener, native
from hdvkit.runtime import Doorbell
from hdvkit_vfio_user.protocol.spec import Region

MODULE: Final = "hdvkit_vfio_user.native._kicks"


@attrs.frozen
class PostedKicks:
    """Tells a device's kicks: valid as long as this is kept."""

    listener: NativeListener
    _c: Any = attrs.field(repr=False)  # what the listener's context points to


def posted_kicks(doorbells: Sequence[Doorbell], wanted: Sequence[Doorbell]) -> PostedKicks | None:
    """What tells the kicks of those ``wanted`` of all doorbells of a device; None where it was not built."""
    if not native(MODULE).used:
        return None
    from hdvkit_vfio_user.native._kicks import ffi, lib  # only where it was built

    step = doorbells[1].offset - doorbells[0].offset if len(doorbells) > 1 else 0
    kicks = ffi.new(
        "vu_kicks *",
        {
            "offset": doorbells[0].offset,
            "region": Region.BAR0 + doorbells[0].bar,
            "multiplier": step,
            "size": wanted[0].size,
            "queues": sum(1 << one.index for one in wanted if one.index < 64),
        },
    )
    return PostedKicks(NativeListener(lib.vu_kicks_at, int(ffi.cast("uintptr_t", kicks))), kicks)
