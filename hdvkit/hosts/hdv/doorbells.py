"""Kicks without a trap: the kernel takes the guest's write and sets an event. Three routes, the best first.

=====================  ==============================================================================
route                  who gets it
=====================  ==============================================================================
``HdvRegisterDoorbell``  hosts of the model External, perhaps; restricted ones are denied it
the machine's worker     restricted hosts, where Windows has ``GetVmWorkerProcess``
trapped writes           everybody, always: what no route takes ends in the same doorbell
=====================  ==============================================================================

Windows' calls here ask another process, so they are made on the owner thread, in order.
"""

import logging
import uuid
from functools import partial
from typing import NamedTuple, Protocol

from hdvkit.errors import HostError
from hdvkit.hosts.hdv import owner
from hdvkit.hosts.hdv.abi import vmworker
from hdvkit.hosts.hdv.abi.binding import Pointer
from hdvkit.hosts.hdv.abi.hresult import E_ACCESSDENIED, HdvError
from hdvkit.hosts.hdv.abi.kernel32 import Event
from hdvkit.hosts.hdv.abi.vmdevicehost import HdvDevice
from hdvkit.hosts.hdv.machine import Machine
from hdvkit.runtime import Doorbell

log = logging.getLogger("hdvkit.hdv")

MOST = 8
"""Doorbells of one device that Windows' own broker allows."""


class Match(NamedTuple):
    """Which writes ring a doorbell."""

    bar: int
    offset: int
    value: int | None
    size: int


class Route(Protocol):
    """A way to the kernel."""

    def register_doorbell(self, bar: int, offset: int, value: int | None, size: int, event: Pointer) -> None:
        """Have matching writes set the event."""
        ...

    def unregister_doorbell(self, bar: int, offset: int, value: int | None, size: int) -> None:
        """Undo that."""
        ...


class Rung(NamedTuple):
    """One doorbell that a route has taken."""

    doorbell: Doorbell
    route: Route
    match: Match
    event: Event


class Doorbells:
    """The doorbells of one device."""

    def __init__(self, machine: Machine, instance: uuid.UUID) -> None:
        self.device: HdvDevice | None = None
        self.taken = {"vmdevicehost": 0, "worker": 0}
        """How many doorbells each route took, over all resets of the guest."""
        self._routes = {"vmdevicehost": self._by_vmdevicehost, "worker": self._by_worker}
        self._machine = machine
        self._instance = instance
        self._wanted: set[int] = set()
        self._rung: dict[int, Rung] = {}
        self._worker: vmworker.FastNotification | None = None
        self._told = False

    def want(self, doorbell: Doorbell) -> bool:
        """Look for a route; writes are trapped until there is one. False when there are too many doorbells already."""
        if len(self._wanted) >= MOST:
            return False
        self._wanted.add(doorbell.index)
        match = Match(doorbell.bar, doorbell.offset, doorbell.value, doorbell.size)
        owner.submit(partial(self._register, doorbell, match))
        return True

    def dismiss(self, doorbell: Doorbell) -> None:
        """Give the route back."""
        if doorbell.index in self._wanted:
            self._wanted.discard(doorbell.index)
            owner.submit(partial(self._unregister, doorbell.index))

    def close(self) -> None:
        """Give everything back. On the owner thread, before the device host is torn down."""
        for index in tuple(self._rung):
            self._unregister(index)
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    # On the owner thread

    def _register(self, doorbell: Doorbell, match: Match) -> None:
        refusals: list[HostError] = []
        try:
            event = Event(self._machine.libraries, doorbell.ring)
        except HostError as error:
            self._tell_once([error])
            return
        for name, find in self._routes.items():
            try:
                route = find()
                route.register_doorbell(*match, event.handle)
            except HostError as error:
                refusals.append(error)
                self._learn(name, error)
            else:
                self._rung[doorbell.index] = Rung(doorbell, route, match, event)
                self.taken[name] += 1
                return
        event.close()
        self._tell_once(refusals)

    def _unregister(self, index: int) -> None:
        rung = self._rung.pop(index, None)
        if rung is None:
            return
        if self._machine.alive:
            try:
                rung.route.unregister_doorbell(*rung.match)
            except HostError as error:
                log.debug("%s", error)  # a machine that has stopped took its doorbells along
        rung.event.close()
        # The event may have been set, and not been heard any more; to ring for nothing costs one look.
        rung.doorbell.ring()

    def _learn(self, name: str, error: HostError) -> None:
        """A host that was denied doorbells once always is: ask no more."""
        if name == "vmdevicehost" and isinstance(error, HdvError) and error.hresult == E_ACCESSDENIED:
            self._machine.denied_doorbells = True

    def _by_vmdevicehost(self) -> Route:
        if self.device is None or self._machine.denied_doorbells:
            raise HostError("HDV denies this host its doorbells")
        return self.device

    def _by_worker(self) -> Route:
        if self._worker is None:
            self._worker = vmworker.FastNotification(self._machine.libraries, self._machine.runtime, self._instance)
        return self._worker

    def _tell_once(self, refusals: list[HostError]) -> None:
        """Each time the guest's driver comes up there is another chance, and the guest decides how often that is."""
        level = logging.DEBUG if self._told else logging.INFO
        self._told = True
        log.log(level, "kicks of device %s are trapped: %s", self._instance, "; ".join(map(str, refusals)))
