/* What split and packed rings have in common: guest memory, gathering a chain, and the choice between the two. */
#include "ring.h"

#include <string.h>

#include "ring_internal.h"

void hdv_ring_init(hdv_ring *ring, uint8_t *descriptors, uint8_t *driver, uint8_t *device, uint32_t size, bool packed,
                   bool indirect, bool event_idx) {
    memset(ring, 0, sizeof *ring);
    ring->descriptors = descriptors;
    ring->driver = driver;
    ring->device = device;
    ring->size = size;
    ring->packed = packed;
    ring->indirect = indirect;
    ring->event_idx = event_idx;
    ring->next_wrap = true; /* both wrap counters start at 1 */
    ring->used_wrap = true;
}

hdv_popped hdv_ring_pop(hdv_ring *ring, hdv_memory *memory, hdv_chain *chain) {
    chain->readable = 0;
    chain->writable = 0;
    chain->readable_size = 0;
    chain->writable_size = 0;
    chain->remote = false;
    hdv_gather gather = {.ring = ring, .memory = memory, .chain = chain};
    hdv_popped popped = ring->packed ? hdv_packed_pop(&gather) : hdv_split_pop(&gather);
    if (popped == HDV_CHAIN) {
        ring->out[chain->head / 64] |= UINT64_C(1) << chain->head % 64;
        ring->in_flight++;
    }
    return popped;
}

bool hdv_ring_waiting(const hdv_ring *ring) {
    return ring->packed ? hdv_packed_waiting(ring) : hdv_split_waiting(ring);
}

bool hdv_ring_arm(hdv_ring *ring) {
    return ring->packed ? hdv_packed_arm(ring) : hdv_split_arm(ring);
}

void hdv_ring_disarm(hdv_ring *ring) {
    if (ring->packed)
        hdv_packed_disarm(ring);
    else
        hdv_split_disarm(ring);
}

void hdv_ring_push(hdv_ring *ring, uint16_t head, uint16_t slots, uint32_t written) {
    ring->out[head / 64] &= ~(UINT64_C(1) << head % 64);
    ring->in_flight--;
    if (ring->packed)
        hdv_packed_push(ring, head, slots, written);
    else
        hdv_split_push(ring, head, written);
}

bool hdv_ring_should_signal(hdv_ring *ring) {
    return ring->packed ? hdv_packed_should_signal(ring) : hdv_split_should_signal(ring);
}

/* Guest memory */

static const hdv_region *refuse_range(hdv_error *error, hdv_code code, uint64_t address, uint64_t size) {
    *error = (hdv_error){code, size, address};
    return NULL;
}

static bool lies_in(const hdv_region *region, uint64_t address, uint64_t size) {
    return address >= region->address && size <= region->size && address - region->address <= region->size - size;
}

static const hdv_region *search(const hdv_memory *memory, uint64_t address) {
    uint32_t low = 0, high = memory->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (memory->regions[middle].address <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? &memory->regions[low - 1] : NULL;
}

const hdv_region *hdv_memory_find(hdv_memory *memory, uint64_t address, uint64_t size, bool writable, hdv_error *error) {
    const hdv_region *region = memory->recent < memory->count ? &memory->regions[memory->recent] : NULL;
    if (!region || !size || !lies_in(region, address, size)) {
        if (!size || (address && size > UINT64_MAX - address + 1))
            return refuse_range(error, HDV_WRAPPING_RANGE, address, size);
        region = search(memory, address);
        if (!region || !lies_in(region, address, size))
            return refuse_range(error, HDV_NOT_RAM, address, size);
        memory->recent = (uint32_t)(region - memory->regions);
    }
    if (writable && !region->writable)
        return refuse_range(error, HDV_READ_ONLY, address, size);
    return region;
}

/* Gathering a chain */

bool hdv_refuse(hdv_gather *gather, hdv_code code, uint64_t a, uint64_t b) {
    gather->ring->error = (hdv_error){code, a, b};
    return false;
}

static void append(hdv_gather *gather, uint8_t *base, uint32_t length, bool writable) {
    hdv_chain *chain = gather->chain;
    uint32_t count = chain->readable + chain->writable;
    uint32_t region = gather->memory->recent;
    if (writable ? chain->writable : chain->readable) {
        hdv_segment *last = &chain->segments[count - 1];
        if (last->base + last->size == base && chain->regions[count - 1] == region) {
            last->size += length;
            return;
        }
    }
    chain->segments[count] = (hdv_segment){base, length};
    chain->regions[count] = region;
    if (writable)
        chain->writable++;
    else
        chain->readable++;
}

bool hdv_gather_buffer(hdv_gather *gather, uint64_t address, uint32_t length, bool writable) {
    hdv_chain *chain = gather->chain;
    uint64_t total = chain->readable_size + chain->writable_size + length;
    if (++gather->count > HDV_MAX_DESCRIPTORS)
        return hdv_refuse(gather, HDV_TOO_MANY_DESCRIPTORS, HDV_MAX_DESCRIPTORS, 0);
    if (total > HDV_MAX_CHAIN_BYTES)
        return hdv_refuse(gather, HDV_TOO_MANY_BYTES, total, HDV_MAX_CHAIN_BYTES);
    if (!length)
        return hdv_refuse(gather, HDV_EMPTY_DESCRIPTOR, address, 0);
    if (chain->writable && !writable)
        return hdv_refuse(gather, HDV_READABLE_BEHIND_WRITABLE, 0, 0);
    const hdv_region *region = hdv_memory_find(gather->memory, address, length, writable, &gather->ring->error);
    if (!region)
        return false;
    if (region->base) {
        append(gather, region->base + (address - region->address), length, writable);
    } else {
        chain->remote = true;
        append(gather, (uint8_t *)(uintptr_t)address, length, writable);
    }
    if (writable)
        chain->writable_size += length;
    else
        chain->readable_size += length;
    return true;
}

bool hdv_gather_copy_table(hdv_gather *gather, uint64_t address, uint32_t length) {
    uint32_t entry = sizeof(hdv_descriptor);
    if (!length || length % entry)
        return hdv_refuse(gather, HDV_UNEVEN_TABLE, length, entry);
    if (length / entry > HDV_MAX_DESCRIPTORS)
        return hdv_refuse(gather, HDV_LONG_TABLE, length / entry, HDV_MAX_DESCRIPTORS);
    const hdv_region *region = hdv_memory_find(gather->memory, address, length, false, &gather->ring->error);
    if (!region)
        return false;
    if (!region->base)
        return hdv_refuse(gather, HDV_REMOTE_TABLE, length, address);
    memcpy(gather->ring->table, region->base + (address - region->address), length);
    return true;
}

bool hdv_gather_check_indirect(hdv_gather *gather, uint16_t flags) {
    if (!gather->ring->indirect)
        return hdv_refuse(gather, HDV_INDIRECT_NOT_NEGOTIATED, 0, 0);
    if (flags & HDV_DESC_NEXT)
        return hdv_refuse(gather, HDV_INDIRECT_AND_LINKED, 0, 0);
    return true;
}

bool hdv_gather_check_head(hdv_gather *gather, uint16_t head) {
    if (gather->ring->out[head / 64] >> head % 64 & 1)
        return hdv_refuse(gather, HDV_AVAILABLE_TWICE, head, 0);
    return true;
}

hdv_descriptor hdv_load_descriptor(const uint8_t *at) {
    uint64_t words[2] = {hdv_load64(at), hdv_load64(at + 8)};
    hdv_descriptor descriptor;
    memcpy(&descriptor, words, sizeof descriptor);
    return descriptor;
}
