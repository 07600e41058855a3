"""The entropy source, used by the simulated guest."""

import pytest
from hdvkit_rng import Rng

from hdvkit import DeviceHost, UsageError
from hdvkit.testing import Guest


async def test_a_guest_gets_as_many_bytes_as_it_has_room_for(hdvkit_host: DeviceHost, hdvkit_guest: Guest) -> None:
    """Two requests of 64 bytes, each answered in full and differently."""
    rng = await hdvkit_host.add("rng")
    async with hdvkit_guest.drive(rng) as driver:
        first = await driver.queues[0].submit([], [64])
        second = await driver.queues[0].submit([], [64])
    assert first.written == second.written == 64
    assert first.data != second.data


async def test_the_limit_holds_for_each_request(hdvkit_host: DeviceHost, hdvkit_guest: Guest) -> None:
    """The option reaches the device, and the guest is told how much it got."""
    rng = await hdvkit_host.add("rng", limit=32)
    async with hdvkit_guest.drive(rng, packed=True) as driver:
        reply = await driver.queues[0].submit([], [1000])
    assert reply.written == 32


async def test_a_limit_of_nothing_is_refused(hdvkit_host: DeviceHost) -> None:
    """The person who adds the device reads why."""
    with pytest.raises(UsageError, match="'limit'"):
        await hdvkit_host.add("rng", limit=0)


async def test_a_finished_device_may_be_added_too(hdvkit_host: DeviceHost, hdvkit_guest: Guest) -> None:
    """Nothing but the class is needed where the plugin is not installed."""
    rng = await hdvkit_host.add(Rng(limit=16))
    async with hdvkit_guest.drive(rng) as driver:
        assert (await driver.queues[0].submit([], [64])).written == 16
