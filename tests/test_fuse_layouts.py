"""Every row of the layout table against the header the C compiler sees, and sizes written by hand."""

import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hdvkit_virtiofs.fuse import layouts, spec
from hdvkit_virtiofs.fuse.layouts import Layout

HEADER = Path("/usr/include/linux/fuse.h")
COMPILER = shutil.which("cc")

NEWER_FIELDS = {  # fields of older structures, with the minor version that named them
    "fuse_attr.flags": 32,
    "fuse_open_in.open_flags": 33,
    "fuse_create_in.open_flags": 33,
    "fuse_setxattr_in.setxattr_flags": 33,
    "fuse_setxattr_in.padding": 33,
    "fuse_init_in.flags2": 36,
    "fuse_init_in.unused": 36,
    "fuse_init_out.max_pages": 28,
    "fuse_init_out.map_alignment": 31,
    "fuse_init_out.flags2": 36,
    "fuse_in_header.total_extlen": 38,
    "fuse_open_out.backing_id": 40,
    "fuse_init_out.max_stack_depth": 40,
    "fuse_init_out.request_timeout": 43,
    "fuse_init_out.unused": 43,
}
GROWN = {"fuse_setxattr_in": 33, "fuse_init_in": 36}

SIZES = {
    layouts.IN_HEADER: 40,
    layouts.OUT_HEADER: 16,
    layouts.ATTR: 88,
    layouts.ENTRY_OUT: 128,
    layouts.ATTR_OUT: 104,
    layouts.SETATTR_IN: 88,
    layouts.INIT_IN: 64,
    layouts.INIT_IN_16: 16,
    layouts.INIT_IN_8: 8,
    layouts.INIT_OUT: 64,
    layouts.SETXATTR_IN: 16,
    layouts.SETXATTR_IN_8: 8,
    layouts.READ_IN: 40,
    layouts.WRITE_IN: 40,
    layouts.OPEN_OUT: 16,
    layouts.STATFS_OUT: 80,
    layouts.DIRENT: 24,
    layouts.DIRENTPLUS: 152,
    layouts.SX_TIME: 16,
    layouts.STATX: 256,
    layouts.STATX_IN: 24,
    layouts.STATX_OUT: 288,
    layouts.EXT_HEADER: 8,
    layouts.SECCTX: 8,
    layouts.SUPP_GROUPS: 4,
    layouts.LK_IN: 48,
    layouts.IOCTL_IN: 32,
    layouts.COPY_FILE_RANGE_IN: 56,
    layouts.COPY_FILE_RANGE_OUT: 8,
    layouts.EMPTY: 0,
}


def rows() -> Iterator[Layout]:
    for value in vars(layouts).values():
        if isinstance(value, Layout) and value is not layouts.EMPTY:
            yield value


