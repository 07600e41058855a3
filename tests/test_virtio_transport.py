"""One virtio PCI function from outside: accesses in, values and events out, against "Virtio Over PCI Bus"."""

import struct
from collections.abc import Sequence

import pytest

from hdvkit.errors import UsageError
from hdvkit.pci import Message
from hdvkit.virtio import (
    CONFIG,
    INTX,
    DeviceReset,
    DriverReady,
    Event,
    Feature,
    Kicked,
    QueueEnabled,
    Transport,
)

DEVICE_CONFIG = bytes(range(1, 21))
MSIX_BAR = 2
STATUS, GENERATION, QUEUE_SELECT, QUEUE_VECTOR, QUEUE_ENABLE, CONFIG_VECTOR = 0x14, 0x15, 0x16, 0x1A, 0x1C, 0x10
MSIX_ENABLE = 0x8000
NO_VECTOR = 0xFFFF
OFFERED = Feature.VERSION_1 | Feature.NOTIFICATION_DATA | Feature.RING_RESET


class Function:
    """A function as a guest's driver handles it, by capabilities."""

    def __init__(
        self,
        *,
        queues: int = 2,
        config: bytes = DEVICE_CONFIG,
        remapped: bool = False,
        pin: int = 0,
        pcie: bool = False,
    ) -> None:
        self.transport = Transport(
            device_type=26,
            class_code=0x018000,
            features=OFFERED,
            queue_sizes=[64] * queues,
            config=config,
            remapped=remapped,
            interrupt_pin=pin,
            pci_express=pcie,
        )
        self.capabilities = self._walk()
        self.structures = {
            body[3]: (body[4], *struct.unpack_from("<II", body, 8), body[16:])
            for _, body in self.capabilities.get(0x09, [])
        }
        """Bar, offset, length and what follows, by virtio type."""
        self.msix = self.capabilities[0x11][0][0]
        self.window = next(at for at, body in self.capabilities[0x09] if body[3] == 5)

    def _walk(self) -> dict[int, list[tuple[int, bytes]]]:
        found: dict[int, list[tuple[int, bytes]]] = {}
        at = self.config(0x34, 1)
        while at:
            size = {0x09: self.config(at + 2, 1), 0x11: 12, 0x10: 0x3C}[self.config(at, 1)]
            body = bytes(self.config(at + n, 1) for n in range(min(size, 16))).ljust(size, b"\0")
            if body[3] == 2:
                body = body[:16] + bytes(self.config(at + n, 1) for n in range(16, size))
            found.setdefault(body[0], []).append((at, body))
            at = body[1]
        return found

    def config(self, offset: int, size: int) -> int:
        """Read configuration space."""
        return int.from_bytes(self.transport.read(CONFIG, offset, size), "little")

    def configure(self, offset: int, size: int, value: int) -> Sequence[Event]:
        """Write configuration space."""
        return self.transport.write(CONFIG, offset, value.to_bytes(size, "little"))

    def get(self, offset: int, size: int) -> int:
        """Read BAR 0."""
        return int.from_bytes(self.transport.read(0, offset, size), "little")

    def put(self, offset: int, size: int, value: int) -> Sequence[Event]:
        """Write BAR 0."""
        return self.transport.write(0, offset, value.to_bytes(size, "little"))

    def start(self, features: int = 0, *, enable: Sequence[int] = (0, 1)) -> "Function":
        """From power-on or reset to DRIVER_OK."""
        wanted = features | Feature.VERSION_1
        self.put(STATUS, 1, 1)
        self.put(STATUS, 1, 3)
        for half in (0, 1):
            self.put(0x08, 4, half)
            self.put(0x0C, 4, wanted >> 32 * half & 0xFFFFFFFF)
        self.put(STATUS, 1, 0x0B)
        for queue in enable:
            self.put(QUEUE_SELECT, 2, queue)
            assert self.put(QUEUE_ENABLE, 2, 1) == [QueueEnabled(queue)]
        assert self.put(STATUS, 1, 0x0F) == [DriverReady()]
        return self

    def enable_msix(self, vectors: int = 3) -> "Function":
        """Vector n goes to 0xFEE00000 + n with data 0x40 + n; 0 for the configuration, 1 and up for queues."""
        for vector in range(vectors):
            self.transport.write(MSIX_BAR, 16 * vector, struct.pack("<Q", 0xFEE00000 + vector))
            self.transport.write(MSIX_BAR, 16 * vector + 8, struct.pack("<II", 0x40 + vector, 0))
        assert self.configure(self.msix + 2, 2, MSIX_ENABLE) == []
        self.put(CONFIG_VECTOR, 2, 0)
        for queue in range(vectors - 1):
            self.put(QUEUE_SELECT, 2, queue)
            self.put(QUEUE_VECTOR, 2, 1 + queue)
        return self

    def notify(self, queue: int, data: bytes) -> Sequence[Event]:
        """Kick where the driver is told to."""
        bar, offset, _, more = self.structures[2]
        self.put(QUEUE_SELECT, 2, queue)
        at = offset + self.get(0x1E, 2) * int.from_bytes(more, "little")
        return self.transport.write(bar, at, data)


