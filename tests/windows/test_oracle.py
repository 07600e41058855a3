"""The declarations of ``_cdef.h`` against Microsoft's metadata: functions, structures, enumerations, word by word.

What is public is compared whole. What is not (the proxy functions and the COM interfaces) nobody but Windows can prove;
their names are listed here.
"""

import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest
import win32_metadata as metadata
from pycparser import c_ast, c_generator, c_parser

from hdvkit.hosts.hdv.abi.binding import ffi

CDEF = resources.files("hdvkit.hosts.hdv.abi").joinpath("_cdef.h").read_text(encoding="utf-8")

PLACES = (
    "System.Hypervisor",
    "System.HostComputeSystem",
    "Foundation",
    "System.Threading",
    "System.Com",
    "System.SystemInformation",
)
NOT_PUBLIC = {"HdvInitializeDeviceHostForProxy", "HdvProxyDeviceHost", "GetVmWorkerProcess"}
STRUCTURES = ("HDV_PCI_PNP_ID", "HDV_PCI_DEVICE_INTERFACE")
ENUMERATIONS = (
    "HDV_DEVICE_TYPE",
    "HDV_DEVICE_HOST_FLAGS",
    "HDV_PCI_INTERFACE_VERSION",
    "HDV_PCI_BAR_SELECTOR",
    "HDV_MMIO_MAPPING_FLAGS",
)
LAYOUTS = {
    # Size, and the offset of each member, on x64.
    "GUID": (16, [0, 4, 6, 8]),
    "HDV_PCI_PNP_ID": (12, [0, 2, 4, 5, 6, 7, 8, 10]),
    "HDV_PCI_DEVICE_INTERFACE": (88, list(range(0, 88, 8))),
    "IUnknownVtbl": (24, [0, 8, 16]),
    "IVmDeviceHostSupportVtbl": (32, [0, 8, 16, 24]),
    "IVmVirtualDeviceAccessVtbl": (40, [0, 8, 16, 24, 32]),
    "IVmFiovGuestMemoryFastNotificationVtbl": (40, [0, 8, 16, 24, 32]),
    "IVmFiovGuestMmioMappingsVtbl": (40, [0, 8, 16, 24, 32]),
}
INTEGERS = {"int32_t": "i32", "uint8_t": "u8", "uint16_t": "u16", "uint32_t": "u32", "uint64_t": "u64"}
CALLBACKS = re.findall(r"^typedef \w+ \(\*(\w+)\)\(", CDEF, re.MULTILINE)


def declared() -> dict[str, list[str]]:
    """Every function of ``_cdef.h``: what it returns and takes."""
    integers = "".join(f"typedef int {name};" for name in (*INTEGERS, "intptr_t"))
    tree = c_parser.CParser().parse(integers + re.sub(r"/\*.*?\*/", "", CDEF, flags=re.DOTALL))
    found = {}
    for one in tree.ext:
        if isinstance(one, c_ast.Decl) and isinstance(one.type, c_ast.FuncDecl):
            parameters = [part for part in one.type.args.params if getattr(part, "name", None)]
            found[one.name] = [_word_of(part) for part in (one.type, *parameters)]
    return found


def _word_of(part: object) -> str:
    return word(ffi().typeof(c_generator.CGenerator().visit(_nameless(part.type))))


def _nameless(node: object) -> object:
    at = node
    while not isinstance(at, c_ast.TypeDecl):
        at = at.type
    at.declname = None
    return node


def word(kind: object) -> str:
    """The word for a type as cffi has it."""
    match kind.kind:
        case "void":
            return "void"
        case "enum":
            return "i32"
        case "primitive":
            return INTEGERS[kind.cname]
        case "pointer":
            return word(kind.item) + "*"
        case "function":
            return "function"
    return kind.cname


FUNCTIONS = declared()


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - NOT_PUBLIC))
def test_a_function_is_what_microsoft_says(name: str) -> None:
    theirs = next(found for place in PLACES if (found := metadata.function(place, name)))
    assert len(FUNCTIONS[name]) == len(theirs)
    for ours, expected in zip(FUNCTIONS[name], theirs, strict=True):
        assert agrees(ours, expected), f"{ours} where there is {expected}"


def test_every_public_function_of_vmdevicehost_is_declared() -> None:
    public = metadata.functions_of("System.Hypervisor", "vmdevicehost.dll")
    assert len(public) == 13
    assert public <= set(FUNCTIONS)
    assert not NOT_PUBLIC & public


def agrees(ours: str, theirs: str) -> bool:
    """The same word; or a pointer to what we have no word for."""
    if ours == "function":
        return theirs in CDEF
    return ours == theirs or (ours.endswith("void*") and theirs.endswith("*") and ours.count("*") <= theirs.count("*"))


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_function_pointer_is_what_microsoft_says(name: str) -> None:
    theirs = next(found for place in PLACES if (found := metadata.function(place, name)))
    kind = ffi().typeof(name)
    ours = [word(kind.result), *map(word, kind.args)]
    assert len(ours) == len(theirs)
    for mine, expected in zip(ours, theirs, strict=True):
        assert agrees(mine, expected), f"{mine} where there is {expected}"


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_has_the_members_that_microsoft_says(name: str) -> None:
    theirs = metadata.structure("System.Hypervisor", name)
    ours = {member: field.type for member, field in ffi().typeof(name).fields}
    assert list(ours) == list(theirs)
    for member, kind in ours.items():
        if kind.kind == "function":
            assert kind is ffi().typeof(theirs[member]), member
        else:
            assert agrees(word(kind), theirs[member]), member


@pytest.mark.parametrize("name", ENUMERATIONS)
def test_an_enumeration_has_the_values_that_microsoft_says(name: str) -> None:
    ours = {constant: value for value, constant in ffi().typeof(name).elements.items()}
    assert ours == metadata.constants("System.Hypervisor", name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_structure_lies_in_memory_as_on_windows(name: str) -> None:
    size, offsets = LAYOUTS[name]
    kind = ffi().typeof(name)
    assert (ffi().sizeof(kind), [field.offset for _, field in kind.fields]) == (size, offsets)


@pytest.mark.parametrize("compiler", ["cc", "x86_64-w64-mingw32-gcc"])
def test_a_compiler_lays_it_out_the_same(compiler: str, tmp_path: Path) -> None:
    found = shutil.which(compiler)
    if found is None:
        pytest.skip(f"there is no {compiler} on this machine")
    lines = ["#include <stdint.h>", "#include <stddef.h>", CDEF]
    for name, (size, offsets) in LAYOUTS.items():
        lines.append(f'_Static_assert(sizeof({name}) == {size}, "{name}");')
        members = [member for member, _ in ffi().typeof(name).fields]
        for member, offset in zip(members, offsets, strict=True):
            lines.append(f'_Static_assert(offsetof({name}, {member}) == {offset}, "{name}.{member}");')
    source = tmp_path / "layout.c"
    source.write_text("\n".join(lines))
    done = subprocess.run((found, "-std=c11", "-fsyntax-only", source), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