def header_minor() -> int:
    found = re.search(r"FUSE_KERNEL_MINOR_VERSION\s+(\d+)", HEADER.read_text())
    assert found
    return int(found[1])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What the compiler says: ``struct.field`` to offset, ``struct`` to size."""
    if not HEADER.exists():
        pytest.skip("no linux/fuse.h on this machine")
    if COMPILER is None:
        pytest.skip("no C compiler on this machine")
    minor, text, asked = header_minor(), HEADER.read_text(), {}
    for row in rows():
        # Linux 6.1 calls itself 7.38 and has only some of what came with it.
        if row.since > minor or (row.since == minor and f"struct {row.name} {{" not in text):
            continue
        asked[row.name] = f"sizeof(struct {row.name})"
        for field in row.offsets:
            # A structure inside another hides its own new fields from the prefix, not from the suffix.
            inner = [name for name in NEWER_FIELDS if f"{row.name}.{field}".endswith(name.split("_", 1)[1])]
            if all(NEWER_FIELDS[name] <= minor for name in inner):
                asked[f"{row.name}.{field}"] = f"offsetof(struct {row.name}, {field})"
    # fuse_statx is struct statx, which is in headers of any age, under other names.
    for field in layouts.STATX.offsets:
        if not field.removeprefix("__").startswith("spare") and "reserved" not in field:
            asked[f"statx.{field}"] = f"offsetof(struct statx, stx_{field})"
    asked["statx"] = "sizeof(struct statx)"
    folder = tmp_path_factory.mktemp("layouts")
    lines = "".join(f'printf("{key} %zu\\n", {value});\n' for key, value in asked.items())
    source = folder / "places.c"
    headers = "".join(f"#include <{name}>\n" for name in ("stdio.h", "stddef.h", "linux/fuse.h", "linux/stat.h"))
    source.write_text(f"{headers}int main(void) {{\n{lines}}}\n")
    subprocess.run([COMPILER, "-o", folder / "places", source], check=True)
    printed = subprocess.run([folder / "places"], check=True, capture_output=True, text=True).stdout
    return {key: int(value) for key, value in (line.split() for line in printed.splitlines())}


def test_every_field_is_where_the_compiler_puts_it(places: dict[str, int]) -> None:
    compared = 0
    for row in rows():
        for field, offset in row.offsets.items():
            key = f"{row.name}.{field}"
            if key in places:
                assert offset == places[key], key
                compared += 1
    assert compared > 250


def test_statx_is_the_structure_of_the_system_call(places: dict[str, int]) -> None:
    compared = {field: offset for field, offset in layouts.STATX.offsets.items() if f"statx.{field}" in places}
    assert compared == {field: places[f"statx.{field}"] for field in compared}
    assert len(compared) == 23
    assert layouts.STATX.size == places["statx"]


def test_every_structure_is_as_long_as_the_compiler_makes_it(places: dict[str, int]) -> None:
    shorter = (layouts.INIT_IN_16, layouts.INIT_IN_8, layouts.SETXATTR_IN_8)
    minor = header_minor()
    for row in rows():
        if row.name in places and row not in shorter and GROWN.get(row.name, 0) <= minor:
            assert row.size == places[row.name], row.name


@pytest.mark.skipif(not HEADER.exists(), reason="no linux/fuse.h on this machine")
def test_opcodes_and_flags_have_the_numbers_of_the_header() -> None:
    text = HEADER.read_text()
    opcodes = dict(re.findall(r"^\s*FUSE_([A-Z0-9_]+)\s*=\s*(\d+),", text, re.MULTILINE))
    for name, value in spec.Opcode.__members__.items():
        if name in opcodes:
            assert value == int(opcodes[name]), name
    bits = dict(re.findall(r"#define\s+(F[A-Z0-9_]+)\s+\(1(?:ULL)? << (\d+)\)", text))
    known = {f"FUSE_{name}": int(flag) for name, flag in spec.InitFlag.__members__.items()}
    known |= {f"FOPEN_{name}": int(flag) for name, flag in spec.OpenReply.__members__.items()}
    known |= {name: value for name, value in vars(spec).items() if name.startswith("FATTR_")}
    assert len(known.keys() & bits.keys()) > 50
    for name in known.keys() & bits.keys():
        assert known[name] == 1 << int(bits[name]), name


def test_golden_sizes() -> None:
    assert {row.name: row.size for row in SIZES} == {row.name: size for row, size in SIZES.items()}
    for row, size in SIZES.items():
        assert row.size == size, row


def test_numbers_newer_than_most_headers() -> None:
    assert (spec.Opcode.STATX, spec.Opcode.COPY_FILE_RANGE_64, spec.Opcode.CUSE_INIT) == (52, 53, 4096)
    newer = (
        spec.InitFlag.CREATE_SUPP_GROUP,
        spec.InitFlag.HAS_EXPIRE_ONLY,
        spec.InitFlag.DIRECT_IO_ALLOW_MMAP,
        spec.InitFlag.PASSTHROUGH,
        spec.InitFlag.NO_EXPORT_SUPPORT,
        spec.InitFlag.HAS_RESEND,
        spec.InitFlag.ALLOW_IDMAP,
        spec.InitFlag.OVER_IO_URING,
        spec.InitFlag.REQUEST_TIMEOUT,
    )
    assert [flag.bit_length() - 1 for flag in newer] == list(range(34, 43))


def test_padding_is_explicit_and_written_as_zeros() -> None:
    row = Layout("sample", "short:H padding:2x long:I")
    assert row.offsets == {"short": 0, "padding": 2, "long": 4}
    assert row.pack(1, 2) == struct.pack("<HHI", 1, 0, 2)
    assert row.unpack(b"\x01\0\xff\xff\x02\0\0\0") == (1, 2)
    assert repr(row) == "<Layout sample, 8 bytes>"


def test_a_structure_inside_another_has_dotted_fields() -> None:
    assert layouts.ENTRY_OUT.offsets["attr.ino"] == 40
    assert layouts.DIRENTPLUS.offsets["entry_out.attr.mode"] == 100
    assert layouts.DIRENTPLUS.offsets["dirent.ino"] == 128
