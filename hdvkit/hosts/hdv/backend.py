"""What ``open_host("hdv")`` opens: a running virtual machine of Hyper-V that is to get devices."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

import hdvkit.hookspecs
from hdvkit.errors import HostError, UsageError
from hdvkit.hosts.hdv import checks, owner
from hdvkit.hosts.hdv.abi.libraries import Libraries
from hdvkit.hosts.hdv.documents import HostingModel
from hdvkit.hosts.hdv.identities import new_instance, pci_domain
from hdvkit.hosts.hdv.machine import Machine
from hdvkit.hosts.hdv.slot import HdvSlot
from hdvkit.runtime import Backend, Finding, Function

if TYPE_CHECKING:
    from hdvkit.hookspecs import RegisterHost

MIB = 1 << 20
MOST_APERTURES = 512
"""The quota that Windows has been seen to enforce, for a whole machine."""
APERTURES = 448
"""Less than that: its own device host livelocks where the quota is reached."""
DOMAINS = 0x10000


@attrs.define(eq=False)
class HdvBackend(Backend):
    """Add devices to a running virtual machine of Hyper-V, by Host Device Virtualization. Needs Windows.

    Options:
        system: The id of the compute system, as ``hcsdiag list`` shows it.
        memory_mb: RAM of the machine in MiB, as the document says that it was made from.
        hosting_model: ExternalRestricted, as Windows' own devices; or External, which nobody has proven with virtio.
        apertures: How many pieces of guest memory to have mapped at once, of all devices together.
        doorbells: Have the kernel ring for kicks where it can; otherwise each is trapped.
        repeat_interrupts: Repeat interrupts for as long as the guest is busy, if some are suspected of getting lost.
        several_machines: Serve more than one machine from this process; Windows has been seen to fail with that.
    """

    system: str = attrs.field(validator=attrs.validators.min_len(1))
    memory_mb: int = attrs.field(validator=attrs.validators.ge(1))
    hosting_model: HostingModel = HostingModel.EXTERNAL_RESTRICTED
    apertures: int = attrs.field(
        default=APERTURES, validator=[attrs.validators.ge(8), attrs.validators.lt(MOST_APERTURES)]
    )
    doorbells: bool = True
    repeat_interrupts: bool = False
    several_machines: bool = False
    _machine: Machine | None = attrs.field(init=False, default=None)
    _domains: set[int] = attrs.field(init=False, factory=set)

    @classmethod
    def check(cls) -> Sequence[Finding]:
        """Look for Hyper-V, its services, our rights, and machines."""
        return checks.findings(cls.libraries)

    @staticmethod
    def libraries() -> Libraries:
        """Windows' libraries.

        Raises:
            HostError: This is no Windows, or one without Hyper-V.
        """
        return Libraries.of_windows()

    async def open(self) -> None:
        """Open the machine and register our device host with it."""
        try:
            await owner.call(self._join)
        except asyncio.CancelledError:
            await self.aclose()
            raise

    def slot(self, function: Function) -> HdvSlot:
        """A place with an instance id of its own."""
        if self._machine is None:
            raise UsageError("the machine is not open")
        if len(self._domains) >= DOMAINS - 1:
            raise HostError("all PCI domains of the machine are used up; restart the machine")
        instance = new_instance(self._domains)
        self._domains.add(pci_domain(instance))  # for ever: Windows does not free an id while the machine runs
        return HdvSlot(
            self._machine,
            function,
            instance,
            memory_size=self.memory_mb * MIB,
            doorbells=self.doorbells,
            repeat=self.repeat_interrupts,
        )

    async def aclose(self) -> None:
        """Let go of the machine; with the last host for it, our device host is torn down."""
        await owner.call(self._leave)

    # On the owner thread

    def _join(self) -> None:
        self._machine = Machine.join(
            self.libraries(), self.system, self.hosting_model, self.apertures, several=self.several_machines
        )

    def _leave(self) -> None:
        machine, self._machine = self._machine, None
        if machine is not None:
            machine.leave()


@hdvkit.hookspecs.hookimpl
def hdvkit_register_hosts(register: "RegisterHost") -> None:
    """Offer the kind ``hdv``."""
    register("hdv", HdvBackend)
