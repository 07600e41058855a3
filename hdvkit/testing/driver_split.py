"""The driver half of "Split Virtqueues" (VIRTIO 1.3): layout and order of stores, nothing else.

Indices the device polls are stored as aligned 16-bit units, after everything they announce.
"""

from collections.abc import Sequence

from hdvkit.testing.driver_rings import (
    DESCRIPTOR,
    F_NEXT,
    DriverError,
    DriverQueue,
    Element,
    fence,
    need_event,
)

AVAIL_F_NO_INTERRUPT = 1
USED_F_NO_NOTIFY = 1


class SplitQueue(DriverQueue):
    """One split virtqueue; ids are indices of head descriptors."""

    def _areas(self) -> tuple[int, tuple[int, int], tuple[int, int]]:
        # The event fields at the ends are allocated always: without the feature nobody reads them.
        return 16 * self.size, (6 + 2 * self.size, 2), (6 + 8 * self.size, 4)

    def _open_ring(self) -> None:
        self._avail = self.driver_area.cast("H")  # flags, idx, ring[size], used_event
        self._used = self.device_area.cast("H")  # flags, idx, elements, avail_event
        self._returns = self.device_area[4 : 4 + 8 * self.size].cast("I")  # id and length in turn
        self._used_event = 2 + self.size
        self._avail_event = 2 + 4 * self.size
        self._avail_index = self._avail[1]
        self._used_index = self._used[1]
        self._unused = list(range(self.size - 1, -1, -1))
        self._chains: dict[int, list[int]] = {}

    def _publish(self, elements: Sequence[Element]) -> int:
        places = [self._unused.pop() for _ in elements]
        last = len(places) - 1
        for n, (address, length, flags) in enumerate(elements):
            following = 0
            if n < last:
                flags, following = flags | F_NEXT, places[n + 1]
            DESCRIPTOR.pack_into(self.descriptors, 16 * places[n], address, length, flags, following)
        head = places[0]
        self._chains[head] = places
        self._avail[2 + self._avail_index % self.size] = head
        self._avail_index = (self._avail_index + 1) & 0xFFFF
        self._avail[1] = self._avail_index
        self._added += 1
        return head

    def _write_table(self, view: memoryview, elements: Sequence[Element]) -> None:
        last = len(elements) - 1
        for n, (address, length, flags) in enumerate(elements):
            following = n + 1 if n < last else 0
            flags |= F_NEXT if n < last else 0
            DESCRIPTOR.pack_into(view, 16 * n, address, length, flags, following)

    def _kick_wanted(self, added: int) -> bool:
        if self._event_idx:
            return need_event(self._used[self._avail_event], self._avail_index, self._avail_index - added)
        return not self._used[0] & USED_F_NO_NOTIFY

    def _position(self) -> int:
        return self._avail_index

    def _drain(self) -> int:
        waiting = (self._used[1] - self._used_index) & 0xFFFF
        if waiting > len(self._in_flight):
            raise DriverError(
                f"queue {self.index}: used index is {waiting} ahead with {len(self._in_flight)} in flight"
            )
        for _ in range(waiting):
            place = 2 * (self._used_index % self.size)
            head = self._returns[place]
            self._complete(head, self._returns[place + 1])
            places = self._chains.pop(head)
            self.free += len(places)
            self._unused.extend(reversed(places))
            self._used_index = (self._used_index + 1) & 0xFFFF
        return waiting

    def _arm(self) -> bool:
        if self._event_idx:
            self._avail[self._used_event] = self._used_index
        else:
            self._avail[0] = 0
        fence()
        return self._used[1] != self._used_index

    def _disarm(self) -> None:
        # "Used Buffer Notification Suppression": with the event index flags stay 0, and the event can only
        # be put as far away as it goes.
        if self._event_idx:
            self._avail[self._used_event] = (self._used_index - 1) & 0xFFFF
        else:
            self._avail[0] = AVAIL_F_NO_INTERRUPT
