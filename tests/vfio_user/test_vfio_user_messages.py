"""Payloads of vfio-user requests, byte by byte as the protocol writes them, and what is refused."""

import errno
import json
import struct

import pytest
from hdvkit_vfio_user.protocol import spec, version
from hdvkit_vfio_user.protocol.messages import (
    DmaMap,
    DmaUnmap,
    GetInfo,
    GetIrqInfo,
    GetRegionInfo,
    GetRegionIoFds,
    Message,
    Refused,
    RegionRead,
    RegionWrite,
    RegionWrites,
    Reset,
    SetIrqsRequest,
    decode,
)
from hdvkit_vfio_user.protocol.spec import SetIrqs
from hypothesis import given
from hypothesis import strategies as st

DATA_NONE, DATA_BOOL, DATA_EVENTFD = SetIrqs.DATA_NONE, SetIrqs.DATA_BOOL, SetIrqs.DATA_EVENTFD
MASK, UNMASK, TRIGGER = SetIrqs.MASK, SetIrqs.UNMASK, SetIrqs.TRIGGER

REQUESTS = {
    "ram": (
        2,
        "20000000 03000000 0000100000000000 0000000001000000 0000001000000000",
        DmaMap(0x1_0000_0000, 0x1000_0000, 0x10_0000, True, True),
    ),
    "rom": (
        2,
        "20000000 01000000 0000000000000000 0000fcff00000000 0000040000000000",
        DmaMap(0xFFFC_0000, 0x4_0000, 0, True, False),
    ),
    "write-only": (
        2,
        "20000000 02000000 0000000000000000 00f0ffffffffffff 0010000000000000",
        DmaMap(0xFFFF_FFFF_FFFF_F000, 0x1000, 0, False, True),
    ),
    "unmap": (
        3,
        "18000000 00000000 00000c0000000000 0000020000000000",
        DmaUnmap(0xC_0000, 0x2_0000, False),
    ),
    "unmap-all": (3, "18000000 02000000 0000000000000000 0000000000000000", DmaUnmap(0, 0, True)),
    "info": (4, "10000000 00000000 00000000 00000000", GetInfo()),
    "region-info": (
        5,
        "20000000 00000000 07000000 00000000 0000000000000000 0000000000000000",
        GetRegionInfo(7),
    ),
    "region-io-fds": (6, "38000000 00000000 02000000 00000000", GetRegionIoFds(2, 56)),
    "irq-info": (7, "10000000 00000000 03000000 00000000", GetIrqInfo(3)),
    "irqs-eventfd": (
        8,
        "14000000 24000000 02000000 05000000 03000000",
        SetIrqsRequest(2, TRIGGER, DATA_EVENTFD, 5, 3),
    ),
    "irqs-off": (8, "14000000 21000000 02000000 00000000 00000000", SetIrqsRequest(2, TRIGGER, DATA_NONE, 0, 0)),
    "irqs-unmask": (8, "14000000 11000000 00000000 00000000 01000000", SetIrqsRequest(0, UNMASK, DATA_NONE, 0, 1)),
    "irqs-mask-some": (
        8,
        "17000000 0a000000 02000000 01000000 03000000 010001",
        SetIrqsRequest(2, MASK, DATA_BOOL, 1, 3, b"\1\0\1"),
    ),
    "region-read": (9, "0430000000000000 01000000 02000000", RegionRead(0x3004, 1, 2)),
    "config-read": (9, "0000000000000000 07000000 00100000", RegionRead(0, 7, 4096)),
    "kick": (10, "0430000000000000 00000000 02000000 0100", RegionWrite(0x3004, 0, b"\1\0")),
    "far-write": (10, "efcdab8967452301 07000000 01000000 ff", RegionWrite(0x0123_4567_89AB_CDEF, 7, b"\xff")),
    "reset": (13, "", Reset()),
    "no-writes": (15, "0000000000000000", RegionWrites(())),
    "writes": (
        15,
        (
            "0300000000000000 "
            "0430000000000000 00000000 02000000 0100aaaaaaaaaaaa "
            "1000000000000000 07000000 08000000 1122334455667788 "
            "2000000000000000 01000000 00000000 aaaaaaaaaaaaaaaa"
        ),
        RegionWrites(
            (
                RegionWrite(0x3004, 0, b"\1\0"),
                RegionWrite(0x10, 7, b"\x11\x22\x33\x44\x55\x66\x77\x88"),
                RegionWrite(0x20, 1, b""),
            )
        ),
    ),
}
EACH = pytest.mark.parametrize(("command", "text", "expected"), REQUESTS.values(), ids=REQUESTS)
WITH_ARGSZ = pytest.mark.parametrize(
    ("command", "text", "expected"),
    [pytest.param(*request, id=name) for name, request in REQUESTS.items() if request[0] in {2, 3, 4, 5, 7, 8}],
)
MALFORMED = {
    "map nothing": (2, "20000000 03000000 0000000000000000 0000000000000000 0000000000000000"),
    "map beyond the last address": (2, "20000000 03000000 0000000000000000 00f0ffffffffffff 0110000000000000"),
    "unmap with an unknown flag": (3, "18000000 01000000 0000000000000000 0010000000000000"),
    "unmap all with an unknown flag": (3, "18000000 06000000 0000000000000000 0000000000000000"),
    "unmap all from an address": (3, "18000000 02000000 0010000000000000 0000000000000000"),
    "unmap all of a size": (3, "18000000 02000000 0000000000000000 0010000000000000"),
    "io fds with a flag": (6, "10000000 01000000 00000000 00000000"),
    "io fds with a count": (6, "10000000 00000000 00000000 01000000"),
    "io fds into less than a head": (6, "0f000000 00000000 00000000 00000000"),
    "bools where none belong": (8, "15000000 21000000 02000000 00000000 01000000 01"),
    "numbers of descriptors as data": (8, "18000000 24000000 02000000 00000000 01000000 05000000"),
    "fewer bools than vectors": (8, "16000000 22000000 02000000 00000000 03000000 0101"),
    "more bools than vectors": (8, "16000000 22000000 02000000 00000000 01000000 0101"),
    "no bools at all": (8, "14000000 22000000 02000000 00000000 ffffffff"),
    "write less than announced": (10, "0000000000000000 00000000 03000000 0000"),
    "write more than announced": (10, "0000000000000000 00000000 01000000 0000"),
    "reset with data": (13, "00000000"),
    "more writes than announced": (15, "0000000000000000 0000000000000000 00000000 01000000 0000000000000000"),
    "writes that cannot be": (15, "ffffffffffffffff 0000000000000000 00000000 01000000 0000000000000000"),
    "a write of nine bytes": (15, "0100000000000000 0000000000000000 00000000 09000000 0000000000000000"),
}


