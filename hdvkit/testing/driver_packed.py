"""The driver half of "Packed Virtqueues" (VIRTIO 1.3): layout, wrap counters, event suppression.

A chain becomes available, and is seen to be used, by one aligned 16-bit unit: the flags of one descriptor.
"""

import struct
from collections.abc import Sequence

from hdvkit.testing.driver_rings import DESCRIPTOR, F_NEXT, DriverQueue, Element, fence, need_event

F_AVAIL = 1 << 7
F_USED = 1 << 15

EVENT_ENABLE = 0
EVENT_DISABLE = 1
EVENT_DESC = 2

HEAD = struct.Struct("<QIH")  # a descriptor without its flags
IDENTITY = 6  # 16-bit units into a descriptor
FLAGS = 7


class PackedQueue(DriverQueue):
    """One packed virtqueue; ids are buffer ids, unrelated to places in the ring."""

    def _areas(self) -> tuple[int, tuple[int, int], tuple[int, int]]:
        return 16 * self.size, (4, 4), (4, 4)

    def _open_ring(self) -> None:
        self._halves = self.descriptors.cast("H")
        self._words = self.descriptors.cast("I")
        self._driver_event = self.driver_area.cast("H")  # offset and wrap counter, flags
        self._device_event = self.device_area.cast("H")
        self._next_avail = self._next_used = 0
        self._avail_wrap = self._used_wrap = 1
        self._ids = list(range(self.size - 1, -1, -1))
        self._lengths = [0] * self.size

    def _publish(self, elements: Sequence[Element]) -> int:
        identity = self._ids.pop()
        self._lengths[identity] = count = len(elements)
        self._added += count
        head, place, wrap = self._next_avail, self._next_avail, self._avail_wrap
        head_flags = 0
        for n, (address, length, flags) in enumerate(elements, 1):
            flags |= F_AVAIL if wrap else F_USED
            flags |= F_NEXT if n < count else 0
            # "Next Flag: Descriptor Chaining": the id counts in the last descriptor only.
            last_id = identity if n == count else 0
            if n == 1:
                head_flags = flags
                HEAD.pack_into(self.descriptors, 16 * place, address, length, last_id)
            else:
                DESCRIPTOR.pack_into(self.descriptors, 16 * place, address, length, last_id, flags)
            place += 1
            if place == self.size:
                place, wrap = 0, wrap ^ 1
        self._next_avail, self._avail_wrap = place, wrap
        self._halves[8 * head + FLAGS] = head_flags
        return identity

    def _write_table(self, view: memoryview, elements: Sequence[Element]) -> None:
        # "Indirect Flag: Scatter-Gather Support": in order, no next flags, ids reserved.
        for n, (address, length, flags) in enumerate(elements):
            DESCRIPTOR.pack_into(view, 16 * n, address, length, 0, flags)

    def _kick_wanted(self, added: int) -> bool:
        flags = self._device_event[1] & 3
        if flags != EVENT_DESC:
            return flags != EVENT_DISABLE
        event = self._device_event[0]
        offset = event & 0x7FFF
        # An event in the lap before the current one lies below zero.
        if event >> 15 != self._avail_wrap:
            offset -= self.size
        return need_event(offset, self._next_avail, self._next_avail - added)

    def _position(self) -> int:
        return self._next_avail | self._avail_wrap << 15

    def _drain(self) -> int:
        count = 0
        while self._returned():
            # Linux and QEMU neither look at nor set the write flag of a used descriptor: the length counts.
            identity = self._halves[8 * self._next_used + IDENTITY]
            self._complete(identity, self._words[4 * self._next_used + 2])
            length = self._lengths[identity]
            self._ids.append(identity)
            self.free += length
            self._next_used += length
            if self._next_used >= self.size:
                self._next_used -= self.size
                self._used_wrap ^= 1
            count += 1
        return count

    def _returned(self) -> bool:
        flags = self._halves[8 * self._next_used + FLAGS]
        return (flags >> 7) & 1 == flags >> 15 == self._used_wrap

    def _arm(self) -> bool:
        self._driver_event[0] = self._next_used | self._used_wrap << 15
        self._driver_event[1] = EVENT_DESC if self._event_idx else EVENT_ENABLE
        fence()
        return self._returned()

    def _disarm(self) -> None:
        self._driver_event[1] = EVENT_DISABLE
