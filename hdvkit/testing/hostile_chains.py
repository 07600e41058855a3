"""Hostile guests whose chains break a rule of either ring kind: R1 to R4."""

from hdvkit.testing.driver_rings import F_INDIRECT, F_NEXT, F_WRITE
from hdvkit.testing.hostile_guest import (
    ABOVE_RAM,
    ADDRESS_SPACE,
    PACKED,
    SPLIT,
    Answer,
    Gallery,
)
from hdvkit.testing.hostile_rings import Link, RawRing, chain_guest, linked

MAX_DESCRIPTORS = 1026
"""What a device should at least cap a chain at: 4 MiB in pages, with two headers."""

gallery = Gallery()


def _own_bar(ring: RawRing) -> int:
    return ring.intruder.driver.bars[0][0]


# R1: chains that leave their table or never end

gallery.hang(
    chain_guest(
        "R1-next-outside-table",
        "The next descriptor lies just behind the table.",
        lambda ring: [Link(ring.buffer, 16, F_NEXT, ring.size)],
        reason="outside a table",
        rings=SPLIT,
    ),
    chain_guest(
        "R1-next-far-outside-table",
        "The next descriptor is 65535.",
        lambda ring: [Link(ring.buffer, 16, F_NEXT, 0xFFFF)],
        reason="outside a table",
        rings=SPLIT,
    ),
    chain_guest(
        "R1-next-to-self",
        "A descriptor is its own next.",
        lambda ring: [Link(ring.buffer, 16, F_NEXT, 0)],
        reason="does not end",
        rings=SPLIT,
    ),
    chain_guest(
        "R1-cycle",
        "Two descriptors are each other's next.",
        lambda ring: [Link(ring.buffer, 16, F_NEXT, 1), Link(ring.buffer, 16, F_NEXT, 0)],
        reason="does not end",
        rings=SPLIT,
    ),
    chain_guest(
        "R1-cycle-in-indirect-table",
        "Two descriptors of an indirect table are each other's next.",
        lambda ring: [ring.table([Link(ring.buffer, 16, F_NEXT, 1), Link(ring.buffer, 16, F_NEXT, 0)])],
        reason="does not end",
        rings=SPLIT,
    ),
    chain_guest(
        "R1-next-outside-indirect-table",
        "The next descriptor lies behind its indirect table.",
        lambda ring: [ring.table([Link(ring.buffer, 16, F_NEXT, 2), Link(ring.buffer, 16)])],
        reason="outside an indirect table",
        rings=SPLIT,
    ),
    chain_guest(
        "R1-chain-without-end",
        "Every descriptor of the ring is available and has a next.",
        lambda ring: [Link(ring.buffer, 16, F_NEXT) for _ in range(ring.size)],
        reason="does not end|outside a table",
    ),
    chain_guest(
        "R1-next-not-available",
        "The next descriptor was not made available.",
        lambda ring: [Link(ring.buffer, 16, F_NEXT)],
        reason="not available",
        rings=PACKED,
    ),
)

# R2: indirect tables

