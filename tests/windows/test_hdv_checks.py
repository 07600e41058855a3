"""``hdvkit check hdv``, on machines that lack one thing after the other."""

import sys
from types import SimpleNamespace

import attrs
import pytest
from double_control import Double
from hdv_on_double import DoubleBackend, machine

from hdvkit.hosts.hdv import checks
from hdvkit.hosts.hdv.abi.libraries import Libraries
from hdvkit.hosts.hdv.backend import HdvBackend
from hdvkit.runtime import Finding


def found(libraries: Libraries) -> dict[str, Finding]:
    return {one.what: one for one in checks.findings(lambda: libraries)}


@pytest.fixture
def libraries(double: Double) -> Libraries:
    return DoubleBackend.libraries()


def test_all_is_well_and_the_machines_are_named(double: Double, libraries: Libraries) -> None:
    names = [machine(double)[0] for _ in range(7)]
    findings = found(libraries)
    assert [one.what for one in findings.values() if not one.good] == []
    told = findings["compute systems"].found
    assert told.count(", ") == 4
    assert told.endswith(" and 2 more")
    assert any(name in told for name in names)
    assert findings["kicks of the guest"].found == "by the machine's worker"
    assert double.count("operations_live") == double.count("strings_live") == 0


def test_no_machine_is_something_to_be_told(libraries: Libraries) -> None:
    finding = found(libraries)["compute systems"]
    assert (finding.good, finding.found, finding.advice) == (False, "no virtual machine is running", "start one first")


@pytest.mark.parametrize(
    ("export", "code", "advice"),
    [
        ("HcsEnumerateComputeSystems", 0x80070005, "run as a member of Administrators"),
        ("HcsEnumerateComputeSystems.result", 0x80370114, "start the service vmcompute"),
    ],
)
def test_missing_rights_and_services_are_told(
    double: Double, libraries: Libraries, export: str, code: int, advice: str
) -> None:
    double.fail_next(export, code)
    finding = found(libraries)["compute systems"]
    assert not finding.good
    assert finding.found.startswith("listing the compute systems failed with")
    assert finding.advice.startswith(advice)


def test_an_old_windows_is_told(libraries: Libraries) -> None:
    old = SimpleNamespace(HdvInitializeDeviceHostForProxy=libraries.vmdevicehost.HdvInitializeDeviceHostForProxy)
    findings = found(attrs.evolve(libraries, vmdevicehost=old, vmwpctrl=None))
    assert findings["restricted device hosts"].found == "no HdvProxyDeviceHost"
    assert "Windows 11" in findings["restricted device hosts"].advice
    assert findings["kicks of the guest"].found.startswith("trapped")
    assert findings["kicks of the guest"].good, "slower, but it works"


@pytest.mark.skipif(sys.platform == "win32", reason="this is about systems that are no Windows")
def test_another_system_is_told_and_nothing_else_is_looked_at() -> None:
    [finding] = HdvBackend.check()
    assert not finding.good
    assert "needs Windows" in finding.found
