"""The host kind ``sim``: a machine inside the process, with RAM, PCI slots and message interrupts, and no guest.

The device side sees a platform like any other. The guest's side is :class:`SimMachine`, which a driver (ours or
one's own) works on. Built to be as awkward as real platforms are: RAM is split around the 32-bit hole, doorbells
run out, mappings may be few, removal may be refused.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import anyio
import attrs

import hdvkit.hookspecs
from hdvkit.apertures import ApertureMemory, AperturePool, NoMoreApertures
from hdvkit.errors import HostError
from hdvkit.memory import Memory, RegionMemory
from hdvkit.pci.msix import Message
from hdvkit.runtime import CONFIG, Backend, Doorbell, Function, Removal, Slot
from hdvkit.testing.ram import HIGH, MIB, MIN_SIZE, Ram

if TYPE_CHECKING:
    from hdvkit.hookspecs import RegisterHost

BAR_WINDOW = 0xE0000000
MSI_WINDOW = 0xFEE00000
SLOTS = 32
COMMAND = 0x04
COMMAND_MEMORY = 0x2
BAR0 = 0x10


class SimMachine:
    """The guest's side; implements :class:`hdvkit.testing.machine.Machine`."""

    def __init__(self, ram: Ram) -> None:
        self.memory = ram
        self.slots: dict[int, SimSlot] = {}
        self.lost_interrupts = 0
        """Messages to an address and data that nobody had taken."""
        self.on_unplug: dict[int, Callable[[], None]] = {}
        """What the guest does when the function of a slot is pulled out."""
        self._handlers: dict[tuple[int, int], Callable[[], None]] = {}
        self._next_bar = BAR_WINDOW

    async def config_read(self, slot: int, offset: int, size: int) -> int:
        """Read configuration space; all ones where no function is."""
        if slot not in self.slots:
            return (1 << 8 * size) - 1
        return int.from_bytes(self.slots[slot].function.read(CONFIG, offset, size), "little")

    async def config_write(self, slot: int, offset: int, size: int, value: int) -> None:
        """Write configuration space."""
        if slot in self.slots:
            self.slots[slot].write_config(offset, value.to_bytes(size, "little"))

    async def mmio_read(self, address: int, size: int) -> int:
        """Read where some BAR decodes; all ones where none does."""
        found = self._decode(address)
        if found is None:
            return (1 << 8 * size) - 1
        slot, bar, offset = found
        return int.from_bytes(slot.function.read(bar, offset, size), "little")

    async def mmio_write(self, address: int, size: int, value: int) -> None:
        """Write where some BAR decodes."""
        found = self._decode(address)
        if found is not None:
            slot, bar, offset = found
            slot.write(bar, offset, value.to_bytes(size, "little"))

    def ram(self, address: int, size: int) -> memoryview:
        """Guest RAM; raises ValueError where there is none."""
        return self.memory.view(address, size)

    def allocate(self, size: int, align: int = 4096) -> int:
        """Take zeroed RAM."""
        return self.memory.allocate(size, align)

    def free(self, address: int) -> None:
        """Give back what ``allocate`` returned."""
        self.memory.free(address)

    def allocate_bar(self, size: int) -> int:
        """Take a window in the 32-bit hole."""
        address = -(-self._next_bar // size) * size
        self._next_bar = address + size
        return address

    def allocate_msi(self, handler: Callable[[], None]) -> tuple[int, int]:
        """Take a message."""
        message = (MSI_WINDOW, 0x20 + len(self._handlers))
        self._handlers[message] = handler
        return message

    async def unplug(self, address: int) -> None:
        """Take the RAM region that begins at ``address`` from all functions; returns when none uses it any more."""
        for slot in tuple(self.slots.values()):
            if isinstance(slot.memory, RegionMemory):
                gone = anyio.Event()
                slot.function.memory_leaves(address, self.memory.region_size(address))
                slot.memory.unmap(address, gone.set)
                await gone.wait()

    def deliver(self, message: Message) -> None:
        """A message arrives from a device."""
        handler = self._handlers.get((message.address, message.data))
        if handler is None:
            self.lost_interrupts += 1
        else:
            handler()

    def _decode(self, address: int) -> "tuple[SimSlot, int, int] | None":
        for slot in self.slots.values():
            for bar, (start, size) in slot.decoded.items():
                if start <= address < start + size:
                    return slot, bar, address - start
        return None


class SimSlot(Slot):
    """One slot of the bus."""

    def __init__(self, backend: "SimBackend", function: Function, number: int, memory: Memory) -> None:
        self.function = function
        self.number = number
        self.memory = memory
        self.decoded: dict[int, tuple[int, int]] = {}
        """Where the BARs answer: address and size by index."""
        self._backend = backend
        self._doorbells: dict[tuple[int, int, int], Doorbell] = {}

    @property
    def place(self) -> Mapping[str, str]:
        """The slot's number."""
        return {"slot": str(self.number)}

    async def attach(self) -> None:
        """Plug the function in."""
        self._backend.machine.slots[self.number] = self

    async def detach(self) -> Removal:
        """Pull the function out, where the machine can."""
        if not self._backend.removable:
            return Removal.PARKED
        self.unplug()
        return Removal.REMOVED

    def unplug(self) -> None:
        """The slot is empty from now on."""
        machine = self._backend.machine
        machine.slots.pop(self.number, None)
        machine.on_unplug.pop(self.number, lambda: None)()
        self.decoded.clear()
        self._doorbells.clear()
        if isinstance(self.memory, ApertureMemory):
            self.memory.clear()

    def interrupt(self, message: Message) -> None:
        """Send a message to the machine."""
        self._backend.machine.deliver(message)

    def doorbell(self, doorbell: Doorbell) -> bool:
        """Match writes of the doorbell, as long as there are matchers left."""
        if len(self._doorbells) >= self._backend.doorbells:
            return False
        self._doorbells[_match(doorbell)] = doorbell
        return True

    def dismiss(self, doorbell: Doorbell) -> None:
        """Stop matching."""
        self._doorbells.pop(_match(doorbell), None)

    def write(self, bar: int, offset: int, data: bytes) -> None:
        """A guest's write to a BAR: a doorbell if one matches, else trapped."""
        doorbell = self._doorbells.get((bar, offset, len(data)))
        if doorbell is not None and doorbell.value in (None, int.from_bytes(data, "little")):
            doorbell.ring()
        else:
            self.function.write(bar, offset, data)

    def write_config(self, offset: int, data: bytes) -> None:
        """A guest's write to configuration space; afterwards BARs may answer elsewhere."""
        self.function.write(CONFIG, offset, data)
        self.decoded = dict(self._decode())

    def _decode(self) -> list[tuple[int, tuple[int, int]]]:
        if not self._config(COMMAND, 2) & COMMAND_MEMORY:
            return []
        return [(index, (self._bar_address(index, bar.wide), bar.size)) for index, bar in self.function.bars.items()]

    def _bar_address(self, index: int, wide: bool) -> int:
        low = self._config(BAR0 + 4 * index, 4) & ~0xF
        return low | (self._config(BAR0 + 4 * index + 4, 4) << 32 if wide else 0)

    def _config(self, offset: int, size: int) -> int:
        return int.from_bytes(self.function.read(CONFIG, offset, size), "little")


@attrs.define(eq=False)
class SimBackend(Backend):
    """A machine in this process.

    Options:
        memory_mb: RAM of the machine, half of it (at most 3.75 GiB) below the 32-bit hole, the rest at 4 GiB.
        apertures: Reach RAM through so many mappings at most, of all devices together, as on Hyper-V; 0 maps all
            of it.
        doorbells: How many kicks of a function the platform matches by itself; the others are trapped.
        removable: Whether a device can be taken from a running guest; otherwise it is parked.
    """

    memory_mb: int = attrs.field(default=64, validator=attrs.validators.ge(MIN_SIZE // MIB))
    apertures: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    doorbells: int = attrs.field(default=8, validator=attrs.validators.ge(0))
    removable: bool = True
    machine: SimMachine = attrs.field(init=False)
    _mappings: "_LimitedMappings" = attrs.field(init=False)
    _pool: AperturePool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make the machine, so that a test may look at it before it is opened."""
        self.machine = SimMachine(Ram(self.memory_mb * MIB))
        self._mappings = _LimitedMappings(self.machine.memory, self.apertures)
        self._pool = AperturePool(self.apertures)

    async def open(self) -> None:
        """Nothing to connect to."""

    def slot(self, function: Function) -> SimSlot:
        """The first free slot."""
        number = next((n for n in range(SLOTS) if n not in self.machine.slots), None)
        if number is None:
            raise HostError(f"all {SLOTS} slots of the machine are taken; remove a device first")
        return SimSlot(self, function, number, self._memory())

    async def aclose(self) -> None:
        """Empty all slots; RAM stays with whoever still looks at the machine."""
        for slot in tuple(self.machine.slots.values()):
            slot.unplug()

    def _memory(self) -> Memory:
        if self.apertures:
            return ApertureMemory(self._mappings, self._pool, max_address=HIGH + self.memory_mb * MIB)
        memory = RegionMemory()
        for address, view in self.machine.memory.regions.items():
            memory.map(address, view)
        return memory


class _LimitedMappings:
    """What the platform does under an aperture memory. A destroyed mapping cannot be touched any more."""

    def __init__(self, ram: Ram, limit: int) -> None:
        self._ram = ram
        self._left = limit

    def create(self, address: int, size: int, writable: bool) -> memoryview:
        if not self._left:
            raise NoMoreApertures("the machine's limit of apertures is reached")
        try:
            view = self._ram.view(address, size)
        except ValueError as error:
            raise HostError(str(error)) from error
        self._left -= 1
        return view if writable else view.toreadonly()

    def destroy(self, view: memoryview) -> None:
        self._left += 1
        view.release()


def _match(doorbell: Doorbell) -> tuple[int, int, int]:
    return doorbell.bar, doorbell.offset, doorbell.size


@hdvkit.hookspecs.hookimpl
def hdvkit_register_hosts(register: "RegisterHost") -> None:
    """The simulated machine."""
    register("sim", SimBackend)