def message(vector: int) -> Message:
    return Message(vector, 0xFEE00000 + vector, 0x40 + vector)


# What it is


def test_identity_is_that_of_a_modern_virtio_function() -> None:
    function = Function(pin=1)
    assert function.config(0x00, 4) == 0x105A_1AF4, "0x1040 + 26"
    assert function.config(0x08, 4) == 0x018000_01, "class and revision 1"
    assert function.config(0x2C, 4) == 0x0040_1AF4
    assert function.config(0x3D, 1) == 1
    assert function.config(0x0E, 1) == 0


def test_capabilities_name_every_structure_and_none_overlap() -> None:
    function = Function()
    assert [body[3] for _, body in function.capabilities[0x09]] == [5, 1, 3, 2, 4]
    assert {kind: entry[:3] for kind, entry in function.structures.items()} == {
        5: (0, 0, 0),
        1: (0, 0x0000, 0x40),
        3: (0, 0x1000, 1),
        2: (0, 0x3000, 8),
        4: (0, 0x2000, 20),
    }
    assert function.structures[2][3] == struct.pack("<I", 4), "notify_off_multiplier"
    assert [len(body) for _, body in function.capabilities[0x09]] == [20, 16, 16, 20, 16]
    assert function.transport.config.bars[0].size == 0x4000
    assert function.capabilities[0x11][0][1][2:] == struct.pack("<HII", 2, 2, 48 | 2), "3 vectors in BAR 2"


def test_a_device_without_configuration_has_no_capability_for_it() -> None:
    function = Function(config=b"")
    assert 4 not in function.structures
    assert function.get(0x2000, 1) == 0
    assert function.transport.dropped == 1


def test_pci_express_is_carried_only_on_demand() -> None:
    assert 0x10 not in Function().capabilities
    function = Function(pcie=True)
    assert function.capabilities[0x10][0][1][2:4] == b"\x92\0"
    assert function.config(0x100, 4) == 0
    assert function.transport.dropped == 0


@pytest.mark.parametrize(("queues", "size"), [(1, 0x1000), (253, 0x1000), (255, 0x2000), (1024, 0x8000)])
def test_the_msix_bar_holds_table_and_pending_bits(queues: int, size: int) -> None:
    function = Function(queues=queues)
    assert function.transport.config.bars[MSIX_BAR].size == size
    assert function.structures[2][2] == 4 * queues
    assert function.get(0x12, 2) == queues