gallery.hang(
    chain_guest(
        "R2-table-of-odd-length",
        "An indirect table of 17 bytes.",
        lambda ring: [ring.table(ring.good())._replace(length=17)],
        reason="multiple of 16",
    ),
    chain_guest(
        "R2-table-of-length-0",
        "An indirect table of no bytes.",
        lambda ring: [ring.table(ring.good())._replace(length=0)],
        reason="table of 0 bytes",
    ),
    chain_guest(
        "R2-table-above-ram",
        "An indirect table where no RAM is.",
        lambda ring: [Link(ABOVE_RAM, 32, F_INDIRECT)],
        reason="RAM",
    ),
    chain_guest(
        "R2-table-across-end-of-ram",
        "An indirect table that begins in RAM and ends outside.",
        lambda ring: [Link(ring.edge(), 64, F_INDIRECT)],
    ),
    chain_guest(
        "R2-table-wraps",
        "An indirect table that wraps around the address space.",
        lambda ring: [Link(ADDRESS_SPACE - 16, 32, F_INDIRECT)],
    ),
    chain_guest(
        "R2-table-in-own-bar",
        "An indirect table in the device's own registers.",
        lambda ring: [Link(_own_bar(ring), 32, F_INDIRECT)],
    ),
    chain_guest(
        "R2-nested-table",
        "An indirect table that refers to another.",
        lambda ring: [ring.table([ring.table(ring.good())])],
        reason="inside an indirect table",
    ),
    chain_guest(
        "R2-table-refers-to-itself",
        "A descriptor of an indirect table refers to that table.",
        lambda ring: [ring.table([Link(ring.buffer, 16, F_INDIRECT)])],
        reason="inside an indirect table",
    ),
    chain_guest(
        "R2-indirect-and-next",
        "A descriptor is both indirect and linked to a next one.",
        lambda ring: linked(ring.table(ring.good()), Link(ring.buffer, 16, F_WRITE)),
        reason="both indirect and linked",
    ),
    chain_guest(
        "R2-without-the-feature",
        "An indirect descriptor, though the driver did not accept INDIRECT_DESC.",
        lambda ring: [ring.table(ring.good())],
        reason="not negotiated",
        indirect=False,
    ),
    chain_guest(
        "R2-indirect-inside-a-chain",
        "An indirect descriptor behind a direct one, which packed rings do not know.",
        lambda ring: linked(Link(ring.buffer, 16), ring.table([Link(ring.buffer, 64, F_WRITE)])),
        reason="inside a chain",
        rings=PACKED,
    ),
    chain_guest(
        "R2-indirect-behind-direct",
        "An indirect descriptor behind a direct one, which split rings allow.",
        lambda ring: linked(Link(ring.buffer, 16), ring.table([Link(ring.buffer, 64, F_WRITE)])),
        answer=Answer.SERVED,
        rings=SPLIT,
    ),
    chain_guest(
        "R2-writable-table",
        "The write flag on a descriptor that refers to a table, which devices must ignore.",
        lambda ring: [ring.table(ring.good())._replace(flags=F_INDIRECT | F_WRITE)],
        answer=Answer.SERVED,
    ),
)

# R3: chains of more descriptors than anybody needs

gallery.hang(
    chain_guest(
        "R3-table-of-4-gib",
        "An indirect table of 2^28 - 1 descriptors.",
        lambda ring: [Link(ring.buffer, 0xFFFFFFF0, F_INDIRECT)],
        reason=f"at most {MAX_DESCRIPTORS}",
    ),
    chain_guest(
        "R3-table-above-the-cap",
        "A well-formed chain with one descriptor more than the cap.",
        lambda ring: [ring.table_of(MAX_DESCRIPTORS + 1)],
        reason=f"at most {MAX_DESCRIPTORS}",
    ),
    chain_guest(
        "R3-chain-above-the-cap",
        "A direct descriptor and a table at the cap: one too many together.",
        lambda ring: linked(Link(ring.buffer, 16), ring.table_of(MAX_DESCRIPTORS)),
        reason=f"more than {MAX_DESCRIPTORS}",
        rings=SPLIT,
    ),
)

# R4: order

gallery.hang(
    chain_guest(
        "R4-readable-behind-writable",
        "A buffer to read behind one to write.",
        lambda ring: linked(Link(ring.buffer, 64, F_WRITE), Link(ring.buffer, 16)),
        reason="behind a writable",
    ),
    chain_guest(
        "R4-readable-behind-writable-in-table",
        "A buffer to read behind one to write, in an indirect table.",
        lambda ring: [ring.table(linked(Link(ring.buffer, 64, F_WRITE), Link(ring.buffer, 16)))],
        reason="behind a writable",
    ),
)
