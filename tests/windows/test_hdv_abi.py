"""The bindings one by one: texts, GUIDs, codes, tables of callbacks, reference counts."""

import errno
import logging
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from double_control import Double
from hdv_on_double import DoubleBackend, guest_of, opened, plug
from hypothesis import given
from hypothesis import strategies as st

from hdvkit import HostError
from hdvkit.hosts.hdv import documents
from hdvkit.hosts.hdv.abi import proxy, vmdevicehost, vmworker
from hdvkit.hosts.hdv.abi.binding import Table, ffi, guid, text_at, uuid_at, wide
from hdvkit.hosts.hdv.abi.hresult import MEANINGS, S_OK, HdvError, check, failed, signed
from hdvkit.hosts.hdv.abi.libraries import PROXY, WORKER, Libraries
from hdvkit.hosts.hdv.identities import EMULATORS, VIRTIO_FS, emulator_of, new_instance, pci_domain
from hdvkit.testing.echo import Echo

PAGE = 4096
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)


@given(TEXTS)
def test_a_text_survives_utf_16(text: str) -> None:
    assert text_at(wide(text)) == text


def test_a_text_ends_where_it_ends() -> None:
    assert text_at(ffi().NULL) == ""
    assert text_at(wide("one\0two")) == "one"
    assert text_at(wide("long" * 10), longest=4) == "long"
    assert text_at(ffi().new("WCHAR[]", [0x61, 0xD800, 0])) == "a\ufffd", "half a pair is no character"


@given(st.uuids())
def test_a_guid_survives(value: uuid.UUID) -> None:
    made = guid(value)
    assert uuid_at(made) == value
    assert (made.Data1, made.Data2, made.Data3) == value.fields[:3]
    assert bytes(made.Data4) == value.bytes[8:]


@given(st.integers(0, 0xFFFFFFFF))
def test_a_code_is_the_same_signed_or_not(code: int) -> None:
    assert signed(code) & 0xFFFFFFFF == code
    assert failed(code) == failed(signed(code)) == (signed(code) < 0)
    if failed(code):
        with pytest.raises(HdvError, match=f"{code:#010x}") as caught:
            check(signed(code), "something")
        assert caught.value.hresult == code
    else:
        check(code, "something")


def test_every_code_has_a_name_of_its_own_and_is_a_failure() -> None:
    assert all(failed(code) for code in MEANINGS)
    names = [meaning.name for meaning in MEANINGS.values()]
    assert len(set(names)) == len(names)


def test_an_error_says_what_was_tried_why_and_what_to_do() -> None:
    error = HdvError("adding a device", 0x80370105, '{"Error": 1}')
    assert isinstance(error, HostError)
    assert error.errno == errno.EAGAIN
    assert str(error) == (
        "adding a device failed with HCS_E_INVALID_STATE 0x80370105, "
        'and the service says: {"Error": 1}; the machine must be running'
    )
    assert str(HdvError("this", 0x8BADF00D)) == "this failed with 0x8badf00d"


def test_a_callback_that_raises_is_a_failure_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Any) -> int:
        raise RuntimeError("broken")

    def alright(_: Any) -> int:
        return S_OK

    table = Table("HDV_PCI_DEVICE_INTERFACE", Initialize=broken, Start=alright, Teardown=broken)
    assert table.pointer.Initialize(ffi().NULL) == signed(0x80004005)
    assert table.pointer.Start(ffi().NULL) == S_OK
    table.pointer.Teardown(ffi().NULL)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "RuntimeError: broken" in caplog.text


