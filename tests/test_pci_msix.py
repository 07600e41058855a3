"""MSI-X against "MSI-X Capability and Table Structure": a message is never lost, never doubled, never early."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdvkit.errors import UsageError
from hdvkit.pci import ConfigSpace, Identity, Message, MsixTable

ENABLE, FUNCTION_MASK = 0x8000, 0x4000
DOORBELL = 0x1_FEE0_1000


def program(table: MsixTable, vector: int, *, address: int = DOORBELL, data: int | None = None, mask: int = 0) -> None:
    """Write one entry in double words, as drivers do, the mask last."""
    words = (address & 0xFFFFFFFF, address >> 32, 0x4000 + vector if data is None else data, mask)
    for at, word in enumerate(words):
        table.write(16 * vector + 4 * at, struct.pack("<I", word))


def mask(table: MsixTable, vector: int, masked: int) -> list[Message]:
    return table.write(16 * vector + 12, struct.pack("<I", masked))


def pending(table: MsixTable) -> int:
    size = (table.vectors + 63) // 64 * 8
    return int.from_bytes(b"".join(table.read(table.pba_offset + at, 8) for at in range(0, size, 8)), "little")


def ready(vectors: int = 4) -> MsixTable:
    """All vectors programmed and unmasked, MSI-X enabled."""
    table = MsixTable(vectors)
    for vector in range(vectors):
        program(table, vector)
    assert table.control(ENABLE) == []
    return table


def message(vector: int) -> Message:
    return Message(vector, DOORBELL, 0x4000 + vector)


def test_after_power_on_every_vector_is_masked_and_empty() -> None:
    table = MsixTable(3)
    assert [table.read(16 * n, 8) + table.read(16 * n + 8, 8) for n in range(3)] == [bytes(12) + b"\1\0\0\0"] * 3
    assert pending(table) == 0
    assert not table.enabled
    assert not table.function_masked


def test_an_unmasked_vector_is_delivered_at_once_and_not_kept() -> None:
    table = ready()
    assert table.signal(2) == Message(2, 0x1_FEE0_1000, 0x4002)
    assert pending(table) == 0
    assert table.signal(2) == message(2), "each signal is a message"


def test_a_masked_vector_is_pending_and_delivered_once_when_unmasked() -> None:
    table = ready()
    assert mask(table, 1, 1) == []
    assert table.signal(1) is None
    assert table.signal(1) is None
    assert table.signal(3) == message(3), "others are not concerned"
    assert pending(table) == 0b0010
    assert mask(table, 3, 1) == []
    assert mask(table, 1, 0) == [message(1)], "two signals while masked are one message"
    assert pending(table) == 0
    assert mask(table, 1, 0) == []


def test_the_function_mask_keeps_everything_and_lets_go_of_all_that_is_not_masked_itself() -> None:
    table = ready()
    mask(table, 2, 1)
    assert table.control(ENABLE | FUNCTION_MASK) == []
    assert [table.signal(vector) for vector in (3, 0, 2)] == [None, None, None]
    assert pending(table) == 0b1101
    assert table.control(ENABLE) == [message(0), message(3)]
    assert pending(table) == 0b0100
    assert table.control(ENABLE) == []
    assert mask(table, 2, 0) == [message(2)]


def test_what_is_signalled_while_disabled_is_delivered_once_on_enable() -> None:
    table = ready()
    assert table.control(0) == []
    assert table.signal(0) is None
    assert pending(table) == 1
    assert table.control(FUNCTION_MASK) == []
    assert table.control(FUNCTION_MASK | ENABLE) == []
    assert table.control(ENABLE) == [message(0)]
    assert pending(table) == 0


def test_the_message_is_what_the_table_says_at_delivery() -> None:
    table = ready()
    mask(table, 0, 1)
    table.signal(0)
    table.write(0, struct.pack("<Q", 0xFEE0_2000))
    table.write(8, struct.pack("<I", 0x77))
    assert mask(table, 0, 0) == [Message(0, 0xFEE0_2000, 0x77)]


def test_reserved_bits_of_vector_control_mask_nothing() -> None:
    table = ready()
    assert mask(table, 0, 0xFFFFFFFE) == []
    assert table.signal(0) == message(0)


def test_address_0_is_never_delivered() -> None:
    table = MsixTable(2)
    table.control(ENABLE)
    mask(table, 0, 0)
    assert table.signal(0) is None, "unmasked, but nobody said where it goes"
    assert pending(table) == 1
    assert table.write(8, struct.pack("<I", 0x31)) == []
    assert table.write(0, struct.pack("<Q", 0xFEE0_0000)) == [Message(0, 0xFEE0_0000, 0x31)]
    program(table, 0, address=0)
    assert table.signal(0) is None


def test_pending_bits_are_read_only() -> None:
    table = ready(65)
    mask(table, 64, 1)
    table.signal(64)
    base = table.pba_offset
    assert base == 65 * 16
    for at in (base, base + 8):
        assert table.write(at, b"\xff" * 8) == []
        assert table.write(at + 4, b"\0" * 4) == []
    assert table.dropped == 4
    assert pending(table) == 1 << 64
    assert table.read(base + 8, 4) == b"\1\0\0\0"


@pytest.mark.parametrize("vector", [-1, 4, 0xFFFF, 1 << 40])
def test_a_vector_the_table_has_not_is_silent(vector: int) -> None:
    table = ready(4)
    assert table.signal(vector) is None
    assert pending(table) == 0


def test_odd_accesses_are_counted_and_change_nothing() -> None:
    table = ready(2)
    size = 2 * 16 + 8
    assert table.size == size
    before = table.read(0, 8), table.read(8, 8)
    allowed = 0
    for offset in range(-9, size + 9):
        for length in range(18):
            good = length in (4, 8) and offset % length == 0 and offset >= 0 and offset + length <= size
            count = table.dropped
            data = table.read(offset, length)
            assert len(data) == min(length, 8)
            if good:
                assert table.dropped == count
                allowed += 1
            else:
                assert data == bytes(min(length, 8))
                assert table.write(offset, b"\xff" * length) == []
                assert table.dropped == count + 2
    assert allowed == 10 + 5
    assert (table.read(0, 8), table.read(8, 8)) == before
    assert table.read(0, -4) == b""


def test_reset_forgets_table_pending_and_control() -> None:
    table = ready(2)
    mask(table, 1, 1)
    table.signal(1)
    table.reset()
    assert (table.enabled, pending(table)) == (False, 0)
    assert table.read(16, 8) == bytes(8)
    assert table.control(ENABLE) == []
    assert mask(table, 1, 0) == []


@pytest.mark.parametrize(("vectors", "table_size", "size"), [(1, 16, 24), (64, 1024, 1032), (2048, 32768, 33024)])
def test_sizes_and_capability_say_where_everything_lies(vectors: int, table_size: int, size: int) -> None:
    table = MsixTable(vectors)
    assert (table.table_size, table.pba_offset, table.size) == (table_size, table_size, size)
    config = ConfigSpace(Identity(0x1AF4, 0x1044, 0), [], [table.capability(3)])
    body = b"".join(config.read(at, 2) for at in range(0x40, 0x4C, 2))
    assert body == struct.pack("<BBHII", 0x11, 0, vectors - 1, 0 | 3, table_size | 3)
    config.write(0x42, b"\xff\xff")
    assert int.from_bytes(config.read(0x42, 2), "little") == ENABLE | FUNCTION_MASK | (vectors - 1)
    config.write(0x44, b"\xff" * 4)
    assert config.read(0x44, 4) == struct.pack("<I", 3)


@pytest.mark.parametrize("vectors", [0, -1, 2049])
def test_a_table_of_no_vector_or_too_many_is_refused(vectors: int) -> None:
    with pytest.raises(UsageError, match="between 1 and 2048"):
        MsixTable(vectors)


STEPS = st.one_of(
    st.tuples(st.just("signal"), st.integers(0, 3)),
    st.tuples(st.just("mask"), st.integers(0, 3)),
    st.tuples(st.just("unmask"), st.integers(0, 3)),
    st.tuples(st.just("control"), st.sampled_from([0, ENABLE, FUNCTION_MASK, ENABLE | FUNCTION_MASK])),
)


@given(st.lists(STEPS, max_size=40))
def test_any_order_of_signals_and_masks_delivers_what_a_set_of_pending_bits_says(steps: list[tuple[str, int]]) -> None:
    table = ready(4)
    control, masked, waiting = ENABLE, set[int](), set[int]()

    def open_vectors() -> set[int]:
        return set(range(4)) - masked if control == ENABLE else set()

    for step, value in steps:
        match step:
            case "signal":
                said = table.signal(value)
                assert said == (message(value) if value in open_vectors() else None)
                waiting |= {value} - open_vectors()
                continue
            case "control":
                control = value
                said_all = table.control(value)
            case _:
                masked = masked | {value} if step == "mask" else masked - {value}
                said_all = mask(table, value, step == "mask")
        assert said_all == [message(vector) for vector in sorted(waiting & open_vectors())]
        waiting -= open_vectors()
        assert pending(table) == sum(1 << vector for vector in waiting)