def outcome(command: int, payload: bytes) -> Message | int:
    """The request, or the errno that it is refused with."""
    try:
        return decode(command, payload)
    except Refused as refused:
        return refused.errno


@EACH
def test_request_is_decoded(command: int, text: str, expected: Message) -> None:
    message = outcome(command, bytes.fromhex(text))
    assert (type(message), message) == (type(expected), expected)  # tuples of different types can be equal


@EACH
def test_no_other_length_is_taken(command: int, text: str, expected: Message) -> None:
    payload = bytes.fromhex(text)
    others = [payload[:length] for length in range(len(payload))] + [payload + bytes(more) for more in (1, 4, 8, 24)]
    assert {outcome(command, other) for other in others} == {errno.EINVAL}


@WITH_ARGSZ
def test_argsz_may_be_larger_but_not_smaller(command: int, text: str, expected: Message) -> None:
    payload = bytes.fromhex(text)
    for more in (1, 1000, 0xFFFF_FFFF - len(payload)):
        assert outcome(command, struct.pack("<I", len(payload) + more) + payload[4:]) == expected
    for argsz in (0, 1, len(payload) - 1):
        assert outcome(command, struct.pack("<I", argsz) + payload[4:]) == errno.EINVAL


@pytest.mark.parametrize(("command", "text"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_request_is_refused(command: int, text: str) -> None:
    assert outcome(command, bytes.fromhex(text)) == errno.EINVAL


@pytest.mark.parametrize("command", [0, 1, 11, 12, 14, 16, 17, 18, 19, 255, 0xFFFF])
def test_what_is_not_offered_is_not_supported(command: int) -> None:
    for payload in (b"", bytes(16), bytes(32)):
        assert outcome(command, payload) == errno.ENOTSUP


def test_interrupts_take_one_action_and_one_kind_of_data() -> None:
    outcomes = {
        flags: outcome(8, struct.pack("<IIIII", 20, flags, 2, 0, 0))
        for flags in [*range(0x100), *(0x24 | 1 << bit for bit in range(8, 32))]
    }
    assert {flags: found for flags, found in outcomes.items() if found != errno.EINVAL} == {
        action | data: SetIrqsRequest(2, action, data, 0, 0)
        for action in (MASK, UNMASK, TRIGGER)
        for data in (DATA_NONE, DATA_BOOL, DATA_EVENTFD)
    }


def test_memory_is_readable_or_writable_and_nothing_else() -> None:
    outcomes = {
        flags: outcome(2, struct.pack("<IIQQQ", 32, flags, 0, 0x3000, 0x1000))
        for flags in [0, 1, 2, 3, *(3 | 1 << bit for bit in range(2, 32))]
    }
    assert {flags: found for flags, found in outcomes.items() if found != errno.EINVAL} == {
        0: DmaMap(0x3000, 0x1000, 0, False, False),
        1: DmaMap(0x3000, 0x1000, 0, True, False),
        2: DmaMap(0x3000, 0x1000, 0, False, True),
        3: DmaMap(0x3000, 0x1000, 0, True, True),
    }


def test_a_transfer_has_a_largest_size() -> None:
    most = 1 << 20
    assert outcome(9, struct.pack("<QII", 0, 0, most)) == RegionRead(0, 0, most)
    assert outcome(10, struct.pack("<QII", 0, 0, most) + bytes(most)) == RegionWrite(0, 0, bytes(most))
    assert outcome(9, struct.pack("<QII", 0, 0, most + 1)) == errno.EINVAL
    assert outcome(10, struct.pack("<QII", 0, 0, most + 1) + bytes(most + 1)) == errno.EINVAL


def test_flags_of_questions_do_not_matter() -> None:
    assert outcome(4, struct.pack("<IIII", 16, 3, 9, 5)) == GetInfo()
    assert outcome(5, struct.pack("<IIIIQQ", 32, 15, 8, 32, 4096, 8)) == GetRegionInfo(8)
    assert outcome(7, struct.pack("<IIII", 16, 15, 4, 1)) == GetIrqInfo(4)


@given(st.integers(0, 20), st.binary(max_size=80))
def test_random_payload_is_a_request_or_refused(command: int, payload: bytes) -> None:
    found = outcome(command, payload)
    assert isinstance(found, tuple) or found in {errno.EINVAL, errno.ENOTSUP}


@given(st.integers(0, 15), st.integers(0, 15), st.integers(0, 40))
def test_bools_are_one_for_each_vector(count: int, length: int, argsz: int) -> None:
    bools = bytes(which & 1 for which in range(length))
    fits = count == length and argsz >= 20 + length
    assert outcome(8, struct.pack("<IIIII", argsz, 0x12, 2, 7, count) + bools) == (
        SetIrqsRequest(2, UNMASK, DATA_BOOL, 7, count, bools) if fits else errno.EINVAL
    )


# VERSION

OFFER = (
    b'{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, '
    b'"migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}\0'
)
"""As QEMU says it."""


def agreement(payload: bytes) -> tuple[int, int] | int:
    """The limits of a VERSION request, or the errno that it is refused with."""
    try:
        return version.accept(payload)
    except Refused as refused:
        return refused.errno


@pytest.mark.parametrize(
    ("payload", "limits"),
    [
        (b"\0\0\0\0" + OFFER, (16, 1048576)),
        (b"\0\0\7\0" + OFFER, (16, 1048576)),
        (b"\0\0\0\0", (1, 1048576)),
        (b"\0\0\0\0{}\0", (1, 1048576)),
        (b'\0\0\0\0{"capabilities":{}}\0', (1, 1048576)),
        (b'\0\0\0\0{"else": 1, "capabilities":{"twin_socket":{"supported":true}}}\0', (1, 1048576)),
        (b'\0\0\0\0{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":4096}}\0', (8, 4096)),
        (b'\0\0\0\0{"capabilities":{"max_msg_fds":64,"max_data_xfer_size":67108864}}\0', (16, 1048576)),
        (b'\0\0\0\0{"capabilities":{"max_msg_fds":1' + b"0" * 400 + b"}}\0", (16, 1048576)),
    ],
    ids=["QEMU", "later minor", "no text", "nothing", "no limits", "unknown", "smaller", "larger", "astronomic"],
)
def test_limits_are_what_both_can_take(payload: bytes, limits: tuple[int, int]) -> None:
    assert agreement(payload) == limits


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0",
        b"\0\0\0",
        b"\1\0\0\0" + OFFER,
        b"\0\1\0\0" + OFFER,
        b"\0\0\0\0" + OFFER[:-1],
        b"\0\0\0\0" + OFFER + b"\0",
        b"\0\0\0\0\0",
        b"\0\0\0\0{\0",
        b"\0\0\0\0capabilities\0",
        b"\0\0\0\0[]\0",
        b"\0\0\0\0null\0",
        b'\0\0\0\0"capabilities"\0',
        b"\0\0\0\0{}{}\0",
        b"\0\0\0\0\xff\xfe\xfd\0",
        b'\0\0\0\0{"\x80": 1}\0',
        b'\0\0\0\0{"capabilities": null}\0',
        b'\0\0\0\0{"capabilities": [16]}\0',
        b"\0\0\0\0" + b"[" * 100_000 + b"\0",
        b"\0\0\0\0" + b'{"capabilities":' * 50_000 + b"1" + b"}" * 50_000 + b"\0",
        b'\0\0\0\0{"capabilities":{"max_msg_fds":' + b"9" * 100_000 + b"}}\0",
    ],
    ids=[
        *("empty", "one byte", "three bytes", "major 1", "major 256", "no NUL", "two NULs", "only NUL", "cut"),
        *("no JSON", "list", "null", "string", "two objects", "no UTF-8", "no UTF-8 inside", "null inside"),
        *("list inside", "deep", "deep objects", "endless number"),
    ],
)
def test_malformed_version_is_refused(payload: bytes) -> None:
    assert agreement(payload) == errno.EINVAL