def test_support_objects_count_references_and_answer_for_two_interfaces(double: Double) -> None:
    libraries = DoubleBackend.libraries()
    support = proxy.DeviceHostSupport(libraries, ffi().NULL)
    this, table = support.pointer, support.pointer.lpVtbl
    found = ffi().new("void **")
    for interface in (proxy.IID_IUNKNOWN, proxy.IID_SUPPORT):
        assert table.QueryInterface(this, guid(interface), found) == S_OK
        assert found[0] == this
    assert support.references == 3
    assert table.QueryInterface(this, guid(uuid.uuid4()), found) == signed(0x80004002)
    assert found[0] == ffi().NULL
    assert table.QueryInterface(this, ffi().NULL, found) == signed(0x80004003)
    assert table.QueryInterface(this, guid(proxy.IID_IUNKNOWN), ffi().NULL) == signed(0x80004003)
    counts: list[int] = []
    others = [threading.Thread(target=lambda: counts.append(table.Release(this))) for _ in range(2)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    assert sorted(counts) == [1, 2]
    assert support in proxy._referenced
    support.release()
    assert support not in proxy._referenced


@pytest.mark.skipif(sys.platform != "linux", reason="the double takes a descriptor for a section on Linux only")
@pytest.mark.parametrize("model", ["External", "ExternalRestricted"])
async def test_a_section_takes_the_place_of_a_bar(double: Double, tmp_path: Path, model: str) -> None:
    (tmp_path / "section").write_bytes(bytes(PAGE) + b"section!".ljust(PAGE, b"."))
    with (tmp_path / "section").open("r+b") as file:
        section = ffi().cast("HANDLE", file.fileno())
        async with opened(double, hosting_model=model) as host:
            function = await host.add(Echo())
            driver = await plug(host, function)
            await driver.probe()
            guest, slot = guest_of(host), function.slot
            window = guest.system.bar(await guest.slot(str(slot.instance)), 0)
            device: Any = slot.interrupts.device
            if model == "ExternalRestricted":
                machine = slot._machine
                device = vmworker.MmioMappings(machine.libraries, machine.runtime, slot.instance)
            device.map_section(0, 1, 1, vmdevicehost.MmioMapping.WRITEABLE, section, 1)
            assert (await guest.mmio_read(window.address + PAGE, 8)).to_bytes(8, "little") == b"section!"
            await guest.mmio_write(window.address + PAGE, 1, ord("S"))
            device.unmap_section(0, 1)
            with pytest.raises(HdvError, match="unmapping the section at page 1 of BAR 0"):
                device.unmap_section(0, 1)
            if isinstance(device, vmworker.MmioMappings):
                device.close()
        file.seek(PAGE)
        assert file.read(8) == b"Section!"


def test_a_machine_without_worker_has_no_sections(double: Double) -> None:
    libraries = DoubleBackend.libraries()
    with pytest.raises(HdvError, match="asking for the machine's worker"):
        vmworker.MmioMappings(libraries, uuid.uuid4(), uuid.uuid4())


def test_what_is_missing_is_said_before_it_is_called(tmp_path: Path) -> None:
    without = Libraries(vmdevicehost=object(), computecore=None, kernel32=None, ole32=None, vmwpctrl=None)
    assert not without.has(WORKER)
    with pytest.raises(HostError, match=r"vmdevicehost.dll has no function HdvInitialize.*a newer Windows is needed"):
        without.require(*PROXY)
    with pytest.raises(OSError, match="nowhere"):
        Libraries.of_file(tmp_path / "nowhere.so")


@pytest.mark.parametrize(
    ("value", "size", "expected"),
    [
        (3, 2, (3, 2)),
        (0, 1, (0, 1)),
        (None, 4, (0, 0x80000003)),
        (7, 8, (7, 4)),
        (None, 3, (0, 0x80000000)),
    ],
)
def test_a_doorbell_is_told_by_value_and_size(value: int | None, size: int, expected: tuple[int, int]) -> None:
    assert vmdevicehost.trigger(value, size) == expected


def test_documents_have_the_words_of_the_schema() -> None:
    instance = uuid.UUID("C1C1C1C1-3333-4333-8333-333333333333")
    text = documents.slot("Add", instance, VIRTIO_FS, documents.HostingModel.EXTERNAL_RESTRICTED)
    assert text == (
        '{"ResourcePath": "VirtualMachine/Devices/FlexibleIov/c1c1c1c1-3333-4333-8333-333333333333", '
        '"RequestType": "Add", "Settings": {"EmulatorId": "872270e1-a899-4af6-b454-7193634435ad", '
        '"HostingModel": "ExternalRestricted"}}'
    )


@given(st.lists(st.uuids(), min_size=1, max_size=20))
def test_every_device_gets_a_pci_domain_of_its_own(made: list[uuid.UUID]) -> None:
    good = uuid.UUID(int=0xFFFF << 80)
    taken = {pci_domain(one) for one in made}
    source = iter([uuid.UUID(int=0), *made, good])
    instance = new_instance(taken, lambda: next(source))
    assert pci_domain(instance) not in taken | {0}


def test_emulators_that_windows_does_not_know_are_said_to_be_file_systems() -> None:
    assert emulator_of(26) == emulator_of(4) == VIRTIO_FS
    assert len(set(EMULATORS.values())) == len(EMULATORS)