@pytest.mark.parametrize(
    ("queue_sizes", "config", "match"),
    [
        ([], b"", "0 queues: a device has between 1 and 1024"),
        ([1] * 1025, b"", "1025 queues"),
        ([64, 0], b"", "a queue of 0"),
        ([48], b"", "a queue of 48: its size must be a power of two"),
        ([65536], b"", "at most 32768"),
        ([1], bytes(4097), "a device configuration of 4097 bytes"),
    ],
)
def test_what_no_function_can_be_is_refused(queue_sizes: list[int], config: bytes, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Transport(device_type=4, class_code=0, features=Feature(0), queue_sizes=queue_sizes, config=config)


def test_version_1_is_always_offered() -> None:
    transport = Transport(device_type=4, class_code=0, features=Feature(0), queue_sizes=[1])
    transport.write(0, 0, struct.pack("<I", 1))
    assert transport.read(0, 4, 4) == struct.pack("<I", 1)


# Spaces


@pytest.mark.parametrize("space", [1, 3, 4, 5, 6, -2])
def test_spaces_that_do_not_exist_read_as_zeroes_and_are_counted(space: int) -> None:
    transport = Function().transport
    assert transport.read(space, 0, 4) == bytes(4)
    assert transport.read(space, 0, 1 << 30) == bytes(8)
    assert transport.write(space, 0, b"\1") == ()
    assert transport.dropped == 3


def test_device_configuration_is_read_in_aligned_pieces_of_1_2_4_or_8_bytes() -> None:
    transport = Function().transport
    for offset in range(24):
        for size in range(10):
            before = transport.dropped
            data = transport.read(0, 0x2000 + offset, size)
            if size in (1, 2, 4, 8) and offset % size == 0 and offset + size <= 20:
                assert data == DEVICE_CONFIG[offset : offset + size]
                assert transport.dropped == before
            else:
                assert data == bytes(min(size, 8))
                assert transport.dropped == before + 1


@pytest.mark.parametrize("offset", [0x40, 0xFFF, 0x1000, 0x1001, 0x2000, 0x2013, 0x2FFF, -1])
def test_what_is_no_register_takes_no_writes(offset: int) -> None:
    function = Function()
    assert list(function.transport.write(0, offset, b"\1")) == []
    assert function.transport.dropped == 1
    assert function.transport.device_config == DEVICE_CONFIG


def test_isr_is_cleared_by_reading_it_and_only_by_one_byte() -> None:
    function = Function().start()
    assert function.transport.signal_queue(0) is None
    assert function.get(0x1000, 2) == 0
    assert function.get(0x1000, 4) == 0
    assert function.transport.dropped == 2
    assert function.get(0x1000, 1) == 1
    assert function.get(0x1000, 1) == 0
    function.transport.signal_config()
    function.transport.signal_queue(1)
    assert function.get(0x1000, 1) == 3


# Kicks


def test_a_kick_names_its_queue_at_its_own_address() -> None:
    function = Function().start()
    assert list(function.notify(0, b"\0\0")) == [Kicked(0)]
    assert list(function.notify(1, b"\1\0")) == [Kicked(1)]
    assert function.transport.dropped == 0


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (0x3000, b"\1\0"),  # another queue's value
        (0x3004, b"\0\0"),
        (0x3000, b"\0"),
        (0x3000, b"\0\0\0"),
        (0x3000, b"\0\0\0\0"),  # NOTIFICATION_DATA was not negotiated
        (0x3000, b""),
        (0x3002, b"\0\0"),
        (0x3008, b"\2\0"),  # no such queue
        (0x3FFE, b"\xff\x0f"),
        (0x43FFC, b"\xff\xff"),
    ],
)
def test_a_kick_that_names_no_queue_is_dropped(at: int, data: bytes) -> None:
    function = Function().start()
    assert list(function.transport.write(0, at, data)) == []
    assert function.transport.dropped == 1


def test_a_kick_with_notification_data_has_32_bits() -> None:
    function = Function().start(Feature.NOTIFICATION_DATA)
    assert list(function.notify(1, struct.pack("<HH", 1, 0x8123))) == [Kicked(1)]
    assert list(function.notify(1, b"\1\0")) == []
    assert list(function.notify(1, struct.pack("<HH", 0, 0x8123))) == []
    assert function.transport.dropped == 2


