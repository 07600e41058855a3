"""One virtio PCI function: where accesses go and what comes of them ("Virtio Over PCI Bus"). No I/O.

Accesses in, values and events out; it calls nobody. Spaces are the six BARs by number and ``CONFIG``.
"""

import struct
from collections.abc import Sequence
from typing import Final

import attrs

from hdvkit.errors import UsageError
from hdvkit.pci.capabilities import express, vendor
from hdvkit.pci.config import Bar, Capability, Command, ConfigSpace, Identity
from hdvkit.pci.msix import CONTROL_OFFSET, Message, MsixTable
from hdvkit.virtio.common import COMMON_SIZE, CommonConfig, ControlEvent, DeviceReset, InterruptsMoved, MasteringLost
from hdvkit.virtio.spec import (
    MAX_QUEUE_SIZE,
    MAX_QUEUES,
    NO_VECTOR,
    PCI_DEVICE_ID_BASE,
    PCI_REVISION_ID,
    PCI_SUBSYSTEM_ID,
    PCI_VENDOR_ID,
    CapabilityType,
    Feature,
    Isr,
    Status,
)

CONFIG: Final = -1
"""The configuration space, where a BAR number would stand."""

REGISTERS_BAR = 0
MSIX_BAR = 2
COMMON_OFFSET = 0x0000
ISR_OFFSET = 0x1000
DEVICE_OFFSET = 0x2000
NOTIFY_OFFSET = 0x3000
NOTIFY_MULTIPLIER = 4
"""Each queue has an address of its own, so that a platform can tell queues apart without reading the value."""
REGISTERS_SIZE = 0x4000
MAX_DEVICE_CONFIG = 0x1000

_STRUCTURE = struct.Struct("<BBB2xII")  # type, bar, id, offset, length
_WINDOW = struct.Struct("<BB2xII")  # of the PCI configuration access capability: bar, id, offset, length
_WINDOW_WRITABLE = bytes([0, 0xFF, 0, 0, 0]) + b"\xff" * 12


@attrs.frozen
class Kicked:
    """The driver says that a queue has new buffers."""

    index: int


Event = ControlEvent | Kicked | Message
"""What a write may bring about: Message is an interrupt that is due now."""

_RESET: Final = DeviceReset()

INTX: Final = Message(-1, 0, 0)
"""The message that stands for the interrupt pin."""


