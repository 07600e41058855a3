"""Builds the C of this folder, by cffi in API mode. Runs at install, before anything of hdvkit can be imported.

``python -m hdvkit.native.build`` builds it in place, for a checkout whose C was changed.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import cffi  # type: ignore[import-untyped]  # ships no annotations

HERE = Path(__file__).parent
MODULE = "_native"
SOURCES = ("ring.c", "split.c", "packed.c", "chain.c")
LINUX_SOURCES = ("lane.c",)
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror=implicit-function-declaration")

# What Python sees of ring.h. "..." has the compiler fill in what Python need not know.
DECLARATIONS = """
typedef struct { uint64_t address; uint64_t size; uint8_t *base; bool writable; } hdv_region;
typedef struct { const hdv_region *regions; uint32_t count; uint32_t recent; } hdv_memory;
typedef struct { uint8_t *base; size_t size; } hdv_segment;
typedef struct { int code; uint64_t a; uint64_t b; } hdv_error;
typedef struct {
    uint16_t head; uint16_t slots;
    uint32_t readable; uint32_t writable;
    uint64_t readable_size; uint64_t writable_size;
    bool remote;
    hdv_segment segments[...]; uint32_t regions[...];
    ...;
} hdv_chain;
typedef struct { uint32_t in_flight; hdv_error error; ...; } hdv_ring;
#define HDV_MAX_DESCRIPTORS ...
void hdv_ring_init(hdv_ring *, uint8_t *, uint8_t *, uint8_t *, uint32_t, bool, bool, bool);
int hdv_ring_pop(hdv_ring *, hdv_memory *, hdv_chain *);
bool hdv_ring_arm(hdv_ring *);
void hdv_ring_disarm(hdv_ring *);
void hdv_ring_push(hdv_ring *, uint16_t, uint16_t, uint32_t);
bool hdv_ring_should_signal(hdv_ring *);
"""

LANE_DECLARATIONS = """
typedef struct hdv_lane hdv_lane;
typedef struct hdv_event {
    struct hdv_event *next;
    int kind;
    uint32_t queue; uint64_t life; uint64_t table;
    hdv_error error;
    uint16_t head; uint16_t slots;
    uint32_t readable; uint32_t writable;
    uint32_t *regions;
    hdv_segment segments[];
} hdv_event;
typedef struct { uint64_t chains, taken, given, interrupts, kicks, wakeups, declined; } hdv_lane_counters;
typedef struct { bool (*answer)(void *, const hdv_chain *, uint32_t *); void *context; } hdv_handler;
typedef struct { size_t (*kicks)(void *, const uint8_t *, size_t); void *context; } hdv_listener;
#define HDV_LANE_QUEUES ...
#define HDV_EVENT_CHAIN ...
#define HDV_EVENT_BROKEN ...
#define HDV_EVENT_SIGNAL ...
#define HDV_EVENT_SOCKET ...
hdv_lane *hdv_lane_new(int, uint32_t);
void hdv_lane_free(hdv_lane *);
void hdv_lane_run(hdv_lane *);
void hdv_lane_stop(hdv_lane *);
void hdv_lane_set_memory(hdv_lane *, uint64_t, const hdv_region *, uint32_t);
void hdv_lane_set_handler(hdv_lane *, hdv_handler);
void hdv_lane_attach(hdv_lane *, uint32_t, hdv_ring *, uint64_t, int, int);
void hdv_lane_detach(hdv_lane *, uint32_t);
void hdv_lane_set_call(hdv_lane *, uint32_t, int);
void hdv_lane_listen(hdv_lane *, int, hdv_listener);
uint64_t hdv_lane_ticket(hdv_lane *);
uint64_t hdv_lane_passed(hdv_lane *);
void hdv_lane_kick(hdv_lane *);
hdv_event *hdv_lane_take(hdv_lane *);
void hdv_event_free(hdv_event *);
bool hdv_lane_complete(hdv_lane *, uint32_t, uint64_t, uint16_t, uint16_t, uint32_t);
hdv_lane_counters hdv_lane_read(hdv_lane *, uint32_t);
"""


def build() -> Path:
    """Compile, and put the module beside this file.

    Raises:
        Exception: There is no compiler, or it fails; distutils has no common class for that.
    """
    with tempfile.TemporaryDirectory() as folder:
        built = Path(builder().compile(tmpdir=folder))
        fresh = Path(shutil.copy2(built, HERE / f"{built.name}.new"))
    return fresh.replace(HERE / built.name)  # a process that has the old one keeps it


def builder() -> cffi.FFI:
    """What makes the module."""
    ffi = cffi.FFI()
    has_lane = sys.platform == "linux"
    ffi.cdef(DECLARATIONS + (LANE_DECLARATIONS if has_lane else ""))
    ffi.set_source(
        MODULE,
        '#include "lane.h"' if has_lane else '#include "ring.h"',
        sources=[str(HERE / source) for source in SOURCES + (LINUX_SOURCES if has_lane else ())],
        include_dirs=[str(HERE)],
        extra_compile_args=list(FLAGS) if sys.platform != "win32" else [],
        libraries=["pthread"] if has_lane else [],
    )
    return ffi


if __name__ == "__main__":
    print(build())  # noqa: T201 - a command
