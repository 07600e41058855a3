"""Snapshots of what a function has done."""

from enum import StrEnum

import attrs


class State(StrEnum):
    """Where a function is in its life."""

    ATTACHED = "attached"
    """The guest has not brought its driver up, or took it down again."""
    READY = "ready"
    NEEDS_RESET = "needs-reset"
    REMOVED = "removed"
    PARKED = "parked"
    """Removed, but the platform left it visible: it answers with errors."""
    CLOSED = "closed"

    @property
    def revoked(self) -> bool:
        """Whether the device is closed for good."""
        return self in (State.REMOVED, State.PARKED, State.CLOSED)

    @property
    def over(self) -> bool:
        """Whether nothing will happen to the function any more."""
        return self in (State.REMOVED, State.CLOSED)


@attrs.frozen
class QueueStats:
    """What one queue has done since its function was added, over all resets."""

    name: str
    kicks: int
    """Notifications of the guest that reached the function."""
    wakeups: int
    """How often they woke the device up."""
    chains: int
    taken: int
    """Bytes the guest brought."""
    given: int
    """Bytes the guest took home."""
    interrupts: int
    in_flight: int
    late: int
    """Chains completed after a reset had taken their ring away; the guest never saw them."""


@attrs.frozen
class FunctionStats:
    """What a function has done since it was added."""

    state: State
    queues: tuple[QueueStats, ...]
    resets: int
    needs_resets: int
    dropped_accesses: int
    """Accesses of a size, place or moment that no driver uses: read as zeroes or ignored."""
    leases: int
    """Ranges of guest memory in use right now."""

    @property
    def chains(self) -> int:
        """Chains completed, over all queues."""
        return sum(queue.chains for queue in self.queues)
