"""The ring without anything around it: no event loop, no device, no guest. Bytes in, chains out.

One request is put into a split virtqueue by hand, as a driver would; the device half takes it and answers.
"""
# ruff: noqa: T201 - an example prints what it sees

import struct

from hdvkit.memory import RegionMemory
from hdvkit.virtio import Feature, RingAddresses, SplitRing

SIZE = 8
TABLE, AVAILABLE, USED, REQUEST, ANSWER = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000
NEXT, WRITE = 1, 2


def main() -> None:
    """One chain, there and back."""
    ram = bytearray(0x6000)
    memory = RegionMemory()
    memory.map(0, memoryview(ram))
    ring = SplitRing(memory, RingAddresses(TABLE, AVAILABLE, USED), SIZE, Feature.VERSION_1)
    print("nothing there:  ", ring.pop())

    # The driver's side: two descriptors, one it has filled and one for the answer, then the available ring.
    ram[REQUEST : REQUEST + 5] = b"hello"
    struct.pack_into("<QIHH", ram, TABLE, REQUEST, 5, NEXT, 1)
    struct.pack_into("<QIHH", ram, TABLE + 16, ANSWER, 64, WRITE, 0)
    struct.pack_into("<HHH", ram, AVAILABLE, 0, 1, 0)  # flags, index, the head of the first chain

    # The device's side.
    chain = ring.pop()
    assert chain is not None
    print("a chain with:   ", chain.readable_size, "bytes to read,", chain.writable_size, "to write")
    with chain:
        chain.write(chain.read().upper())
    print("interrupt due:  ", ring.should_signal())

    # The driver's side again: the used ring says which chain came back, and how many bytes of it are new.
    _, index, head, written = struct.unpack_from("<HHII", ram, USED)
    print("the used ring:  ", f"index {index}, chain {head}, {written} bytes")
    print("the answer:     ", bytes(ram[ANSWER : ANSWER + written]))
    ring.close()
    print("leases left:    ", memory.leases)


if __name__ == "__main__":
    main()
