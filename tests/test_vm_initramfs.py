"""The archive writer, against a reader written from the kernel's "initramfs buffer format"."""

import gzip
import stat

from hdvkit_vm.initramfs import DIRECTORY, FILE, PROGRAM, TERMINAL, Entry, archive, base_image, extra_image


def read(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Path to mode, content and device number, in the order of the archive."""
    found: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    at = 0
    while True:
        head = data[at : at + 110]
        assert head[:6] == b"070701"
        numbers = [int(head[6 + 8 * place : 14 + 8 * place], 16) for place in range(13)]
        _, mode, user, group, _, _, size, _, _, major, minor, name_size, check = numbers
        assert (user, group, check) == (0, 0, 0)
        name = data[at + 110 : at + 110 + name_size]
        assert name[-1:] == b"\0"
        start = at + (110 + name_size + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            assert start == len(data)
            return found
        found[name[:-1].decode()] = mode, data[start : start + size], (major, minor)
        at = start + (size + 3) // 4 * 4


def test_files_directories_and_devices_come_back():
    entries = [
        Entry("dir", DIRECTORY),
        Entry("dir/file", FILE, b"12345"),
        Entry("run", PROGRAM, b""),
        Entry("console", TERMINAL, device=(5, 1)),
        Entry("grüße", FILE, b"\0" * 7),
    ]
    assert read(archive(entries)) == {
        "dir": (stat.S_IFDIR | 0o755, b"", (0, 0)),
        "dir/file": (stat.S_IFREG | 0o644, b"12345", (0, 0)),
        "run": (stat.S_IFREG | 0o755, b"", (0, 0)),
        "console": (stat.S_IFCHR | 0o600, b"", (5, 1)),
        "grüße": (stat.S_IFREG | 0o644, b"\0" * 7, (0, 0)),
    }


def test_every_length_of_name_and_data_is_padded():
    for size in range(9):
        entries = [Entry("n" * (size + 1), FILE, b"d" * size), Entry("last", FILE, b"end")]
        assert read(archive(entries))["last"][1] == b"end"


def test_missing_parents_are_made_and_come_first():
    paths = list(read(archive([Entry("/a/b/c", FILE), Entry("a/b/d", FILE), Entry("a", DIRECTORY)])))
    assert paths == ["a", "a/b", "a/b/c", "a/b/d"]


def test_the_base_image_boots_into_init_and_loads_modules_in_order():
    image = read(gzip.decompress(base_image(b"BUSYBOX", [("00-ring.ko", b"R"), ("01-pci.ko", b"P")])))
    assert image["bin/busybox"][1] == b"BUSYBOX"
    assert image["init"][1].startswith(b"#!/bin/busybox sh\n")
    assert {"agent", "abandon", "proc", "sys", "dev/console"} <= set(image)
    assert image["lib/modules/order"][1] == b"00-ring.ko\n01-pci.ko\n"
    assert image["lib/modules/01-pci.ko"][1] == b"P"


def test_the_same_parts_give_the_same_image():
    assert base_image(b"B", [("m.ko", b"")]) == base_image(b"B", [("m.ko", b"")])


def test_an_extra_image_holds_programs():
    image = read(gzip.decompress(extra_image({"/run-me.sh": b"#!/bin/sh\n"})))
    assert image == {"run-me.sh": (stat.S_IFREG | 0o755, b"#!/bin/sh\n", (0, 0))}
