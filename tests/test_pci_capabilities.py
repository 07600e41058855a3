"""The capability list, walked as a guest walks it, and the capabilities that are plain bytes."""

import struct

import pytest

from hdvkit.errors import UsageError
from hdvkit.pci import Capability, ConfigSpace, Identity, express, vendor

IDENTITY = Identity(vendor_id=0x1AF4, device_id=0x1044, class_code=0x088000)


def walk(config: ConfigSpace) -> list[tuple[int, int]]:
    """Id and position of each capability, as a guest finds them."""
    assert config.read(0x06, 2)[0] & 0x10, "status says that there is a list"
    found, at = [], config.read(0x34, 1)[0]
    while at:
        assert at % 4 == 0
        assert at >= 0x40
        assert len(found) < 48, "the list ends"
        found.append((config.read(at, 1)[0], at))
        at = config.read(at + 1, 1)[0]
    return found


def dump(config: ConfigSpace, at: int, size: int) -> bytes:
    return b"".join(config.read(offset, 1) for offset in range(at, at + size))


def test_the_list_has_every_capability_in_order_each_aligned() -> None:
    config = ConfigSpace(IDENTITY, [], [Capability(0x11, b"abcde"), vendor(b"xyz"), Capability(0x05, b"")])
    assert walk(config) == [(0x11, 0x40), (0x09, 0x48), (0x05, 0x50)]
    assert config.positions == [0x40, 0x48, 0x50]
    assert dump(config, 0x40, 0x14) == b"\x11\x48abcde\0" + b"\x09\x50\x06xyz\0\0" + b"\x05\0\0\0"


def test_a_function_without_capabilities_has_an_empty_list() -> None:
    assert walk(ConfigSpace(IDENTITY, [], [])) == []


def test_only_the_masked_bytes_of_a_capability_can_be_written() -> None:
    config = ConfigSpace(IDENTITY, [], [Capability(0x09, b"\5\x0f\xaa", b"\0\xf3"), vendor(b"\1\2", b"\xff")])
    for at in range(0x40, 0x60, 4):
        config.write(at, b"\xff" * 4)
    assert dump(config, 0x40, 5) == b"\x09\x48\x05\xff\xaa", "id and next never change"
    assert dump(config, 0x48, 5) == b"\x09\0\5\xff\2"
    config.write(0x43, b"\0")
    assert dump(config, 0x43, 1) == b"\x0c"


def test_a_vendor_capability_says_its_own_length() -> None:
    assert vendor(b"").body == b"\3"
    assert vendor(b"\1" * 13) == Capability(9, b"\x10" + b"\1" * 13, b"")
    assert vendor(b"ab", b"\xff").writable == b"\0\xff", "the length byte is read-only"


def test_pci_express_is_an_integrated_endpoint_of_version_2() -> None:
    config = ConfigSpace(IDENTITY, [], [express()], express=True)
    assert walk(config) == [(0x10, 0x40)]
    golden = struct.pack("<BBHIHH48x", 0x10, 0, 9 << 4 | 2, 1 << 15, 0, 0)
    assert len(golden) == 0x3C, "version 2 has all registers up to Slot Status 2"
    assert dump(config, 0x40, 0x3C) == golden
    for at in range(0x40, 0x7C, 4):
        config.write(at, b"\xff" * 4)
    after = bytearray(golden)
    after[0x08:0x0A] = b"\xef\x70"  # Device Control: error reporting, payload size, read request size
    assert dump(config, 0x40, 0x3C) == after


def test_the_list_may_fill_the_space_to_its_last_byte_and_not_one_more() -> None:
    room = 0x100 - 0x40
    config = ConfigSpace(IDENTITY, [], [Capability(0x09, b"\xff" * (room - 2))])
    assert dump(config, 0xFF, 1) == b"\xff"
    with pytest.raises(UsageError, match="capability 0x9 ends at 0x101: the list must end below 0x100"):
        ConfigSpace(IDENTITY, [], [Capability(0x09, bytes(room - 1))])
    with pytest.raises(UsageError, match="must end below 0x100"):
        ConfigSpace(IDENTITY, [], [Capability(0x05, bytes(0x60)), Capability(0x09, bytes(0x60))], express=True)
