"""The MSI-X table and pending bits of one function ("MSI-X Capability and Table Structure"). No I/O.

Reads and writes come as (offset, bytes); each write returns the messages that are due now.
"""

import struct
from typing import NamedTuple

from hdvkit.errors import UsageError
from hdvkit.pci.config import Capability

ENTRY = struct.Struct("<QII")  # message address, message data, vector control
MASKED = 0x1
MAX_VECTORS = 2048
CAPABILITY_ID = 0x11

ENABLE = 0x8000
FUNCTION_MASK = 0x4000
CONTROL_OFFSET = 2
"""Where Message Control lies in the capability."""


class Message(NamedTuple):
    """One interrupt: write ``data`` to ``address`` in the guest."""

    vector: int
    address: int
    data: int


class MsixTable:
    """Vectors of one function: where they go, whether they are masked, which are pending."""

    def __init__(self, vectors: int) -> None:
        if not 1 <= vectors <= MAX_VECTORS:
            raise UsageError(f"{vectors} MSI-X vectors: a function has between 1 and {MAX_VECTORS}")
        self.vectors = vectors
        self.dropped = 0
        """Accesses that were refused for their size or place."""
        self.pba_offset = (self.table_size + 7) & ~7
        self.reset()

    def reset(self) -> None:
        """All vectors masked and empty, MSI-X disabled."""
        self.enabled = False
        self.function_masked = False
        self._table = bytearray(ENTRY.pack(0, 0, MASKED) * self.vectors)
        self._pending = 0

    @property
    def table_size(self) -> int:
        """Bytes of the table."""
        return ENTRY.size * self.vectors

    @property
    def size(self) -> int:
        """Bytes of table and pending bits together: what the BAR must hold."""
        return self.pba_offset + (self.vectors + 63) // 64 * 8

    def capability(self, bar: int) -> Capability:
        """The MSI-X capability of a table that begins at offset 0 of ``bar``."""
        body = struct.pack("<HII", self.vectors - 1, bar, self.pba_offset | bar)
        return Capability(CAPABILITY_ID, body, (ENABLE | FUNCTION_MASK).to_bytes(2, "little"))

    def control(self, value: int) -> list[Message]:
        """The guest wrote Message Control. Returns the messages due."""
        self.enabled = bool(value & ENABLE)
        self.function_masked = bool(value & FUNCTION_MASK)
        return self._deliver()

    def signal(self, vector: int) -> Message | None:
        """Interrupt the guest by ``vector``: the message to send, or None when masked, pending or disabled.

        A vector the table does not have is silently ignored, like VIRTIO_MSI_NO_VECTOR.
        """
        if not 0 <= vector < self.vectors:
            return None
        if self._blocked(vector):
            self._pending |= 1 << vector
            return None
        return self._message(vector)

    def allows(self, offset: int, size: int) -> bool:
        """Whether an access is one the specification knows: aligned double words and quad words."""
        return size in (4, 8) and not offset % size and 0 <= offset <= self.size - size

    def read(self, offset: int, size: int) -> bytes:
        """Read table or pending bits; anything but aligned 4 or 8 bytes inside reads zeroes and is counted."""
        if not self.allows(offset, size):
            self.dropped += 1
            return bytes(min(max(size, 0), 8))
        whole = bytes(self._table).ljust(self.pba_offset, b"\0") + self._pending.to_bytes(
            self.size - self.pba_offset, "little"
        )
        return whole[offset : offset + size]

    def write(self, offset: int, data: bytes) -> list[Message]:
        """Write table entries; the pending bits are read-only. Returns the messages due."""
        if not self.allows(offset, len(data)) or offset + len(data) > self.table_size:
            self.dropped += 1
            return []
        self._table[offset : offset + len(data)] = data
        return self._deliver()

    def _blocked(self, vector: int) -> bool:
        # A vector the guest never programmed has address 0: a message there would hit RAM.
        address, _, control = ENTRY.unpack_from(self._table, vector * ENTRY.size)
        return not self.enabled or self.function_masked or bool(control & MASKED) or not address

    def _message(self, vector: int) -> Message:
        address, data, _ = ENTRY.unpack_from(self._table, vector * ENTRY.size)
        return Message(vector, address, data)

    def _deliver(self) -> list[Message]:
        due = [v for v in range(self.vectors) if self._pending >> v & 1 and not self._blocked(v)]
        for vector in due:
            self._pending &= ~(1 << vector)
        return [self._message(vector) for vector in due]
