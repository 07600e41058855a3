/* "Packed Virtqueues": one descriptor ring that both sides write, and an event suppression structure for each side. */
#include "ring_internal.h"

#define AVAIL (1u << 7)
#define USED (1u << 15)
#define WRAP (1u << 15)
#define ENABLE 0u
#define DISABLE 1u
#define DESCRIPTOR 2u
#define FLAGS 2 /* where the flags of an event suppression structure are; in front of them place and wrap counter */

static bool available(const hdv_ring *ring, uint32_t slot, bool wrap) {
    uint16_t flags = hdv_load16_acquire(ring->descriptors + 16 * (size_t)slot + 14); /* before the rest of it */
    return !!(flags & AVAIL) == wrap && !!(flags & USED) != wrap;
}

/* Tables of a packed ring are read in order; of their flags only WRITE means something. */
static bool gather_table(hdv_gather *gather, uint32_t count) {
    for (uint32_t index = 0; index < count; index++) {
        const hdv_descriptor *entry = &gather->ring->table[index];
        uint16_t flags = entry->fourth;
        if (flags & HDV_DESC_INDIRECT)
            return hdv_refuse(gather, HDV_NESTED_TABLE, 0, 0);
        if (!hdv_gather_buffer(gather, entry->address, entry->length, flags & HDV_DESC_WRITE))
            return false;
    }
    return true;
}

static bool walk(hdv_gather *gather) {
    hdv_ring *ring = gather->ring;
    uint32_t slot = ring->next_slot;
    bool wrap = ring->next_wrap;
    /* What the device holds is not free: a chain cannot be longer than what is left of the ring. */
    uint32_t most = ring->size - ring->held;
    for (uint32_t slots = 1; slots <= most; slots++) {
        if (slots > 1 && !available(ring, slot, wrap))
            return hdv_refuse(gather, HDV_RUNS_ON, slot, 0);
        hdv_descriptor entry = hdv_load_descriptor(ring->descriptors + 16 * (size_t)slot);
        uint16_t flags = entry.fourth;
        gather->chain->head = entry.third;
        gather->chain->slots = (uint16_t)slots;
        if (flags & HDV_DESC_INDIRECT) {
            if (slots > 1)
                return hdv_refuse(gather, HDV_INDIRECT_INSIDE, 0, 0);
            return hdv_gather_check_indirect(gather, flags) &&
                   hdv_gather_copy_table(gather, entry.address, entry.length) &&
                   gather_table(gather, entry.length / 16);
        }
        if (!hdv_gather_buffer(gather, entry.address, entry.length, flags & HDV_DESC_WRITE))
            return false;
        if (!(flags & HDV_DESC_NEXT))
            return true;
        if (++slot == ring->size) {
            slot = 0;
            wrap = !wrap;
        }
    }
    return hdv_refuse(gather, HDV_ENDLESS_PACKED, most, 0);
}

hdv_popped hdv_packed_pop(hdv_gather *gather) {
    hdv_ring *ring = gather->ring;
    if (!available(ring, ring->next_slot, ring->next_wrap))
        return HDV_NONE;
    if (!walk(gather) || !hdv_gather_check_head(gather, gather->chain->head))
        return HDV_BROKEN;
    ring->held += gather->chain->slots;
    ring->next_slot += gather->chain->slots;
    if (ring->next_slot >= ring->size) {
        ring->next_slot -= ring->size;
        ring->next_wrap = !ring->next_wrap;
    }
    return HDV_CHAIN;
}

bool hdv_packed_waiting(const hdv_ring *ring) {
    return available(ring, ring->next_slot, ring->next_wrap);
}

bool hdv_packed_arm(hdv_ring *ring) {
    if (ring->event_idx) {
        hdv_store16(ring->device, (uint16_t)(ring->next_slot | (ring->next_wrap ? WRAP : 0)));
        hdv_store16_release(ring->device + FLAGS, DESCRIPTOR); /* the place is out before the flags that refer to it */
    } else {
        hdv_store16(ring->device + FLAGS, ENABLE);
    }
    hdv_fence(); /* the request is out before the ring is read, or both sides may miss the other's store */
    return available(ring, ring->next_slot, ring->next_wrap);
}

void hdv_packed_disarm(hdv_ring *ring) {
    hdv_store16(ring->device + FLAGS, DISABLE);
}

void hdv_packed_push(hdv_ring *ring, uint16_t head, uint16_t slots, uint32_t written) {
    uint8_t *entry = ring->descriptors + 16 * (size_t)ring->used_slot;
    uint16_t flags = ring->used_wrap ? AVAIL | USED : 0;
    hdv_store32(entry + 8, written);
    hdv_store16(entry + 12, head);
    hdv_store16_release(entry + 14, (uint16_t)(flags | (written ? HDV_DESC_WRITE : 0))); /* they make the rest valid */
    ring->held -= slots;
    ring->unsignalled += slots;
    ring->used_slot += slots;
    if (ring->used_slot >= ring->size) {
        ring->used_slot -= ring->size;
        ring->used_wrap = !ring->used_wrap;
    }
}

/* Whether the last count slots include the one that the driver named. */
static bool passed(const hdv_ring *ring, uint16_t event, uint32_t count) {
    int64_t place = event & ~WRAP;
    if (!!(event & WRAP) != ring->used_wrap)
        place -= ring->size; /* it lies in the lap before */
    return (int64_t)ring->used_slot - (int64_t)count <= place && place < (int64_t)ring->used_slot;
}

bool hdv_packed_should_signal(hdv_ring *ring) {
    if (!ring->unsignalled)
        return false;
    hdv_fence(); /* the used descriptors are out before the driver's wish is read */
    uint32_t count = ring->unsignalled;
    ring->unsignalled = 0;
    uint16_t flags = hdv_load16_acquire(ring->driver + FLAGS) & 3u;
    if (flags == DESCRIPTOR && ring->event_idx)
        return passed(ring, hdv_load16(ring->driver), count);
    return flags != DISABLE; /* the value 3 is reserved: a lost interrupt hangs a guest, one too many does not */
}
