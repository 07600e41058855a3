"""Reading and writing: positions, appending, vectors, maps, and what one descriptor sees of another."""

import mmap
import os

from attempts import KINDS, in_child, look, make, opened, shown, tried, write
from calls import sync_file_range
from cases import case

ACCESS = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR, "a": os.O_RDWR | os.O_APPEND}
PAGE = 4096


def content(name="x"):
    with open(name, "rb") as file:
        return shown(file.read())


@case(
    access=ACCESS, call=("read", "write", "pread", "pwrite", "readv", "writev", "preadv", "pwritev", "read0", "write0")
)
def called(access, call):
    write("x", b"0123456789")
    with opened("x", access) as descriptor:
        calls = {
            "read": lambda: os.read(descriptor, 4),
            "write": lambda: os.write(descriptor, b"abcd"),
            "pread": lambda: os.pread(descriptor, 4, 8),
            "pwrite": lambda: os.pwrite(descriptor, b"abcd", 8),
            "readv": lambda: os.readv(descriptor, [bytearray(3), bytearray(3)]),
            "writev": lambda: os.writev(descriptor, [b"ab", b"", b"cd"]),
            "preadv": lambda: os.preadv(descriptor, [bytearray(3), bytearray(30)], 5),
            "pwritev": lambda: os.pwritev(descriptor, [b"ab", b"cd"], 20),
            "read0": lambda: os.read(descriptor, 0),
            "write0": lambda: os.write(descriptor, b""),
        }
        return tried(calls[call]), os.lseek(descriptor, 0, os.SEEK_CUR), content()


@case(offset=(-1, 0, 9, 10, 11, PAGE, 1 << 40, (1 << 63) - 1, (1 << 63) - 5), call=("pread", "pwrite"))
def at(offset, call):
    write("x", b"0123456789")
    with opened("x") as descriptor:
        told = (
            tried(os.pread, descriptor, 4, offset) if call == "pread" else tried(os.pwrite, descriptor, b"abcd", offset)
        )
        return told, look()


@case(kind=("dir", "fifo"), call=("read", "write", "pread", "lseek"))
def of_kind(kind, call):
    make(kind)
    flags = os.O_RDONLY if kind == "dir" else os.O_RDWR | os.O_NONBLOCK
    with opened("x", flags) as descriptor:
        calls = {
            "read": lambda: os.read(descriptor, 4),
            "write": lambda: os.write(descriptor, b"abcd"),
            "pread": lambda: os.pread(descriptor, 4, 0),
            "lseek": lambda: os.lseek(descriptor, 0, os.SEEK_SET),
        }
        return tried(calls[call])


@case(first=(os.O_APPEND, 0), second=(os.O_APPEND, 0))
def two_writers(first, second):
    write("x", b"begin")
    with opened("x", os.O_RDWR | first) as one, opened("x", os.O_RDWR | second) as two:
        for number in range(5):
            os.write(one, b"one%d" % number)
            os.write(two, b"TWO%d" % number)
        return content(), [os.lseek(each, 0, os.SEEK_CUR) for each in (one, two)]


@case(count=(1, 20))
def two_processes_append(count):
    write("x", b"")

    def child():
        with opened("x", os.O_WRONLY | os.O_APPEND) as descriptor:
            return [os.write(descriptor, b"child\n") for _ in range(count)]

    with opened("x", os.O_WRONLY | os.O_APPEND) as descriptor:
        os.write(descriptor, b"before\n")
        told = in_child(child)
        os.write(descriptor, b"after\n")
    return told, content()


@case()
def appending_after_a_seek_and_at_a_place():
    write("x", b"0123456789")
    with opened("x", os.O_RDWR | os.O_APPEND) as descriptor:
        os.lseek(descriptor, 2, os.SEEK_SET)
        os.write(descriptor, b"ab")
        where = os.lseek(descriptor, 0, os.SEEK_CUR)
        return where, os.pwrite(descriptor, b"cd", 1), content()


@case()
def a_position_is_shared():
    write("x", b"0123456789")
    with opened("x") as descriptor:
        copy = os.dup(descriptor)
        os.read(descriptor, 3)
        told = os.read(copy, 3), os.lseek(descriptor, 0, os.SEEK_CUR)
        os.close(copy)
        return told, in_child(lambda: os.lseek(descriptor, 1, os.SEEK_SET)), os.read(descriptor, 2)


