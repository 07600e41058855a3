"""The common configuration, register by register, against "Common configuration structure layout"."""

import struct
from itertools import product

import pytest

from hdvkit.virtio import (
    DeviceReset,
    DriverFailed,
    DriverReady,
    Feature,
    FeaturesRefused,
    InterruptsMoved,
    QueueEnabled,
    QueueReset,
)
from hdvkit.virtio.common import CommonConfig

# struct virtio_pci_common_cfg, in its own order
LAYOUT = (
    ("device_feature_select", 4),
    ("device_feature", 4),
    ("driver_feature_select", 4),
    ("driver_feature", 4),
    ("config_msix_vector", 2),
    ("num_queues", 2),
    ("device_status", 1),
    ("config_generation", 1),
    ("queue_select", 2),
    ("queue_size", 2),
    ("queue_msix_vector", 2),
    ("queue_enable", 2),
    ("queue_notify_off", 2),
    ("queue_desc", 8),
    ("queue_driver", 8),
    ("queue_device", 8),
    ("queue_notify_data", 2),
    ("queue_reset", 2),
)
OFFSET = {name: sum(size for _, size in LAYOUT[:at]) for at, (name, _) in enumerate(LAYOUT)}
SIZE = dict(LAYOUT)
OFFERED = Feature.VERSION_1 | Feature.RING_PACKED | Feature.RING_RESET | Feature.EVENT_IDX | Feature(1 << 5 | 1 << 55)
NO_VECTOR = 0xFFFF


class Registers:
    """The structure as a driver handles it, by name."""

    def __init__(self, queue_sizes: tuple[int, ...] = (64, 16), vectors: int = 3) -> None:
        self.common = CommonConfig(OFFERED, queue_sizes, vectors)

    def get(self, name: str) -> int:
        """Read a register; 64 bits in two halves."""
        size = min(SIZE[name], 4)
        parts = [self.common.read(OFFSET[name] + at, size) for at in range(0, SIZE[name], size)]
        assert all(len(part) == size for part in parts)
        return int.from_bytes(b"".join(parts), "little")

    def put(self, name: str, value: int) -> list[object]:
        """Write a register; 64 bits in two halves."""
        data = value.to_bytes(SIZE[name], "little")
        size = min(SIZE[name], 4)
        return [
            event
            for at in range(0, SIZE[name], size)
            for event in self.common.write(OFFSET[name] + at, data[at : at + size])
        ]

    def want(self, features: int) -> None:
        """Write driver features as Linux does."""
        for half in (0, 1):
            self.put("driver_feature_select", half)
            self.put("driver_feature", features >> 32 * half & 0xFFFFFFFF)

    def negotiate(self, features: int = 0) -> list[object]:
        """Go as far as FEATURES_OK."""
        self.put("device_status", 1)
        self.put("device_status", 3)
        self.want(Feature.VERSION_1 | features)
        return self.put("device_status", 0x0B)

    def start(self, features: int = 0) -> list[object]:
        """Go as far as DRIVER_OK."""
        assert self.negotiate(features) == []
        return self.put("device_status", 0x0F)


def counted(registers: Registers, name: str, value: int) -> None:
    """A write that has to be dropped and counted, and changes nothing a driver can read."""
    before = {other: registers.get(other) for other, _ in LAYOUT}
    count = registers.common.dropped
    assert registers.put(name, value) == []
    assert registers.common.dropped == count + (2 if SIZE[name] == 8 else 1)
    assert {other: registers.get(other) for other, _ in LAYOUT} == before


def test_the_layout_of_this_test_is_that_of_the_specification() -> None:
    assert OFFSET["queue_desc"] == 0x20
    assert OFFSET["queue_reset"] == 0x3A
    assert sum(SIZE.values()) == 0x3C


def test_registers_after_power_on() -> None:
    registers = Registers()
    assert {name: registers.get(name) for name, _ in LAYOUT} == {
        **dict.fromkeys(SIZE, 0),
        "device_feature": 1 << 5 | 1 << 29,
        "config_msix_vector": NO_VECTOR,
        "num_queues": 2,
        "queue_size": 64,
        "queue_msix_vector": NO_VECTOR,
    }
    assert registers.common.dropped == 0


