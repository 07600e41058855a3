"""What is said to the host compute service, and what it says: JSON documents. No I/O."""

import json
import uuid
from enum import StrEnum
from typing import NamedTuple


class HostingModel(StrEnum):
    """Who answers for a slot."""

    EXTERNAL_RESTRICTED = "ExternalRestricted"
    """A device host that is registered with the machine's worker process; what Windows itself uses."""
    EXTERNAL = "External"
    """A device host of the process that opened the machine. Nobody has proven it with virtio."""


class System(NamedTuple):
    """One compute system."""

    identity: str
    kind: str
    """``VirtualMachine``, or something that takes no devices."""
    runtime: uuid.UUID | None
    state: str


def slot(request: str, instance: uuid.UUID, emulator: uuid.UUID, model: HostingModel) -> str:
    """A FlexibleIov slot to ``Add`` or to ``Remove``. GUIDs are lowercase and without braces."""
    return json.dumps(
        {
            "ResourcePath": f"VirtualMachine/Devices/FlexibleIov/{instance}",
            "RequestType": request,
            "Settings": {"EmulatorId": str(emulator), "HostingModel": model.value},
        }
    )


def read_system(document: str) -> System:
    """What the properties of a system say.

    Raises:
        ValueError: They are no such document.
    """
    return _system(json.loads(document))


def read_systems(document: str) -> list[System]:
    """What the list of systems says.

    Raises:
        ValueError: It is no such document.
    """
    found = json.loads(document or "[]")
    if not isinstance(found, list):
        raise ValueError(f"no list of systems: {document[:100]!r}")
    return [_system(one) for one in found]


def _system(properties: object) -> System:
    if not isinstance(properties, dict):
        raise ValueError("no properties of a system")
    runtime = properties.get("RuntimeId")
    return System(
        identity=str(properties.get("Id", "")),
        kind=str(properties.get("SystemType", "")),
        runtime=None if runtime is None else uuid.UUID(str(runtime)),
        state=str(properties.get("State", "")),
    )
