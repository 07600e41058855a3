/* "Split Virtqueues": descriptor table, available ring, used ring. Indices run freely and are compared modulo 2**16. */
#include "ring_internal.h"

#define NO_INTERRUPT 1u
#define NO_NOTIFY 1u

static const uint8_t *avail_idx(const hdv_ring *ring) {
    return ring->driver + 2;
}

static const uint8_t *used_event(const hdv_ring *ring) {
    return ring->driver + 4 + 2 * (size_t)ring->size;
}

static uint8_t *avail_event(const hdv_ring *ring) {
    return ring->device + 4 + 8 * (size_t)ring->size;
}

static bool look(hdv_gather *gather) {
    hdv_ring *ring = gather->ring;
    uint16_t idx = hdv_load16_acquire(avail_idx(ring)); /* before the entries it covers */
    uint16_t waiting = (uint16_t)(idx - ring->next);
    if (waiting > ring->size) /* "The Virtqueue Available Ring": never more entries than places */
        return hdv_refuse(gather, HDV_TOO_FAR_AHEAD, waiting, ring->size);
    ring->seen = idx;
    return true;
}

static bool gather_table(hdv_gather *gather, uint32_t count) {
    uint32_t index = 0;
    for (uint32_t step = 0; step < count; step++) {
        if (index >= count)
            return hdv_refuse(gather, HDV_NO_SUCH_INDIRECT_DESCRIPTOR, index, count);
        const hdv_descriptor *entry = &gather->ring->table[index];
        uint16_t flags = entry->third;
        if (flags & HDV_DESC_INDIRECT)
            return hdv_refuse(gather, HDV_NESTED_TABLE, 0, 0);
        if (!hdv_gather_buffer(gather, entry->address, entry->length, flags & HDV_DESC_WRITE))
            return false;
        if (!(flags & HDV_DESC_NEXT))
            return true;
        index = entry->fourth;
    }
    return hdv_refuse(gather, HDV_ENDLESS_TABLE, count, 0);
}

static bool walk(hdv_gather *gather, uint32_t index) {
    hdv_ring *ring = gather->ring;
    /* At most one step for each descriptor: a chain that loops ends here by count. */
    for (uint32_t step = 0; step < ring->size; step++) {
        if (index >= ring->size)
            return hdv_refuse(gather, HDV_NO_SUCH_DESCRIPTOR, index, ring->size);
        hdv_descriptor entry = hdv_load_descriptor(ring->descriptors + 16 * (size_t)index);
        uint16_t flags = entry.third;
        if (flags & HDV_DESC_INDIRECT)
            return hdv_gather_check_indirect(gather, flags) &&
                   hdv_gather_copy_table(gather, entry.address, entry.length) &&
                   gather_table(gather, entry.length / 16);
        if (!hdv_gather_buffer(gather, entry.address, entry.length, flags & HDV_DESC_WRITE))
            return false;
        if (!(flags & HDV_DESC_NEXT))
            return true;
        index = entry.fourth;
    }
    return hdv_refuse(gather, HDV_ENDLESS, ring->size, 0);
}

hdv_popped hdv_split_pop(hdv_gather *gather) {
    hdv_ring *ring = gather->ring;
    if (ring->next == ring->seen) {
        if (!look(gather))
            return HDV_BROKEN;
        if (ring->next == ring->seen)
            return HDV_NONE;
    }
    uint16_t head = hdv_load16(ring->driver + 4 + 2 * (size_t)(ring->next & (ring->size - 1)));
    if (head >= ring->size) {
        hdv_refuse(gather, HDV_NO_SUCH_HEAD, head, ring->size);
        return HDV_BROKEN;
    }
    if (!hdv_gather_check_head(gather, head) || !walk(gather, head))
        return HDV_BROKEN;
    gather->chain->head = head;
    gather->chain->slots = 1;
    ring->next++;
    return HDV_CHAIN;
}

bool hdv_split_waiting(const hdv_ring *ring) {
    return ring->next != ring->seen || ring->next != hdv_load16_acquire(avail_idx(ring));
}

bool hdv_split_arm(hdv_ring *ring) {
    if (ring->event_idx)
        hdv_store16(avail_event(ring), ring->next);
    else
        hdv_store16(ring->device, 0);
    hdv_fence(); /* the request is out before the index is read, or both sides may miss the other's store */
    return ring->next != hdv_load16(avail_idx(ring));
}

void hdv_split_disarm(hdv_ring *ring) {
    if (!ring->event_idx) /* with it, a stale avail_event says it already */
        hdv_store16(ring->device, NO_NOTIFY);
}

void hdv_split_push(hdv_ring *ring, uint16_t head, uint32_t written) {
    uint8_t *element = ring->device + 4 + 8 * (size_t)(ring->used & (ring->size - 1));
    hdv_store32(element, head);
    hdv_store32(element + 4, written);
    ring->used++;
    hdv_store16_release(ring->device + 2, ring->used); /* the element is out before the index that covers it */
}

bool hdv_split_should_signal(hdv_ring *ring) {
    if (ring->signalled == ring->used)
        return false;
    hdv_fence(); /* the index is out before the driver's wish is read */
    uint16_t old = ring->signalled;
    ring->signalled = ring->used;
    if (!ring->event_idx)
        return !(hdv_load16(ring->driver) & NO_INTERRUPT);
    uint16_t event = hdv_load16(used_event(ring));
    return (uint16_t)(ring->used - event - 1) < (uint16_t)(ring->used - old);
}