def test_only_whole_registers_and_halves_of_64_bit_ones_are_accessed() -> None:
    allowed = {(OFFSET[name], size) for name, size in LAYOUT}
    allowed |= {(OFFSET[name] + half, 4) for name, size in LAYOUT if size == 8 for half in (0, 4)}
    for offset, size in product(range(-2, 0x42), range(10)):
        common = Registers().common
        data = common.read(offset, size)
        assert len(data) == min(size, 8)
        good = (offset, size) in allowed
        assert common.dropped == (0 if good else 1), (offset, size)
        if not good:
            assert data == bytes(min(size, 8))
            assert common.write(offset, b"\1" * size) == []
            assert common.dropped == 2
    assert Registers().common.read(0, -1) == b""


@pytest.mark.parametrize(
    "name", ["device_feature", "num_queues", "config_generation", "queue_notify_off", "queue_notify_data"]
)
def test_read_only_registers_drop_writes(name: str) -> None:
    counted(Registers(), name, 1)


def test_device_features_come_in_two_words_and_none_above() -> None:
    registers = Registers()
    words = []
    for select in (0, 1, 2, 3, 0xFFFFFFFF):
        registers.put("device_feature_select", select)
        assert registers.get("device_feature_select") == select
        words.append(registers.get("device_feature"))
    assert words == [1 << 5 | 1 << 29, 1 << 23 | 1 << 8 | 1 << 2 | 1 << 0, 0, 0, 0]


def test_driver_features_can_be_written_and_read_back_while_negotiating() -> None:
    registers = Registers()
    registers.put("device_status", 1)
    counted(registers, "driver_feature", 1)
    registers.put("device_status", 3)
    registers.want(0x12345678_9ABCDEF0)
    words = []
    for select in (0, 1, 2, 0xFFFFFFFF):
        registers.put("driver_feature_select", select)
        words.append(registers.get("driver_feature"))
    assert words == [0x9ABCDEF0, 0x12345678, 0, 0]
    registers.put("driver_feature_select", 0)
    registers.put("driver_feature", 7)
    assert registers.get("driver_feature") == 7, "a word is replaced, not added to"


def test_driver_features_are_frozen_by_features_ok() -> None:
    registers = Registers()
    registers.negotiate(1 << 5)
    registers.put("driver_feature_select", 0)
    counted(registers, "driver_feature", 0)
    registers.put("device_status", 0x0F)
    counted(registers, "driver_feature", 0)
    assert registers.common.features == Feature.VERSION_1 | 1 << 5


def test_feature_words_that_do_not_exist_take_zeroes_silently_and_count_ones() -> None:
    registers = Registers()
    registers.put("device_status", 3)
    registers.put("driver_feature_select", 2)
    assert registers.put("driver_feature", 0) == []
    assert registers.common.dropped == 0
    counted(registers, "driver_feature", 1)


def test_what_status_writes_bring_about() -> None:
    registers = Registers()
    assert registers.common.features == 0
    assert registers.put("device_status", 1) == []
    assert registers.put("device_status", 3) == []
    assert registers.put("device_status", 0x0B) == [
        FeaturesRefused("the driver does not want VERSION_1; legacy drivers are not supported")
    ]
    assert registers.get("device_status") == 3
    registers.want(Feature.VERSION_1)
    assert registers.put("device_status", 0x0B) == []
    assert registers.common.features == Feature.VERSION_1
    counted(registers, "device_status", 0x03)
    assert registers.put("device_status", 0x0F) == [DriverReady()]
    assert registers.put("device_status", 0x0F) == []
    assert registers.put("device_status", 0x8F) == [DriverFailed()]
    assert registers.get("device_status") == 0x8F
    assert registers.put("device_status", 0) == [DeviceReset()]


def test_queue_size_may_shrink_to_powers_of_two() -> None:
    registers = Registers()
    registers.negotiate()
    for size in (64, 32, 1, 64):
        assert registers.put("queue_size", size) == []
        assert registers.get("queue_size") == size
    for size in (0, 3, 63, 65, 128, 0xFFFF):
        counted(registers, "queue_size", size)


