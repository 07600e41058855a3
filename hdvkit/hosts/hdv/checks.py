"""What ``hdvkit check hdv`` looks at, from the system to the machines that could have devices.

Each finding depends on those before it: where one is bad, what needs it is not asked.
"""

from collections.abc import Callable

from hdvkit.errors import HostError
from hdvkit.hosts.hdv import documents
from hdvkit.hosts.hdv.abi import computecore, vmworker
from hdvkit.hosts.hdv.abi.hresult import HdvError
from hdvkit.hosts.hdv.abi.libraries import NEWER, PROXY, Libraries
from hdvkit.runtime import Finding

SHOWN = 5
"""Machines that are named."""


def findings(load: Callable[[], Libraries]) -> list[Finding]:
    """Look at everything, as far as it can be looked at."""
    try:
        libraries = load()
    except HostError as error:
        what, _, advice = str(error).partition("; ")
        return [Finding("Hyper-V", what, good=False, advice=advice)]
    return [
        Finding("Hyper-V", "computecore.dll and vmdevicehost.dll are there", good=True),
        _proxy(libraries),
        _worker(libraries),
        _machines(libraries),
    ]


def _proxy(libraries: Libraries) -> Finding:
    missing = [export.name for export in PROXY if not libraries.has(export)]
    if missing:
        return Finding("restricted device hosts", f"no {', no '.join(missing)}", good=False, advice=NEWER)
    return Finding("restricted device hosts", "supported", good=True)


def _worker(libraries: Libraries) -> Finding:
    found = "by the machine's worker" if vmworker.available(libraries) else "trapped, which is slower: no vmwpctrl.dll"
    return Finding("kicks of the guest", found, good=True)


def _machines(libraries: Libraries) -> Finding:
    """Whether we may look at compute systems, and which there are."""
    try:
        systems = documents.read_systems(computecore.systems(libraries))
    except HdvError as error:
        return Finding("compute systems", error.failure, good=False, advice=error.advice)
    except ValueError as error:
        return Finding("compute systems", str(error), good=False, advice="this Windows says it in words of its own")
    machines = [one for one in systems if one.kind in ("VirtualMachine", "")]  # not every Windows says the kind
    if not machines:
        return Finding("compute systems", "no virtual machine is running", good=False, advice="start one first")
    names = ", ".join(one.identity for one in machines[:SHOWN])
    more = f" and {len(machines) - SHOWN} more" if len(machines) > SHOWN else ""
    return Finding("compute systems", names + more, good=True)
