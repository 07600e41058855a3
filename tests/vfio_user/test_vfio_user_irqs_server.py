"""Interrupts of the vfio-user server: which eventfd it rings, when, and what it remembers until it may."""

import os
import sys
from collections.abc import AsyncIterator

import attrs
import pytest
import pytest_asyncio
from vfio_user_bench import IntxDriver, Served, driven, no_fds_lost, served
from vfio_user_client import Client
from vfio_user_connection import Refused
from vfio_user_machine import VfioUserMachine

from hdvkit.testing import VirtioDriver
from hdvkit.testing.echo import CONFIG

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

INTX, MSIX = 0, 2
SET, OFF, MASK, UNMASK = 0x24, 0x21, 0x09, 0x11


@attrs.define
class Line:
    """A device whose configuration changes raise its configuration interrupt."""

    device: Served
    client: Client
    driver: VirtioDriver
    bells: list[int] = attrs.field(factory=list)

    def bell(self) -> int:
        """A new eventfd."""
        self.bells.append(os.eventfd(0, os.EFD_NONBLOCK))
        return self.bells[-1]

    def change(self) -> None:
        """Make the device interrupt, now."""
        function = self.device.function
        changed = function.device.config()[::-1]
        function.device.config = lambda: changed  # type: ignore[method-assign]  # this device now says so
        function.config_changed()


def rung(bell: int) -> int:
    """How often, since the last look."""
    try:
        return os.eventfd_read(bell)
    except BlockingIOError:
        return 0


@pytest_asyncio.fixture(params=[VirtioDriver, IntxDriver])
async def line(request: pytest.FixtureRequest) -> AsyncIterator[Line]:
    with no_fds_lost():
        async with (
            served() as device,
            VfioUserMachine() as machine,
            driven(machine, device.path, request.param) as driver,
        ):
            line = Line(device, machine.slots[0].client, driver)
            yield line
            for bell in line.bells:
                os.close(bell)
        assert machine.faults == []


msix = pytest.mark.parametrize("line", [VirtioDriver], indirect=True)
intx = pytest.mark.parametrize("line", [IntxDriver], indirect=True)


@msix
async def test_each_interrupt_rings_once(line: Line) -> None:
    bell = line.bell()
    await line.client.set_irqs(SET, MSIX, 0, 1, [bell])
    assert rung(bell) == 0
    for _ in range(3):
        line.change()
        assert rung(bell) == 1


@msix
async def test_the_last_descriptor_counts(line: Line) -> None:
    first, second = line.bell(), line.bell()
    await line.client.set_irqs(SET, MSIX, 0, 1, [first])
    await line.client.set_irqs(SET, MSIX, 0, 1, [second])
    line.change()
    assert (rung(first), rung(second)) == (0, 1)


@msix
async def test_an_interrupt_waits_for_its_descriptor(line: Line) -> None:
    await line.client.set_irqs(SET, MSIX, 0, 1)
    line.change()
    line.change()
    bell, other = line.bell(), line.bell()
    await line.client.set_irqs(SET, MSIX, 1, 1, [other])
    await line.client.set_irqs(SET, MSIX, 0, 1, [bell])
    assert rung(bell) >= 1
    assert rung(other) == 0


@msix
async def test_nothing_rings_after_off(line: Line) -> None:
    bell = line.bell()
    await line.client.set_irqs(SET, MSIX, 0, 1, [bell])
    await line.client.set_irqs(OFF, MSIX, 0, 0)
    line.change()
    assert rung(bell) == 0


@msix
async def test_a_full_eventfd_blocks_nobody(line: Line) -> None:
    bell = line.bell()
    os.eventfd_write(bell, 0xFFFFFFFFFFFFFFFE)
    await line.client.set_irqs(SET, MSIX, 0, 1, [bell])
    line.change()
    assert (await line.client.get_info()).irqs == 5
    assert rung(bell) == 0xFFFFFFFFFFFFFFFE


@msix
async def test_descriptors_that_are_no_eventfds_are_refused(line: Line) -> None:
    out, into = os.pipe()
    os.close(out)
    try:
        with pytest.raises(Refused, match="Invalid argument"):
            await line.client.set_irqs(SET, MSIX, 0, 1, [into])
    finally:
        os.close(into)
    line.change()
    assert await line.driver.config_read(0, len(CONFIG)) == CONFIG[::-1]


@intx
async def test_the_pin_masks_itself_until_it_is_unmasked(line: Line) -> None:
    bell = line.bell()
    await line.client.set_irqs(SET, INTX, 0, 1, [bell])
    line.change()
    assert rung(bell) == 1
    line.change()
    assert rung(bell) == 0
    await line.client.set_irqs(UNMASK, INTX, 0, 1)
    assert rung(bell) >= 1  # nobody has read the ISR
    assert await line.driver.isr_read() == 2
    await line.client.set_irqs(UNMASK, INTX, 0, 1)
    assert rung(bell) == 0
    line.change()
    assert rung(bell) == 1


@intx
async def test_a_masked_pin_keeps_its_interrupt(line: Line) -> None:
    bell = line.bell()
    await line.client.set_irqs(SET, INTX, 0, 1, [bell])
    await line.client.set_irqs(MASK, INTX, 0, 1)
    line.change()
    assert rung(bell) == 0
    await line.client.set_irqs(UNMASK, INTX, 0, 1)
    assert rung(bell) >= 1


@intx
async def test_the_pin_remembers_while_it_has_no_descriptor(line: Line) -> None:
    await line.client.set_irqs(OFF, INTX, 0, 0)
    line.change()
    bell = line.bell()
    await line.client.set_irqs(SET, INTX, 0, 1, [bell])
    assert rung(bell) >= 1
