"""The conformance kits: they pass what is right, and name what is wrong."""

from collections.abc import Callable

import attrs
import pytest

from hdvkit import DeviceHost, Function, Queue, VirtioDevice
from hdvkit.runtime import Opening
from hdvkit.testing import Failed, Guest, VirtioDriver, check_backend, check_device, kit
from hdvkit.testing.backend import SimBackend, SimSlot
from hdvkit.testing.echo import Echo


def no_kinds(kind: str, _: object) -> VirtioDevice:
    raise LookupError(kind)


async def plug(host: DeviceHost, function: Function) -> VirtioDriver:
    return Guest.of(host).driver(function)


def opener(**options: object) -> Callable[[], Opening]:
    return lambda: Opening(DeviceHost(SimBackend(**options), no_kinds))  # type: ignore[arg-type]  # options by name


@pytest.mark.parametrize("options", [{}, {"apertures": 16}, {"doorbells": 0}, {"removable": False}])
async def test_the_simulated_platform_passes(options: dict[str, object]) -> None:
    report = await check_backend(opener(**options), plug)
    report.raise_for_failures()
    assert len(report.results) == 11


@attrs.define(eq=False)
class ForgetsInterrupts(SimBackend):
    """A platform that loses messages."""

    def slot(self, function: Function) -> "LossySlot":
        """A slot that loses messages."""
        number = len(self.machine.slots)
        return LossySlot(self, function, number, self._memory())


class LossySlot(SimSlot):
    """Every interrupt but the first is lost."""

    sent = 0

    def interrupt(self, message: object) -> None:
        """Deliver the first, drop the others."""
        self.sent += 1
        if self.sent == 1:
            super().interrupt(message)  # type: ignore[arg-type]  # the kit's message, passed on


async def test_a_platform_that_loses_interrupts_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "LIMIT", 0.3)
    report = await check_backend(lambda: Opening(DeviceHost(ForgetsInterrupts(), no_kinds)), plug)
    assert {"kicks are not lost", "many requests at once"} <= {result.name for result in report.failed}
    with pytest.raises(Failed, match="kicks are not lost: hung"):
        report.raise_for_failures()


async def echoes(driver: VirtioDriver) -> None:
    reply = await driver.queues[0].submit([b"ping"], [4])
    kit.expect("the echo", reply.data, b"ping")


async def test_a_right_device_passes_every_check() -> None:
    report = await check_device(Echo, kind="echo", exchange=echoes)
    report.raise_for_failures()
    assert len(report.results) > 60


class Lies(Echo):
    """Answers something else."""

    async def serve(self, queue: Queue) -> None:
        """Write the wrong bytes."""
        async for chain in queue:
            with chain:
                chain.write(bytes(chain.writable_size))


class Crashes(Echo):
    """Fails at the first request."""

    async def serve(self, queue: Queue) -> None:
        """Raise."""
        async for chain in queue:
            with chain:
                raise RuntimeError("out of order")


@pytest.mark.parametrize("device", [Lies, Crashes])
async def test_a_wrong_device_is_named(device: type[Echo], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "LIMIT", 5.0)
    report = await check_device(device, kind="wrong", exchange=echoes, hostile=False)
    failed = {result.name: result.detail for result in report.failed}
    assert "many requests at once" in failed
    assert "every mix of features, packed rings" in failed
