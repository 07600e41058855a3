"""The common configuration structure: registers of one virtio function ("Common configuration structure layout").

No I/O. An access must name a register and its width; all else reads zeroes or is dropped, and is counted.
"""

import struct
from collections.abc import Callable

import attrs

from hdvkit.virtio.ring import RingAddresses
from hdvkit.virtio.spec import MAX_QUEUE_SIZE, NO_VECTOR, Feature
from hdvkit.virtio.status import DeviceStatus, Step


@attrs.frozen
class QueueEnabled:
    """The driver enabled a queue: its ring can be built."""

    index: int


@attrs.frozen
class QueueReset:
    """The driver takes one queue back. Answer with ``queue_reset_done`` when its last chain is back."""

    index: int


@attrs.frozen
class DriverReady:
    """DRIVER_OK: enabled queues may be used."""


@attrs.frozen
class DriverFailed:
    """The driver gave up on the device."""


@attrs.frozen
class FeaturesRefused:
    """FEATURES_OK was not given."""

    reason: str


@attrs.frozen
class DeviceReset:
    """The driver resets the device. Answer with ``reset_done`` when the last chain is back."""


@attrs.frozen
class InterruptsMoved:
    """A queue that may be in use interrupts in another way from now on."""


@attrs.frozen
class MasteringLost:
    """The guest cleared Bus Master Enable: the device may not touch its memory any more."""


ControlEvent = (
    QueueEnabled
    | QueueReset
    | DriverReady
    | DriverFailed
    | FeaturesRefused
    | DeviceReset
    | InterruptsMoved
    | MasteringLost
)

COMMON_SIZE = 0x40

REGISTERS = {
    # offset: (size, name); 64-bit registers may also be accessed as two halves
    0x00: (4, "device_feature_select"),
    0x04: (4, "device_feature"),
    0x08: (4, "driver_feature_select"),
    0x0C: (4, "driver_feature"),
    0x10: (2, "config_msix_vector"),
    0x12: (2, "num_queues"),
    0x14: (1, "device_status"),
    0x15: (1, "config_generation"),
    0x16: (2, "queue_select"),
    0x18: (2, "queue_size"),
    0x1A: (2, "queue_msix_vector"),
    0x1C: (2, "queue_enable"),
    0x1E: (2, "queue_notify_off"),
    0x20: (8, "queue_desc"),
    0x28: (8, "queue_driver"),
    0x30: (8, "queue_device"),
    0x38: (2, "queue_notify_data"),
    0x3A: (2, "queue_reset"),
}

_BY_ACCESS = {(offset, size): (name, 0) for offset, (size, name) in REGISTERS.items()} | {
    (offset + half, 4): (name, 8 * half) for offset, (size, name) in REGISTERS.items() if size == 8 for half in (0, 4)
}
_PACK = {1: struct.Struct("<B"), 2: struct.Struct("<H"), 4: struct.Struct("<I"), 8: struct.Struct("<Q")}
_AREAS = {"queue_desc": "desc", "queue_driver": "driver", "queue_device": "device"}


@attrs.define
class QueueRegisters:
    """What the driver configured for one queue."""

    max_size: int
    size: int = 0
    vector: int = NO_VECTOR
    enabled: bool = False
    resetting: bool = False
    desc: int = 0
    driver: int = 0
    device: int = 0

    def reset(self) -> None:
        """As after power-on."""
        self.size = self.max_size
        self.vector = NO_VECTOR
        self.enabled = False
        self.resetting = False
        self.desc = self.driver = self.device = 0

    @property
    def addresses(self) -> RingAddresses:
        """Where the ring lies."""
        return RingAddresses(self.desc, self.driver, self.device)


