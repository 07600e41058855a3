"""What is built of the C of this folder, as a table: ``hatch_build.py`` reads it at install, and builds."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
MODULE = "_native"
HAS_LANE = sys.platform == "linux"
HEADER = '#include "lane.h"' if HAS_LANE else '#include "ring.h"'
LANE = tuple(f"lane{part}.c" for part in ("", "_thread", "_helpers", "_events", "_waiting")) if HAS_LANE else ()
SOURCES = [HERE / name for name in ("ring.c", "split.c", "packed.c", "chain.c", *LANE)]
LIBRARIES = ("pthread",) if HAS_LANE else ()

# What Python sees of ring.h. "..." has the compiler fill in what Python need not know.
_OF_RINGS = """
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

_OF_LANES = """
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
typedef struct { uint64_t chains, taken, given, interrupts, kicks, wakeups, in_flight; } hdv_lane_counters;
typedef enum { HDV_DECLINED, HDV_ANSWERED, HDV_WAITS } hdv_outcome;
typedef struct { hdv_outcome (*answer)(void *, bool, const hdv_chain *, uint32_t *); void *context; } hdv_handler;
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

DECLARATIONS = _OF_RINGS + (_OF_LANES if HAS_LANE else "")