@pytest.mark.parametrize("value", ['"16"', "true", "false", "null", "1.5", "1e3", "NaN", "-1", "[]", "{}"])
@pytest.mark.parametrize("name", ["max_msg_fds", "max_data_xfer_size"])
def test_limit_of_a_wrong_type_is_refused(name: str, value: str) -> None:
    text = f'{{"capabilities":{{"{name}":{value}}}}}'
    assert agreement(b"\0\0\0\0" + text.encode() + b"\0") == errno.EINVAL


def test_our_answer_is_one_that_qemu_takes() -> None:
    answer = version.answer()
    assert answer[:4] == b"\0\0\0\0"
    assert len(answer) <= 4 + len(OFFER) == 198
    assert answer.count(b"\0") == 5
    assert answer.endswith(b"}\0")
    said = json.loads(answer[4:-1])
    assert said == {
        "capabilities": {"max_msg_fds": 16, "max_data_xfer_size": 1 << 20, "pgsizes": 4096, "max_dma_maps": 8192}
    }
    assert said["capabilities"].keys() <= json.loads(OFFER[:-1])["capabilities"].keys()


@given(st.binary(max_size=60))
def test_random_version_is_limits_or_refused(payload: bytes) -> None:
    for text in (payload, b"\0\0\0\0" + payload, b"\0\0\0\0" + payload + b"\0"):
        found = agreement(text)
        assert found == errno.EINVAL or (isinstance(found, tuple) and (0, 0) <= found <= (16, 1 << 20))