class CommonConfig:
    """The registers, and the negotiation behind them."""

    def __init__(self, offered: Feature, queue_sizes: tuple[int, ...], vectors: int) -> None:
        self.status = DeviceStatus(offered)
        self.queues = [QueueRegisters(size) for size in queue_sizes]
        self.dropped = 0
        """Accesses that were refused for their size, place, value or moment."""
        self.generation = 0
        self._vectors = vectors
        self._resetting = False
        self._clear()

    def _clear(self) -> None:
        self.config_vector = NO_VECTOR
        self._select = {"device_feature_select": 0, "driver_feature_select": 0, "queue_select": 0}
        self._driver_features = 0
        self._refused: int | None = None
        for queue in self.queues:
            queue.reset()

    def reset(self) -> None:
        """Everything as after power-on, but device_status, which reads 0 only after ``reset_done``."""
        self._resetting = True
        self._clear()

    def reset_done(self) -> None:
        """The device has let go of all the driver lent it: device_status reads 0 from now on."""
        self._resetting = False
        self.status.reset()

    def queue_reset_done(self, index: int) -> None:
        """The device has let go of all the driver lent it through one queue."""
        self.queues[index].resetting = False

    @property
    def untouched(self) -> bool:
        """Whether no driver has begun since the last reset, and none is under way."""
        return not self.status.value and not self._resetting

    @property
    def features(self) -> Feature:
        """What was negotiated; nothing before FEATURES_OK."""
        return self.status.accepted

    def read(self, offset: int, size: int) -> bytes:
        """Read a register; anything else reads zeroes and is counted."""
        register = _BY_ACCESS.get((offset, size))
        if register is None:
            self.dropped += 1
            return bytes(min(max(size, 0), 8))
        name, shift = register
        return _PACK[size].pack(self._get(name) >> shift & ((1 << 8 * size) - 1))

    def write(self, offset: int, data: bytes) -> list[ControlEvent]:
        """Write a register; anything else is dropped and counted. Returns what has come of it, to be acted on."""
        register = _BY_ACCESS.get((offset, len(data)))
        if register is None:
            self.dropped += 1
            return []
        name, shift = register
        value = int.from_bytes(data, "little")
        if self._resetting and name != "device_status":
            return self._drop(value)  # the driver has to wait until device_status reads 0
        if name in self._select:
            self._select[name] = value
        elif name in _AREAS:
            self._write_address(_AREAS[name], shift, value, len(data))
        else:
            return _WRITERS.get(name, CommonConfig._drop)(self, value)
        return []

    def _get(self, name: str) -> int:
        if name in self._select:
            return self._select[name]
        if name.startswith("queue_"):
            queue = self._selected()
            return 0 if queue is None else self._get_queue(name, queue)
        match name:
            case "device_feature":
                return self._half(self.status.offered, "device_feature_select")
            case "driver_feature":
                return self._half(self._driver_features, "driver_feature_select")
            case "config_msix_vector":
                return self.config_vector
            case "num_queues":
                return len(self.queues)
            case "device_status":
                return int(self.status.value)
            case _:
                return self.generation

    def _get_queue(self, name: str, queue: QueueRegisters) -> int:
        match name:
            case "queue_size":
                return queue.size
            case "queue_msix_vector":
                return queue.vector
            case "queue_enable":
                return queue.enabled
            case "queue_reset":
                return queue.resetting
            case "queue_notify_off":
                return self._select["queue_select"]
            case "queue_notify_data":
                return 0  # VIRTIO_F_NOTIF_CONFIG_DATA is not offered
            case _:
                return int(getattr(queue, _AREAS[name]))

    def _half(self, features: int, select: str) -> int:
        chosen = self._select[select]
        return features >> 32 * chosen & 0xFFFFFFFF if chosen < 2 else 0

    def _selected(self) -> QueueRegisters | None:
        index = self._select["queue_select"]
        return self.queues[index] if index < len(self.queues) else None

    def _idle(self) -> QueueRegisters | None:
        """The selected queue, when the driver may change it: not while it is enabled or being reset."""
        queue = self._selected()
        return None if queue is None or queue.enabled or queue.resetting else queue

    def _drop(self, value: int) -> list[ControlEvent]:
        self.dropped += 1
        return []

    def _write_driver_feature(self, value: int) -> list[ControlEvent]:
        half = self._select["driver_feature_select"]
        if not self.status.negotiating or half >= 2:
            # Bits above 63 do not exist: writing 0 there is how a driver says so, and breaks nothing.
            return [] if half >= 2 and not value else self._drop(value)
        kept = self._driver_features & ~(0xFFFFFFFF << 32 * half)
        self._driver_features = kept | value << 32 * half
        return []

    def _write_status(self, value: int) -> list[ControlEvent]:
        if self._resetting:
            # 0 again asks for what is under way.
            return [] if not value else self._drop(value)
        step = self.status.write(value, self._driver_features)
        match step:
            case Step.REFUSE:
                return self._drop(value)
            case Step.RESET:
                return [DeviceReset()]
            case Step.START:
                return [DriverReady()]
            case Step.FAIL:
                return [DriverFailed()]
            case Step.NEGOTIATE if self.status.refusal and self._refused != self._driver_features:
                self._refused = self._driver_features  # told once, however often the driver asks
                return [FeaturesRefused(self.status.refusal)]
        return []

    def _write_config_vector(self, value: int) -> list[ControlEvent]:
        self.config_vector = self._vector(value)
        return []

    def _write_queue_vector(self, value: int) -> list[ControlEvent]:
        queue = self._selected()
        if queue is None:
            return self._drop(value)
        queue.vector = self._vector(value)
        return [InterruptsMoved()] if queue.enabled else []

    def _vector(self, value: int) -> int:
        """A vector the table has not reads back as NO_VECTOR: that is how the driver learns of it."""
        return value if value < self._vectors else NO_VECTOR

    def _write_queue_size(self, value: int) -> list[ControlEvent]:
        queue = self._idle()
        packed = self.features & Feature.RING_PACKED
        if (
            queue is None
            or not 0 < value <= min(queue.max_size, MAX_QUEUE_SIZE)
            or (value & (value - 1) and not packed)
        ):
            return self._drop(value)
        queue.size = value
        return []

    def _write_queue_enable(self, value: int) -> list[ControlEvent]:
        queue = self._idle()
        if queue is None or value != 1 or not self.status.accepted:
            return self._drop(value)
        queue.enabled = True
        return [QueueEnabled(self._select["queue_select"])]

    def _write_queue_reset(self, value: int) -> list[ControlEvent]:
        queue = self._selected()
        if queue is None or value != 1 or not self.features & Feature.RING_RESET or queue.resetting:
            return self._drop(value)
        queue.reset()
        queue.resetting = True
        return [QueueReset(self._select["queue_select"])]

    def _write_address(self, area: str, shift: int, value: int, size: int) -> None:
        queue = self._idle()
        if queue is None:
            self.dropped += 1
            return
        mask = ((1 << 8 * size) - 1) << shift
        setattr(queue, area, (getattr(queue, area) & ~mask) | value << shift)


_WRITERS: dict[str, Callable[[CommonConfig, int], list[ControlEvent]]] = {
    "driver_feature": CommonConfig._write_driver_feature,
    "config_msix_vector": CommonConfig._write_config_vector,
    "device_status": CommonConfig._write_status,
    "queue_size": CommonConfig._write_queue_size,
    "queue_msix_vector": CommonConfig._write_queue_vector,
    "queue_enable": CommonConfig._write_queue_enable,
    "queue_reset": CommonConfig._write_queue_reset,
}