class Transport:
    """A modern virtio PCI function, from power-on to the end.

    Arguments:
        device_type: The virtio device id.
        class_code: PCI class, as 0xBBSSII.
        features: What is offered, device features included.
        queue_sizes: The largest size of each queue.
        config: The device-specific configuration.
        remapped: The platform owns the MSI-X table; vectors are signalled by number, masks are its business.
        interrupt_pin: 1 to offer INTx as well, as PCI numbers pins.
        msix: Whether to offer MSI-X.
        pci_express: Whether to carry a PCI Express capability.
    """

    def __init__(
        self,
        *,
        device_type: int,
        class_code: int,
        features: Feature,
        queue_sizes: Sequence[int],
        config: bytes = b"",
        remapped: bool = False,
        interrupt_pin: int = 0,
        msix: bool = True,
        pci_express: bool = False,
    ) -> None:
        _check(queue_sizes, config)
        self.vectors = 1 + len(queue_sizes) if msix else 0
        self.msix = MsixTable(1 + len(queue_sizes))
        self.common = CommonConfig(features | Feature.VERSION_1, tuple(queue_sizes), self.vectors)
        self.device_config = config
        self.isr = Isr(0)
        self._remapped = remapped
        self._pin = interrupt_pin
        self._dropped = 0
        self._kicks = tuple((Kicked(index),) for index in range(len(queue_sizes)))
        identity = Identity(
            vendor_id=PCI_VENDOR_ID,
            device_id=PCI_DEVICE_ID_BASE + device_type,
            class_code=class_code,
            revision_id=PCI_REVISION_ID,
            subsystem_vendor_id=PCI_VENDOR_ID,
            subsystem_id=PCI_SUBSYSTEM_ID,
        )
        bars = [Bar(REGISTERS_BAR, REGISTERS_SIZE)]
        if self.vectors:
            bars.append(Bar(MSIX_BAR, max(4096, 1 << (self.msix.size - 1).bit_length())))
        self.config = ConfigSpace(
            identity, bars, self._capabilities(pci_express), interrupt_pin=interrupt_pin, express=pci_express
        )
        self._window = self.config.positions[0] + 4
        self._window_data = self._window + _WINDOW.size
        self._msix_control = self.config.positions[1] + CONTROL_OFFSET if self.vectors else self.config.size

    def _capabilities(self, pci_express: bool) -> list[Capability]:
        structures = [
            (CapabilityType.COMMON, COMMON_OFFSET, COMMON_SIZE, b""),
            (CapabilityType.ISR, ISR_OFFSET, 1, b""),
            (
                CapabilityType.NOTIFY,
                NOTIFY_OFFSET,
                NOTIFY_MULTIPLIER * len(self._kicks),
                _le32(NOTIFY_MULTIPLIER),
            ),
        ]
        if self.device_config:
            structures.append((CapabilityType.DEVICE, DEVICE_OFFSET, len(self.device_config), b""))
        return [
            vendor(_STRUCTURE.pack(CapabilityType.PCI, 0, 0, 0, 0) + bytes(4), _WINDOW_WRITABLE),
            *([self.msix.capability(MSIX_BAR)] if self.vectors else []),
            *(vendor(_STRUCTURE.pack(kind, REGISTERS_BAR, 0, at, size) + more) for kind, at, size, more in structures),
            *([express()] if pci_express else []),
        ]

    # What the guest does

    def read(self, space: int, offset: int, size: int) -> bytes:
        """Answer a read. Never raises: what does not exist reads as zeroes and is counted."""
        if space == REGISTERS_BAR:
            return self._read_registers(offset, size)
        if space == MSIX_BAR and self.vectors:
            return self.msix.read(offset, size)
        if space == CONFIG:
            return self._read_config(offset, size)
        self._dropped += 1
        return bytes(min(max(size, 0), 8))

    def write(self, space: int, offset: int, data: bytes) -> Sequence[Event]:
        """Take a write. Never raises. The caller acts on the events, in order."""
        if space == REGISTERS_BAR:
            return self._write_registers(offset, data)
        if space == MSIX_BAR and self.vectors:
            return self.msix.write(offset, data)
        if space == CONFIG:
            return self._write_config(offset, data)
        self._dropped += 1
        return ()

    def hard_reset(self) -> Sequence[Event]:
        """The platform resets the function: configuration space and MSI-X too, besides what a driver's reset does."""
        self.config.reset()
        self.msix.reset()
        return self._reset()

    # What the device does

    def reset_done(self) -> None:
        """All chains are back after DeviceReset: the driver may see status 0."""
        self.common.reset_done()

    def signal_queue(self, index: int) -> Message | None:
        """The driver wants an interrupt for a queue: the message to send, if any can be sent now."""
        return self._signal(self.common.queues[index].vector, Isr.QUEUE)

    def queue_vector(self, index: int) -> int | None:
        """The vector for a queue, where the platform owns the table and may interrupt by itself.

        None where ``signal_queue`` has to be asked each time. Changes with ``InterruptsMoved``.
        """
        vector = self.common.queues[index].vector
        return vector if self._remapped and self.msix.enabled and vector != NO_VECTOR else None

    def signal_config(self) -> Message | None:
        """Tell the driver that configuration or status changed: the message to send, if any can be sent now."""
        return self._signal(self.common.config_vector, Isr.CONFIG)

    def needs_reset(self) -> Message | None:
        """Set DEVICE_NEEDS_RESET. Returns the message to send; the driver is told only once it is up."""
        running = self.common.status.running
        self.common.status.needs_reset()
        return self.signal_config() if running else None

    def change_config(self, config: bytes) -> Message | None:
        """Show another device-specific configuration. An equal one changes nothing and interrupts nobody."""
        if config == self.device_config:
            return None
        if len(config) != len(self.device_config):
            raise UsageError(
                f"a device configuration of {len(config)} bytes: it had {len(self.device_config)} and cannot grow"
            )
        self.device_config = config
        self.common.generation = (self.common.generation + 1) & 0xFF
        return self.signal_config()

    @property
    def features(self) -> Feature:
        """What was negotiated."""
        return self.common.features

    @property
    def running(self) -> bool:
        """Whether the driver is up and the device has not given up."""
        return self.common.status.running

    @property
    def needing_reset(self) -> bool:
        """Whether DEVICE_NEEDS_RESET is set."""
        return bool(self.common.status.value & Status.DEVICE_NEEDS_RESET)

    @property
    def asserts_pin(self) -> bool:
        """Whether the function drives its interrupt pin."""
        if not self._pin or not self.isr or self.msix.enabled:
            return False
        return not self.config.command & Command.INTX_DISABLE

    @property
    def dropped(self) -> int:
        """Accesses refused, in all spaces together."""
        return self._dropped + self.common.dropped + self.config.dropped + self.msix.dropped

    # BAR 0

    def _read_registers(self, offset: int, size: int) -> bytes:
        if 0 <= offset < COMMON_SIZE:
            return self.common.read(offset, size)
        if offset == ISR_OFFSET and size == 1:
            isr = self.isr
            self._set_isr(Isr(0))
            return bytes([isr])
        at = offset - DEVICE_OFFSET
        if size in (1, 2, 4, 8) and not at % size and 0 <= at <= len(self.device_config) - size:
            return self.device_config[at : at + size]
        self._dropped += 1
        return bytes(min(max(size, 0), 8))

    def _write_registers(self, offset: int, data: bytes) -> Sequence[Event]:
        if offset >= NOTIFY_OFFSET:
            return self._notify(offset - NOTIFY_OFFSET, data)
        if not 0 <= offset < COMMON_SIZE:
            self._dropped += 1  # ISR and device configuration are read-only
            return ()
        events = self.common.write(offset, data)
        return self._reset() if _RESET in events else events

    def _notify(self, at: int, data: bytes) -> Sequence[Event]:
        """A kick: the queue index as 16 bits, or with NOTIFICATION_DATA in the low half of 32."""
        index = int.from_bytes(data[:2], "little")
        if (
            len(data) != (4 if self.features & Feature.NOTIFICATION_DATA else 2)
            or at != NOTIFY_MULTIPLIER * index
            or index >= len(self._kicks)
            or not self.common.queues[index].enabled
            or not self.running
        ):
            self._dropped += 1
            return ()
        return self._kicks[index]

    def _reset(self) -> Sequence[Event]:
        self._set_isr(Isr(0))
        untouched = self.common.untouched
        self.common.reset()
        if untouched:
            # Nothing was lent, so nothing has to come back first: firmware does not always look whether it has.
            self.common.reset_done()
            return ()
        return (_RESET,)

    # Configuration space

    def _read_config(self, offset: int, size: int) -> bytes:
        if offset == self._window_data and self.config.allows(offset, size):
            bar, at, length = self._windowed()
            if bar != CONFIG:
                return self.read(bar, at, length).ljust(size, b"\0")[:size]
            self._dropped += 1
            return bytes(size)
        return self.config.read(offset, size)

    def _write_config(self, offset: int, data: bytes) -> Sequence[Event]:
        asserted = self.asserts_pin
        events = self._write_config_register(offset, data)
        return (*events, INTX) if self.asserts_pin and not asserted else events

    def _write_config_register(self, offset: int, data: bytes) -> Sequence[Event]:
        mastering = self.config.command & Command.BUS_MASTER
        self.config.write(offset, data)
        if not self.config.allows(offset, len(data)):
            return ()
        if mastering and not self.config.command & Command.BUS_MASTER:
            return (MasteringLost(),)
        if offset == self._window_data:
            bar, at, length = self._windowed()
            if bar != CONFIG:
                return self.write(bar, at, self.config.read(self._window_data, 4)[:length])
            self._dropped += 1
        elif offset <= self._msix_control + 1 and offset + len(data) > self._msix_control:
            messages = self.msix.control(int.from_bytes(self.config.read(self._msix_control, 2), "little"))
            self._set_isr(self.isr)  # the pin is wanted or not, as MSI-X is off or on
            return (*messages, InterruptsMoved()) if self._remapped else messages
        return ()

    def _windowed(self) -> tuple[int, int, int]:
        """Where the PCI configuration access capability points: BAR, offset, length. CONFIG when nowhere."""
        raw = b"".join(self.config.read(self._window + at, 4) for at in range(0, _WINDOW.size, 4))
        bar, _, offset, length = _WINDOW.unpack(raw)
        # A BAR only: the configuration space itself is out of reach, so one access never leads to a second such.
        return (bar if bar in self.config.bars and length in (1, 2, 4) else CONFIG), offset, length

    def _signal(self, vector: int, cause: Isr) -> Message | None:
        # "ISR status capability": a configuration change shows there whatever carries the interrupt.
        if cause is Isr.CONFIG or not self.msix.enabled:
            self._set_isr(self.isr | cause)
        if self.msix.enabled:
            if vector == NO_VECTOR:
                return None
            return Message(vector, 0, 0) if self._remapped else self.msix.signal(vector)
        return INTX if self.asserts_pin else None

    def _set_isr(self, isr: Isr) -> None:
        self.isr = isr
        self.config.show_interrupt(bool(isr) and not self.msix.enabled)


def _le32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _check(queue_sizes: Sequence[int], config: bytes) -> None:
    if not 1 <= len(queue_sizes) <= MAX_QUEUES:
        raise UsageError(f"{len(queue_sizes)} queues: a device has between 1 and {MAX_QUEUES}")
    for size in queue_sizes:
        if not 1 <= size <= MAX_QUEUE_SIZE or size & (size - 1):
            raise UsageError(f"a queue of {size}: its size must be a power of two of at most {MAX_QUEUE_SIZE}")
    if len(config) > MAX_DEVICE_CONFIG:
        raise UsageError(f"a device configuration of {len(config)} bytes: at most {MAX_DEVICE_CONFIG} fit")