def test_queue_size_of_a_packed_ring_may_be_any_number() -> None:
    registers = Registers()
    registers.negotiate(Feature.RING_PACKED)
    for size in (1, 3, 63, 64):
        assert registers.put("queue_size", size) == []
        assert registers.get("queue_size") == size
    for size in (0, 65, 0xFFFF):
        counted(registers, "queue_size", size)


def test_each_queue_has_registers_of_its_own() -> None:
    registers = Registers((64, 16), vectors=3)
    registers.negotiate()
    for queue in (0, 1):
        registers.put("queue_select", queue)
        assert registers.get("queue_select") == queue
        assert registers.get("queue_notify_off") == queue
        registers.put("queue_size", 8 >> queue)
        registers.put("queue_msix_vector", 1 + queue)
        for at, area in enumerate(("queue_desc", "queue_driver", "queue_device")):
            registers.put(area, 0x1_0000_0000 * (queue + 1) + 0x1000 * at)
    assert registers.put("queue_enable", 1) == [QueueEnabled(1)]
    for queue in (1, 0):
        registers.put("queue_select", queue)
        assert registers.get("queue_size") == 8 >> queue
        assert registers.get("queue_msix_vector") == 1 + queue
        assert registers.get("queue_enable") == queue
        assert registers.common.queues[queue].addresses == tuple(
            0x1_0000_0000 * (queue + 1) + 0x1000 * at for at in range(3)
        )
        assert registers.get("queue_device") == 0x1_0000_0000 * (queue + 1) + 0x2000


def test_a_queue_that_does_not_exist_reads_as_zeroes_and_takes_nothing() -> None:
    registers = Registers()
    registers.negotiate(Feature.RING_RESET)
    for queue in (2, 0xFFFF):
        assert registers.put("queue_select", queue) == []
        assert registers.get("queue_select") == queue
        for name in SIZE:
            if name.startswith("queue_") and name != "queue_select":
                assert registers.get(name) == 0, name
        for name in ("queue_size", "queue_msix_vector", "queue_enable", "queue_desc", "queue_reset"):
            counted(registers, name, 1)


def test_64_bit_addresses_are_written_by_halves_in_any_order_or_at_once() -> None:
    registers = Registers()
    common = registers.common
    for at, name in enumerate(("queue_desc", "queue_driver", "queue_device")):
        offset = OFFSET[name]
        value = 0xFEDCBA98_76543210 + at
        common.write(offset + 4, struct.pack("<I", value >> 32))
        common.write(offset, struct.pack("<I", value & 0xFFFFFFFF))
        assert registers.get(name) == value
        common.write(offset, struct.pack("<I", 1))
        assert registers.get(name) == 0xFEDCBA98_00000001, "the other half stays"
        common.write(offset, struct.pack("<Q", 5 + at))
        assert common.read(offset, 8) == struct.pack("<Q", 5 + at)
    assert common.queues[0].addresses == (5, 6, 7)
    assert common.dropped == 0


def test_queue_enable_takes_1_after_features_ok_and_only_once() -> None:
    registers = Registers()
    counted(registers, "queue_enable", 1)
    registers.put("device_status", 3)
    counted(registers, "queue_enable", 1)
    registers.put("device_status", 0)
    registers.common.reset_done()
    registers.negotiate()
    for value in (0, 2, 0xFFFF):
        counted(registers, "queue_enable", value)
    assert registers.put("queue_enable", 1) == [QueueEnabled(0)]
    assert registers.get("queue_enable") == 1
    for value in (0, 1):
        counted(registers, "queue_enable", value)


def test_an_enabled_queue_cannot_be_moved_or_resized() -> None:
    registers = Registers()
    registers.negotiate()
    registers.put("queue_desc", 0x1000)
    registers.put("queue_enable", 1)
    for name in ("queue_desc", "queue_driver", "queue_device"):
        counted(registers, name, 0x10_0000_2000)
    counted(registers, "queue_size", 32)
    assert registers.put("queue_msix_vector", 1) == [InterruptsMoved()], "where it signals may change"
    assert registers.get("queue_msix_vector") == 1