def test_kicks_count_only_for_enabled_queues_of_a_running_device() -> None:
    function = Function().start(enable=[1])
    assert list(function.notify(0, b"\0\0")) == []
    assert list(function.notify(1, b"\1\0")) == [Kicked(1)]
    function.transport.needs_reset()
    assert list(function.notify(1, b"\1\0")) == []
    function = Function()
    assert list(function.notify(0, b"\0\0")) == []


# Interrupts


def test_queues_and_configuration_signal_by_their_vectors() -> None:
    function = Function().enable_msix().start()
    transport = function.transport
    assert transport.signal_queue(0) == message(1)
    assert transport.signal_queue(1) == message(2)
    assert transport.signal_config() == message(0)
    function.put(QUEUE_SELECT, 2, 0)
    function.put(QUEUE_VECTOR, 2, 2)
    assert transport.signal_queue(0) == message(2)
    function.put(QUEUE_VECTOR, 2, NO_VECTOR)
    assert transport.signal_queue(0) is None
    assert function.get(0x1000, 1) & 1 == 0, "with MSI-X the ISR has no part in queue interrupts"


def test_unmasking_by_any_part_of_message_control_or_table_brings_what_is_pending() -> None:
    function = Function().enable_msix().start()
    transport = function.transport
    assert function.configure(function.msix + 2, 2, MSIX_ENABLE | 0x4000) == []
    assert transport.signal_queue(0) is None
    assert list(function.configure(function.msix + 3, 1, 0x80)) == [message(1)]
    assert list(function.configure(function.msix, 4, 0xC000_0000)) == []
    assert transport.signal_config() is None
    assert list(function.configure(function.msix, 4, 0x8000_0000)) == [message(0)]
    transport.write(MSIX_BAR, 16 + 12, b"\1\0\0\0")
    assert transport.signal_queue(0) is None
    assert list(transport.write(MSIX_BAR, 16 + 12, b"\0\0\0\0")) == [message(1)]
    assert function.configure(0x3C, 1, 0) == (), "other registers deliver nothing"


def test_a_remapped_table_is_the_platforms_business() -> None:
    function = Function(remapped=True)
    function.configure(function.msix + 2, 2, MSIX_ENABLE | 0x4000)
    function.put(CONFIG_VECTOR, 2, 0)
    function.put(QUEUE_SELECT, 2, 1)
    function.put(QUEUE_VECTOR, 2, 2)
    function.start()
    assert function.transport.signal_queue(1) == Message(2, 0, 0), "by number, masks do not matter here"
    assert function.transport.signal_queue(0) is None, "no vector"
    assert function.transport.signal_config() == Message(0, 0, 0)


def test_without_msix_the_pin_is_raised_unless_disabled_or_absent() -> None:
    function = Function(pin=1).start()
    transport = function.transport
    assert transport.signal_queue(0) is INTX
    assert function.get(0x1000, 1) == 1
    function.configure(0x04, 2, 0x0400)
    assert transport.signal_config() is None
    assert function.get(0x1000, 1) == 2, "polled all the same"
    function.configure(0x04, 2, 0)
    assert transport.signal_config() is INTX
    function.enable_msix()
    assert transport.signal_config() == message(0), "MSI-X goes before the pin"
    assert Function(pin=0).start().transport.signal_queue(0) is None


def test_a_configuration_change_is_in_the_isr_even_with_msix() -> None:
    # "ISR status capability", device requirements: before any notification of a configuration change, however sent.
    function = Function().enable_msix().start()
    assert function.transport.signal_config() == message(0)
    assert function.get(0x1000, 1) == 2


def test_interrupt_status_is_the_or_of_the_isr_without_msix() -> None:
    # "ISR status capability", device requirements: the logical OR of all bits in ISR status.
    function = Function(pin=1).start()
    assert function.config(0x06, 2) & 0x0008 == 0
    function.transport.signal_queue(0)
    assert function.config(0x06, 2) & 0x0008
    function.get(0x1000, 1)
    assert function.config(0x06, 2) & 0x0008 == 0
    function.transport.signal_config()
    function.configure(0x06, 2, 0xFFFF)
    assert function.config(0x06, 2) == 0x0018, "read-only"
    function.put(STATUS, 1, 0)
    assert function.config(0x06, 2) == 0x0010
    function = Function().enable_msix().start()
    function.transport.signal_config()
    assert function.config(0x06, 2) & 0x0008 == 0, "with MSI-X the pin is not wanted"