@case(size=(1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 100_000, 1_500_000), step=(500, PAGE, 70_000))
def written_and_read(size, step):
    data = bytes(number % 251 for number in range(1000)) * (size // 1000 + 1)
    data = data[:size]
    with opened("x", os.O_RDWR | os.O_CREAT) as descriptor:
        step = max(step, size // 100)
        for offset in range(0, size, step):
            os.write(descriptor, data[offset : offset + step])
        return look(), os.pread(descriptor, size + 10, 0) == data, shown(os.pread(descriptor, 50, size // 2))


@case(offset=(1, PAGE, 100_000))
def behind_the_end(offset):
    write("x", b"begin")
    with opened("x") as descriptor:
        os.pwrite(descriptor, b"end", 5 + offset)
        return look(), content()


@case(flags={"shared": mmap.MAP_SHARED, "private": mmap.MAP_PRIVATE}, access=ACCESS, writing=(False, True))
def mapped(flags, access, writing):
    write("x", b"0123456789" * 1000)
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writing else 0)
    with opened("x", access) as descriptor:

        def through_memory():
            with mmap.mmap(descriptor, 10000, flags, protection) as memory:
                if writing:
                    memory[4090:4100] = b"ABCDEFGHIJ"
                    memory.flush()
                return memory[4085:4105]

        return tried(through_memory), content(), look()


@case()
def mapped_and_written():
    """What is written shows in the map, and what is mapped shows to a reader."""
    write("x", b"0123456789" * 1000)
    with opened("x") as descriptor, mmap.mmap(descriptor, 10000) as memory:
        os.pwrite(descriptor, b"written", 5000)
        seen = memory[4998:5010]
        memory[0:6] = b"mapped"
        return seen, os.pread(descriptor, 8, 0), content()


@case()
def mapped_and_closed():
    write("x", b"0123456789")
    with opened("x") as descriptor:
        memory = mmap.mmap(descriptor, 10)
    os.unlink("x")
    memory[0:3] = b"abc"
    told = memory[:]
    memory.close()
    return told


@case()
def mapped_by_two_processes():
    write("x", b"0123456789")
    with opened("x") as descriptor, mmap.mmap(descriptor, 10) as memory:

        def child():
            with opened("x") as mine, mmap.mmap(mine, 10) as other:
                other[0:5] = b"child"

        in_child(child)
        return memory[:], content()


@case(kind=KINDS)
def mapped_kind(kind):
    make(kind)
    if kind in ("socket", "dangling"):
        return "not asked"
    with opened("x", os.O_RDONLY | os.O_NONBLOCK) as descriptor:
        return tried(lambda: mmap.mmap(descriptor, 7, mmap.MAP_SHARED, mmap.PROT_READ) and "mapped")


@case(size=(512, PAGE, 2 * PAGE), offset=(0, PAGE, 2 * PAGE))
def direct(size, offset):
    """O_DIRECT with aligned memory, places and sizes."""
    write("x", b"0123456789" * 1000)
    with opened("x", os.O_RDWR | os.O_DIRECT) as descriptor, mmap.mmap(-1, size) as memory:
        read = tried(os.preadv, descriptor, [memory], offset)
        memory[:] = b"D" * size
        return read, tried(os.pwritev, descriptor, [memory], offset), content()


@case(size=(100, PAGE), offset=(1, 10))
def direct_out_of_line(size, offset):
    write("x", b"0123456789" * 1000)
    with opened("x", os.O_RDWR | os.O_DIRECT) as descriptor:
        return tried(os.pread, descriptor, size, offset), tried(os.pwrite, descriptor, b"D" * size, offset)


@case(flags=(0, 1, 2, 7, 8))
def synced_in_part(flags):
    write("x", b"0123456789")
    with opened("x") as descriptor:
        os.write(descriptor, b"new")
        return tried(sync_file_range, descriptor, 0, 5, flags)


@case(source=("x", "y"), count=(0, 5, 100))
def sent(source, count):
    write("x", b"0123456789")
    write("y", b"")
    with opened(source, os.O_RDONLY) as reading, opened("z", os.O_RDWR | os.O_CREAT) as writing:
        return tried(os.sendfile, writing, reading, 2, count), content("z")


@case(count=(3, 100))
def spliced(count):
    write("x", b"0123456789")
    reading, writing = os.pipe()
    with opened("x", os.O_RDONLY) as source, opened("y", os.O_WRONLY | os.O_CREAT) as target:
        told = tried(os.splice, source, writing, count), tried(os.splice, reading, target, count)
    os.close(reading)
    os.close(writing)
    return told, content("y")
