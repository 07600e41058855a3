"""The configuration space of one type-0 function: bytes, write masks, BAR sizing. No I/O.

Accesses come as (offset, bytes). Whatever a guest does here is answered: an access of an odd size or outside the
space reads zeroes or is dropped, and is counted.
"""

from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

import attrs

from hdvkit.errors import UsageError

CONVENTIONAL_SIZE = 256
EXPRESS_SIZE = 4096
BAR_COUNT = 6
MIN_BAR_SIZE = 4096
"""Platforms map BARs by pages, so none is smaller."""


class Register(IntEnum):
    """Offsets in the type-0 header ("PCI Local Bus Specification", Configuration Space Organization)."""

    VENDOR_ID = 0x00
    DEVICE_ID = 0x02
    COMMAND = 0x04
    STATUS = 0x06
    REVISION_ID = 0x08
    CLASS_CODE = 0x09
    CACHE_LINE_SIZE = 0x0C
    LATENCY_TIMER = 0x0D
    HEADER_TYPE = 0x0E
    BAR0 = 0x10
    SUBSYSTEM_VENDOR_ID = 0x2C
    SUBSYSTEM_ID = 0x2E
    EXPANSION_ROM = 0x30
    CAPABILITIES_POINTER = 0x34
    INTERRUPT_LINE = 0x3C
    INTERRUPT_PIN = 0x3D


class Command(IntFlag):
    """The bits of the command register that mean something to a modern function."""

    MEMORY = 0x0002
    BUS_MASTER = 0x0004
    PARITY = 0x0040
    SERR = 0x0100
    INTX_DISABLE = 0x0400


STATUS_INTERRUPT = 0x0008
STATUS_CAPABILITIES = 0x0010
STATUS_WRITE_1_TO_CLEAR = 0xF900
COMMAND_WRITABLE = Command.MEMORY | Command.BUS_MASTER | Command.PARITY | Command.SERR | Command.INTX_DISABLE

FIRST_CAPABILITY = 0x40


@attrs.frozen
class Identity:
    """Who the function says it is."""

    vendor_id: int
    device_id: int
    class_code: int
    """Base class, subclass and interface, as 0xBBSSII."""
    revision_id: int = 1
    subsystem_vendor_id: int = 0
    subsystem_id: int = 0


def _power_of_two(_: "Bar", attribute: "attrs.Attribute[int]", size: int) -> None:
    if size < MIN_BAR_SIZE or size & (size - 1):
        raise UsageError(f"a BAR of {size} bytes: its size must be a power of two of at least {MIN_BAR_SIZE}")


@attrs.frozen
class Bar:
    """A memory BAR. A 64-bit one takes two registers."""

    index: int = attrs.field(validator=attrs.validators.in_(range(BAR_COUNT)))
    size: int = attrs.field(validator=_power_of_two)
    wide: bool = True
    prefetchable: bool = False

    def __attrs_post_init__(self) -> None:
        """A BAR's register must hold its address."""
        if not self.wide and self.size >= 1 << 32:
            raise UsageError(f"BAR {self.index} of {self.size} bytes is too large for a 32-bit BAR")

    @property
    def registers(self) -> tuple[int, ...]:
        """The BAR registers it takes."""
        return (self.index, self.index + 1) if self.wide else (self.index,)

    @property
    def type_bits(self) -> int:
        """The low four bits of the register."""
        return (0x4 if self.wide else 0) | (0x8 if self.prefetchable else 0)


class Capability(NamedTuple):
    """One entry of the capability list: the bytes behind id and next, and which of them the guest may write."""

    id: int
    body: bytes
    writable: bytes = b""
    """Write mask for ``body``; what it does not reach is read-only."""


