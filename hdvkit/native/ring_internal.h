/* What ring.c, split.c and packed.c share. */
#ifndef HDVKIT_RING_INTERNAL_H
#define HDVKIT_RING_INTERNAL_H

#include "atomics.h"
#include "ring.h"

#define HDV_DESC_NEXT 1u
#define HDV_DESC_WRITE 2u
#define HDV_DESC_INDIRECT 4u

typedef struct {
    hdv_ring *ring;
    hdv_memory *memory;
    hdv_chain *chain;
    uint32_t count; /* descriptors so far */
} hdv_gather;

/* Note what the driver broke; always false. */
bool hdv_refuse(hdv_gather *gather, hdv_code code, uint64_t a, uint64_t b);
/* Add one buffer to the chain. */
bool hdv_gather_buffer(hdv_gather *gather, uint64_t address, uint32_t length, bool writable);
/* Copy an indirect table into the ring's own memory. */
bool hdv_gather_copy_table(hdv_gather *gather, uint64_t address, uint32_t length);
bool hdv_gather_check_indirect(hdv_gather *gather, uint16_t flags);
bool hdv_gather_check_head(hdv_gather *gather, uint16_t head);
/* Load a descriptor once, from a place that is aligned to its size. */
hdv_descriptor hdv_load_descriptor(const uint8_t *at);

hdv_popped hdv_split_pop(hdv_gather *gather);
bool hdv_split_waiting(const hdv_ring *ring);
bool hdv_split_arm(hdv_ring *ring);
void hdv_split_disarm(hdv_ring *ring);
void hdv_split_push(hdv_ring *ring, uint16_t head, uint32_t written);
bool hdv_split_should_signal(hdv_ring *ring);

hdv_popped hdv_packed_pop(hdv_gather *gather);
bool hdv_packed_waiting(const hdv_ring *ring);
bool hdv_packed_arm(hdv_ring *ring);
void hdv_packed_disarm(hdv_ring *ring);
void hdv_packed_push(hdv_ring *ring, uint16_t head, uint16_t slots, uint32_t written);
bool hdv_packed_should_signal(hdv_ring *ring);

#endif
