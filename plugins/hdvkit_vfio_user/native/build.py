"""What is built of the C of this folder, as a table: ``hatch_build.py`` reads it at install, and builds."""

from pathlib import Path

HERE = Path(__file__).parent
MODULE = "_kicks"
HEADER = '#include "kicks.h"\n#define vu_kicks_at ((uintptr_t)vu_kicks_in_front)'
SOURCES = [HERE / "kicks.c"]
LIBRARIES = ()

DECLARATIONS = """
typedef struct { uint64_t offset; uint32_t region; uint32_t multiplier; uint32_t size; uint64_t queues; } vu_kicks;
size_t vu_kicks_in_front(void *, const uint8_t *, size_t);
static const uintptr_t vu_kicks_at;
"""