class ConfigSpace:
    """Configuration space as the guest reads and writes it."""

    def __init__(
        self,
        identity: Identity,
        bars: Sequence[Bar],
        capabilities: Sequence[Capability],
        *,
        interrupt_pin: int = 0,
        express: bool = False,
    ) -> None:
        taken = [register for bar in bars for register in bar.registers]
        if len(taken) != len(set(taken)) or BAR_COUNT in taken:
            raise UsageError(f"the BARs take registers {sorted(taken)}: each of 0 to {BAR_COUNT - 1} may be taken once")
        self.size = EXPRESS_SIZE if express else CONVENTIONAL_SIZE
        self.bars = {bar.index: bar for bar in bars}
        self.dropped = 0
        """Accesses that were refused for their size or place."""
        self.positions: list[int] = []
        """Where each capability begins, in the order given."""
        self._data = bytearray(self.size)
        self._mask = bytearray(self.size)
        self._clear = bytearray(self.size)  # write-1-to-clear bits
        self._write_header(identity, interrupt_pin)
        self._write_bars()
        self._write_capabilities(capabilities)
        self._initial = bytes(self._data)

    def reset(self) -> None:
        """Back to what a function is after power-on."""
        self._data[:] = self._initial

    def allows(self, offset: int, size: int) -> bool:
        """Whether an access is one that configuration cycles can make: 1, 2 or 4 bytes, aligned, inside."""
        return size in (1, 2, 4) and 0 <= offset <= self.size - size and not offset % size

    def read(self, offset: int, size: int) -> bytes:
        """Read 1, 2 or 4 aligned bytes; anything else reads zeroes and is counted."""
        if not self.allows(offset, size):
            self.dropped += 1
            return bytes(min(max(size, 0), self.size))
        return bytes(self._data[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        """Write 1, 2 or 4 aligned bytes through the masks; anything else is dropped and counted."""
        if not self.allows(offset, len(data)):
            self.dropped += 1
            return
        for at, byte in enumerate(data, offset):
            kept = self._data[at] & ~self._mask[at]
            self._data[at] = (kept | (byte & self._mask[at])) & ~(byte & self._clear[at])

    @property
    def command(self) -> Command:
        """What the guest enabled."""
        return Command(int.from_bytes(self.read(Register.COMMAND, 2), "little"))

    def show_interrupt(self, pending: bool) -> None:
        """Set Interrupt Status: the function wants the interrupt pin, whether the guest lets it or not."""
        self._data[Register.STATUS] = STATUS_CAPABILITIES | (STATUS_INTERRUPT if pending else 0)

    def bar_address(self, index: int) -> int:
        """Where the guest placed a BAR."""
        bar = self.bars[index]
        at = Register.BAR0 + 4 * index
        value = int.from_bytes(self._data[at : at + (8 if bar.wide else 4)], "little")
        return value & ~0xF

    def probe_words(self) -> tuple[int, ...]:
        """What each BAR register would read back after all ones were written: six constants.

        Some platforms size BARs by these words instead of asking the registers.
        """
        words = [0] * BAR_COUNT
        for bar in self.bars.values():
            mask = ~(bar.size - 1)
            words[bar.index] = (mask & 0xFFFFFFF0) | bar.type_bits
            if bar.wide:
                words[bar.index + 1] = mask >> 32 & 0xFFFFFFFF
        return tuple(words)

    def _put(self, offset: int, size: int, value: int, mask: int = 0) -> None:
        self._data[offset : offset + size] = value.to_bytes(size, "little")
        self._mask[offset : offset + size] = mask.to_bytes(size, "little")

    def _write_header(self, identity: Identity, interrupt_pin: int) -> None:
        self._put(Register.VENDOR_ID, 2, identity.vendor_id)
        self._put(Register.DEVICE_ID, 2, identity.device_id)
        # 0 at power-on: a function that arrives as bus master is rejected by Hyper-V before enumeration.
        self._put(Register.COMMAND, 2, 0, COMMAND_WRITABLE)
        self._put(Register.STATUS, 2, STATUS_CAPABILITIES)
        self._clear[Register.STATUS : Register.STATUS + 2] = STATUS_WRITE_1_TO_CLEAR.to_bytes(2, "little")
        self._put(Register.REVISION_ID, 1, identity.revision_id)
        self._put(Register.CLASS_CODE, 3, identity.class_code)
        self._put(Register.CACHE_LINE_SIZE, 1, 0, 0xFF)
        self._put(Register.LATENCY_TIMER, 1, 0, 0xFF)
        self._put(Register.SUBSYSTEM_VENDOR_ID, 2, identity.subsystem_vendor_id)
        self._put(Register.SUBSYSTEM_ID, 2, identity.subsystem_id)
        self._put(Register.INTERRUPT_LINE, 1, 0, 0xFF)
        self._put(Register.INTERRUPT_PIN, 1, interrupt_pin)

    def _write_bars(self) -> None:
        for bar, word in zip(range(BAR_COUNT), self.probe_words(), strict=True):
            if bar in self.bars:
                self._put(Register.BAR0 + 4 * bar, 4, self.bars[bar].type_bits, word & ~0xF)
            elif word:  # the upper half of a 64-bit BAR
                self._put(Register.BAR0 + 4 * bar, 4, 0, word)

    def _write_capabilities(self, capabilities: Sequence[Capability]) -> None:
        link: int = Register.CAPABILITIES_POINTER
        at = FIRST_CAPABILITY
        for capability in capabilities:
            end = at + 2 + len(capability.body)
            if end > CONVENTIONAL_SIZE:
                raise UsageError(f"capability {capability.id:#x} ends at {end:#x}: the list must end below 0x100")
            self._data[link] = at
            self._data[at] = capability.id
            self._data[at + 2 : end] = capability.body
            self._mask[at + 2 : at + 2 + len(capability.writable)] = capability.writable
            self.positions.append(at)
            link = at + 1
            at = (end + 3) & ~3