def test_interrupt_status_follows_when_msix_is_switched() -> None:
    function = Function().enable_msix().start()
    function.transport.signal_config()
    function.configure(function.msix + 2, 2, 0)
    assert function.config(0x06, 2) & 0x0008
    function.configure(function.msix + 2, 2, MSIX_ENABLE)
    assert function.config(0x06, 2) & 0x0008 == 0


# The PCI configuration access capability


def aim(function: Function, bar: int, offset: int, length: int) -> None:
    function.configure(function.window + 4, 1, bar)
    function.configure(function.window + 8, 4, offset)
    function.configure(function.window + 12, 4, length)


def test_the_window_reads_and_writes_what_it_is_aimed_at() -> None:
    function = Function()
    data = function.window + 16
    aim(function, 0, 0x2004, 4)
    assert function.config(data, 4) == int.from_bytes(DEVICE_CONFIG[4:8], "little")
    aim(function, 0, STATUS, 1)
    assert function.configure(data, 1, 1) == []
    assert function.get(STATUS, 1) == 1
    assert function.config(data, 1) == 1
    aim(function, 0, QUEUE_SELECT, 2)
    function.configure(data, 2, 1)
    assert function.get(QUEUE_SELECT, 2) == 1
    aim(function, MSIX_BAR, 0, 4)
    function.configure(data, 4, 0xFEE01000)
    assert function.transport.read(MSIX_BAR, 0, 4) == struct.pack("<I", 0xFEE01000)
    assert function.transport.dropped == 0


def test_events_come_through_the_window_too() -> None:
    function = Function().start()
    data = function.window + 16
    aim(function, 0, 0x3004, 2)
    assert list(function.configure(data, 2, 1)) == [Kicked(1)]
    aim(function, 0, STATUS, 1)
    assert list(function.configure(data, 1, 0)) == [DeviceReset()]
    assert function.get(STATUS, 1) == 0x0F, "until it is done"


@pytest.mark.parametrize(
    ("bar", "offset", "length", "size"),
    [
        (1, 0, 4, 4),  # the upper half of BAR 0
        (3, 0, 4, 4),
        (6, 0, 4, 4),
        (0xFF, 0, 4, 4),  # what CONFIG would be as a byte
        (0, 0x12, 3, 2),
        (0, 0x12, 0, 2),
        (0, 0x12, 0xFFFFFFFF, 4),
        (0, 0x12, 8, 4),
    ],
)
def test_a_window_onto_nothing_reads_as_zeroes_and_writes_nothing(
    bar: int, offset: int, length: int, size: int
) -> None:
    function = Function()
    aim(function, bar, offset, length)
    data = function.window + 16
    assert function.config(data, size) == 0
    assert list(function.configure(data, size, 1)) == []
    assert function.transport.dropped == 2


def test_a_window_beyond_a_bar_is_as_an_access_there() -> None:
    function = Function().start()
    for offset in (0x2014, 0x4000, 0xFFFFFFFC, STATUS + 0x100):
        before = function.transport.dropped
        aim(function, 0, offset, 4)
        assert function.config(function.window + 16, 4) == 0
        assert list(function.configure(function.window + 16, 4, 0)) == []
        assert function.transport.dropped == before + 2
    assert function.get(STATUS, 1) == 0x0F


def test_the_aim_of_the_window_reads_back_and_only_that_is_writable() -> None:
    function = Function()
    for at in range(0, 16, 4):
        function.configure(function.window + at, 4, 0xFFFFFFFF)
    golden = struct.pack(
        "<BBBBBBBBII", 0x09, function.config(function.window + 1, 1), 20, 5, 0xFF, 0, 0, 0, *[2**32 - 1] * 2
    )
    assert b"".join(function.transport.read(CONFIG, function.window + at, 4) for at in range(0, 16, 4)) == golden