# Numbers


def test_numbers_are_those_of_the_protocol() -> None:
    assert {command.name: command.value for command in spec.Command} == {
        "VERSION": 1, "DMA_MAP": 2, "DMA_UNMAP": 3, "DEVICE_GET_INFO": 4, "DEVICE_GET_REGION_INFO": 5,
        "DEVICE_GET_REGION_IO_FDS": 6, "DEVICE_GET_IRQ_INFO": 7, "DEVICE_SET_IRQS": 8, "REGION_READ": 9,
        "REGION_WRITE": 10, "DMA_READ": 11, "DMA_WRITE": 12, "DEVICE_RESET": 13, "REGION_WRITE_MULTI": 15,
        "DEVICE_FEATURE": 16, "MIG_DATA_READ": 17, "MIG_DATA_WRITE": 18,
    }  # fmt: skip
    assert (spec.DeviceFlag.RESET, spec.DeviceFlag.PCI, spec.NUM_REGIONS, spec.NUM_IRQS) == (1, 2, 9, 5)
    assert (spec.Region.BAR0, spec.Region.BAR5, spec.Region.ROM, spec.Region.CONFIG, spec.Region.VGA) == (0, 5, 6, 7, 8)
    assert (spec.RegionFlag.READ, spec.RegionFlag.WRITE) == (1, 2)
    assert [irq.name for irq in spec.Irq] == ["INTX", "MSI", "MSIX", "ERR", "REQ"]
    assert (spec.IrqFlag.EVENTFD, spec.IrqFlag.MASKABLE, spec.IrqFlag.AUTOMASKED) == (1, 2, 4)
    assert spec.SUB_REGION.size == 40
