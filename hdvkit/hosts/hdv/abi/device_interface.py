"""HDV_PCI_DEVICE_INTERFACE: the ten functions by which HDV asks a device, called on threads of HDV's own.

One table serves all devices of the process; which one is meant says the context that HDV passes back.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from hdvkit.hosts.hdv.abi.binding import Pointer, Table, ffi, text_at
from hdvkit.hosts.hdv.abi.hresult import S_OK

VERSION_1 = 1
MOST_VALUES = 256
"""Texts of a configuration that are looked at."""
BAR_COUNT = 6


class PnpId(NamedTuple):
    """``HDV_PCI_PNP_ID``: who the function is, in the order of the structure."""

    vendor_id: int
    device_id: int
    revision_id: int
    prog_if: int
    sub_class: int
    base_class: int
    subsystem_vendor_id: int
    subsystem_id: int


class Callbacks(Protocol):
    """What HDV asks a device. On any thread, several at a time; the vCPU waits until the answer is there."""

    def power_on(self) -> None:
        """The guest's slot comes to life: ``Initialize``."""
        ...

    def configure(self, values: Sequence[str]) -> None:
        """What the slot's document says in ``Configuration``."""
        ...

    def details(self) -> tuple[PnpId, Sequence[int]]:
        """Identity, and what each BAR register reads after all ones were written. Asked more than once."""
        ...

    def torn_down(self) -> None:
        """The last call."""
        ...

    def read_config(self, offset: int) -> int:
        """Read a double word of configuration space."""
        ...

    def write_config(self, offset: int, value: int) -> None:
        """Write a double word of configuration space."""
        ...

    def read(self, bar: int, offset: int, size: int) -> bytes:
        """The guest reads 1, 2, 4 or 8 bytes of a BAR."""
        ...

    def write(self, bar: int, offset: int, data: bytes) -> None:
        """The guest writes to a BAR."""
        ...


class Context:
    """One device as HDV knows it. Lives until HDV has called ``Teardown`` for it."""

    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks
        self.pointer: Pointer = ffi().new_handle(callbacks)

    @property
    def interface(self) -> Pointer:
        """The table that goes with it."""
        return _table().pointer


def _device(context: Pointer) -> Callbacks:
    device: Callbacks = ffi().from_handle(context)
    return device


def _initialize(context: Pointer) -> int:
    _device(context).power_on()
    return S_OK


def _teardown(context: Pointer) -> None:
    _device(context).torn_down()


def _set_configuration(context: Pointer, count: int, values: Pointer) -> int:
    texts = [text_at(values[number]) for number in range(min(count, MOST_VALUES))] if values else []
    _device(context).configure(texts)
    return S_OK


def _get_details(context: Pointer, pnp: Pointer, count: int, bars: Pointer) -> int:
    identity, words = _device(context).details()
    if pnp:
        pnp[0] = tuple(identity)
    for number in range(min(count, BAR_COUNT) if bars else 0):
        bars[number] = words[number]
    return S_OK


def _start(_: Pointer) -> int:
    return S_OK


def _stop(_: Pointer) -> None:
    return None


def _read_config_space(context: Pointer, offset: int, value: Pointer) -> int:
    value[0] = _device(context).read_config(offset)
    return S_OK


def _write_config_space(context: Pointer, offset: int, value: int) -> int:
    _device(context).write_config(offset, value)
    return S_OK


def _read_intercepted_memory(context: Pointer, bar: int, offset: int, length: int, value: Pointer) -> int:
    if value and length:
        ffi().buffer(value, length)[:] = _device(context).read(bar, offset, length)
    return S_OK


def _write_intercepted_memory(context: Pointer, bar: int, offset: int, length: int, value: Pointer) -> int:
    if value and length:
        _device(context).write(bar, offset, bytes(ffi().buffer(value, length)))
    return S_OK


@functools.cache
def _table() -> Table:
    """Never freed: HDV has its address for as long as any device lives."""
    table = Table(
        "HDV_PCI_DEVICE_INTERFACE",
        Initialize=_initialize,
        Teardown=_teardown,
        SetConfiguration=_set_configuration,
        GetDetails=_get_details,
        Start=_start,
        Stop=_stop,
        ReadConfigSpace=_read_config_space,
        WriteConfigSpace=_write_config_space,
        ReadInterceptedMemory=_read_intercepted_memory,
        WriteInterceptedMemory=_write_intercepted_memory,
    )
    table.pointer.Version = VERSION_1
    return table