def test_an_odd_access_to_the_window_is_no_access_at_all() -> None:
    function = Function()
    aim(function, 0, STATUS, 1)
    assert list(function.transport.write(CONFIG, function.window + 16, b"\1" * 8)) == []
    assert function.transport.read(CONFIG, function.window + 16, 3) == bytes(3)
    assert function.transport.dropped == 2
    assert function.get(STATUS, 1) == 0


# Resets


def test_a_drivers_reset_clears_isr_and_vectors_and_waits_for_the_device() -> None:
    function = Function(pin=1).start()
    transport = function.transport
    transport.signal_queue(0)
    transport.needs_reset()
    assert list(function.put(STATUS, 1, 0)) == [DeviceReset()]
    assert function.get(0x1000, 1) == 0
    assert function.get(STATUS, 1) == 0x4F
    assert list(function.put(STATUS, 1, 0)) == []
    transport.reset_done()
    assert function.get(STATUS, 1) == 0
    assert not transport.needing_reset
    assert transport.features == 0
    function.start()
    assert transport.running


def test_a_drivers_reset_leaves_pci_alone_and_a_hard_one_does_not() -> None:
    function = Function().enable_msix().start()
    transport = function.transport
    function.configure(0x04, 2, 0x0006)
    function.configure(0x10, 4, 0xE0000000)
    function.put(STATUS, 1, 0)
    transport.reset_done()
    assert function.config(0x04, 2) == 6
    assert transport.msix.enabled
    assert list(transport.hard_reset()) == [], "no driver has begun since: nothing has to come back first"
    assert (function.config(0x04, 2), function.config(0x10, 4)) == (0, 4)
    assert function.config(function.msix + 2, 2) == 2
    assert not transport.msix.enabled
    assert transport.read(MSIX_BAR, 0, 8) == bytes(8)
    assert function.get(CONFIG_VECTOR, 2) == NO_VECTOR
    function.enable_msix().start()
    assert transport.signal_queue(0) == message(1)


def test_a_pending_interrupt_does_not_survive_a_hard_reset() -> None:
    function = Function().enable_msix().start()
    function.configure(function.msix + 2, 2, MSIX_ENABLE | 0x4000)
    function.transport.signal_queue(0)
    function.transport.hard_reset()
    function.transport.reset_done()
    assert list(function.configure(function.msix + 2, 2, MSIX_ENABLE)) == []
    assert list(function.transport.write(MSIX_BAR, 16 + 12, b"\0" * 4)) == []


def test_needs_reset_tells_the_driver_only_once_it_is_up() -> None:
    function = Function().enable_msix()
    assert function.transport.needs_reset() is None
    assert function.get(STATUS, 1) == 0x40
    assert function.transport.needing_reset
    function = Function().enable_msix().start()
    assert not function.transport.needing_reset
    assert function.transport.needs_reset() == message(0)
    assert function.get(STATUS, 1) == 0x4F
    assert not function.transport.running
    assert function.transport.needs_reset() is None, "once is enough"


# Device configuration


def test_another_configuration_is_a_new_generation_and_an_interrupt() -> None:
    function = Function().enable_msix().start()
    transport = function.transport
    changed = b"x" + DEVICE_CONFIG[1:]
    assert transport.change_config(DEVICE_CONFIG) is None
    assert function.get(GENERATION, 1) == 0
    assert transport.change_config(changed) == message(0)
    assert function.get(GENERATION, 1) == 1
    assert function.get(0x2000, 1) == ord("x")
    for turn in range(255):
        transport.change_config(DEVICE_CONFIG if turn % 2 == 0 else changed)
    assert function.get(GENERATION, 1) == 0, "modulo 256"
    with pytest.raises(UsageError, match="of 19 bytes: it had 20"):
        transport.change_config(DEVICE_CONFIG[:-1])