def test_a_queue_reset_lives_until_the_device_says_done() -> None:
    registers = Registers()
    registers.start(Feature.RING_RESET)
    registers.put("queue_size", 8)
    registers.put("queue_msix_vector", 1)
    registers.put("queue_desc", 0x1000)
    registers.put("queue_enable", 1)
    assert registers.get("queue_reset") == 0
    counted(registers, "queue_reset", 0)
    counted(registers, "queue_reset", 2)
    assert registers.put("queue_reset", 1) == [QueueReset(0)]
    assert registers.get("queue_reset") == 1
    assert registers.get("queue_enable") == 0
    counted(registers, "queue_reset", 1)
    counted(registers, "queue_enable", 1)
    counted(registers, "queue_size", 8)
    counted(registers, "queue_desc", 0x2000)
    registers.put("queue_select", 1)
    assert registers.get("queue_reset") == 0
    assert registers.put("queue_enable", 1) == [QueueEnabled(1)], "another queue is not concerned"
    registers.common.queue_reset_done(0)
    registers.put("queue_select", 0)
    assert registers.get("queue_reset") == 0
    assert (registers.get("queue_size"), registers.get("queue_msix_vector")) == (64, NO_VECTOR)
    assert registers.get("queue_desc") == 0
    assert registers.put("queue_enable", 1) == [QueueEnabled(0)]
    assert registers.get("device_status") == 0x0F


def test_queue_reset_needs_the_feature() -> None:
    registers = Registers()
    registers.start()
    registers.put("queue_enable", 1)
    counted(registers, "queue_reset", 1)
    assert registers.get("queue_enable") == 1


@pytest.mark.parametrize("name", ["config_msix_vector", "queue_msix_vector"])
def test_a_vector_the_table_has_not_reads_back_as_no_vector(name: str) -> None:
    registers = Registers(vectors=3)
    for written, read in ((0, 0), (2, 2), (3, NO_VECTOR), (1, 1), (0x8000, NO_VECTOR), (NO_VECTOR, NO_VECTOR)):
        assert registers.put(name, written) == []
        assert registers.get(name) == read


def test_after_a_reset_status_reads_0_only_when_the_device_is_done() -> None:
    registers = Registers()
    registers.start(Feature.RING_RESET)
    for name, value in (("queue_size", 8), ("queue_msix_vector", 1), ("queue_desc", 0x1000), ("queue_enable", 1)):
        registers.put(name, value)
    registers.put("config_msix_vector", 2)
    registers.put("queue_select", 1)
    registers.put("device_feature_select", 1)
    assert registers.put("device_status", 0) == [DeviceReset()]
    registers.common.reset()
    assert registers.get("device_status") == 0x0F
    assert registers.get("queue_enable") == 0
    assert registers.put("device_status", 0) == [], "the reset is under way already"
    for name, value in (
        ("device_status", 1),
        ("driver_feature", 1),
        ("queue_enable", 1),
        ("queue_size", 8),
        ("queue_desc", 0x1000),
    ):
        counted(registers, name, value)
    registers.common.reset_done()
    assert registers.common.features == 0
    fresh = Registers()
    assert {name: registers.get(name) for name in SIZE} == {name: fresh.get(name) for name in SIZE}


@pytest.mark.parametrize(
    ("name", "value"), [("queue_reset", 1), ("config_msix_vector", 1), ("queue_msix_vector", 1), ("queue_select", 1)]
)
def test_what_is_written_while_a_reset_is_under_way_leaves_nothing_behind(name: str, value: int) -> None:
    registers = Registers()
    registers.start(Feature.RING_RESET)
    registers.put("device_status", 0)
    registers.common.reset()
    registers.put(name, value)
    registers.common.reset_done()
    fresh = Registers()
    assert {other: registers.get(other) for other in SIZE} == {other: fresh.get(other) for other in SIZE}
    registers.negotiate()
    registers.put("queue_select", 0)
    assert registers.put("queue_enable", 1) == [QueueEnabled(0)]


def test_the_generation_is_what_the_transport_says() -> None:
    registers = Registers()
    registers.common.generation = 0xFE
    assert registers.get("config_generation") == 0xFE
    registers.common.reset()
    registers.common.reset_done()
    assert registers.get("config_generation") == 0xFE, "a reset must not make old bytes look fresh"
