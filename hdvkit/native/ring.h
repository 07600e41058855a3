/* The device half of virtqueues, split and packed (VIRTIO 1.2, "Virtqueues"), over memory that stays mapped.
 *
 * No operating system, no allocation, no locks: whoever owns a ring calls it from one thread at a time. The other side
 * is hostile and writes while we read: everything of its is loaded once, then checked, then used.
 *
 * hdvkit/virtio/ring.py, split.py and packed.py are the reference: the same answers, the same refusals, in the same
 * order. */
#ifndef HDVKIT_RING_H
#define HDVKIT_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HDV_MAX_DESCRIPTORS 1026
#define HDV_MAX_CHAIN_BYTES (32u << 20)
#define HDV_MAX_HEADS 65536

/* One range of guest RAM. Tables are sorted by address and never overlap. Without a base it is not mapped here, and only
 * Python reaches it. */
typedef struct {
    uint64_t address;
    uint64_t size;
    uint8_t *base;
    bool writable;
} hdv_region;

typedef struct {
    const hdv_region *regions;
    uint32_t count;
    uint32_t recent; /* where the last range was found: most likely the next is there too */
} hdv_memory;

/* Laid out as Linux's struct iovec. */
typedef struct {
    uint8_t *base;
    size_t size;
} hdv_segment;

/* What the driver broke, with up to two numbers that belong to the sentence about it. */
typedef enum {
    HDV_FINE,
    HDV_TOO_MANY_DESCRIPTORS,
    HDV_TOO_MANY_BYTES,
    HDV_EMPTY_DESCRIPTOR,
    HDV_READABLE_BEHIND_WRITABLE,
    HDV_WRAPPING_RANGE,
    HDV_NOT_RAM,
    HDV_READ_ONLY,
    HDV_UNEVEN_TABLE,
    HDV_LONG_TABLE,
    HDV_INDIRECT_NOT_NEGOTIATED,
    HDV_INDIRECT_AND_LINKED,
    HDV_NESTED_TABLE,
    HDV_NO_SUCH_DESCRIPTOR,
    HDV_NO_SUCH_INDIRECT_DESCRIPTOR,
    HDV_ENDLESS,
    HDV_ENDLESS_TABLE,
    HDV_TOO_FAR_AHEAD,
    HDV_NO_SUCH_HEAD,
    HDV_AVAILABLE_TWICE,
    HDV_RUNS_ON,
    HDV_INDIRECT_INSIDE,
    HDV_ENDLESS_PACKED,
    HDV_REMOTE_TABLE,
    HDV_ANNOUNCED_NOTHING, /* told by lanes: the driver says there is more, and there is not */
} hdv_code;

typedef struct {
    hdv_code code;
    uint64_t a;
    uint64_t b;
} hdv_error;

/* One chain: its readable segments, then its writable ones. Neighbours in memory are one segment. */
typedef struct {
    uint16_t head;  /* names it to the driver */
    uint16_t slots; /* places of a packed ring it takes */
    uint32_t readable;
    uint32_t writable;
    uint64_t readable_size;
    uint64_t writable_size;
    bool remote; /* some segment is not mapped: its base is the guest's address, and C must not touch it */
    hdv_segment segments[HDV_MAX_DESCRIPTORS];
    uint32_t regions[HDV_MAX_DESCRIPTORS]; /* in which region each segment lies */
} hdv_chain;

typedef struct {
    uint64_t address;
    uint32_t length;
    uint16_t third;  /* flags, of a packed ring the id */
    uint16_t fourth; /* next, of a packed ring the flags */
} hdv_descriptor;

typedef struct {
    uint8_t *descriptors;
    uint8_t *driver; /* the driver area: available ring or event suppression structure */
    uint8_t *device; /* the device area: used ring or event suppression structure */
    uint32_t size;
    bool packed;
    bool indirect;
    bool event_idx;
    /* split: all indices run freely, modulo 2**16 */
    uint16_t next;
    uint16_t seen;
    uint16_t used;
    uint16_t signalled;
    /* packed */
    uint32_t next_slot;
    uint32_t used_slot;
    uint32_t unsignalled;
    uint32_t held; /* slots of chains that the device has */
    bool next_wrap;
    bool used_wrap;
    uint32_t in_flight;
    uint64_t out[HDV_MAX_HEADS / 64]; /* heads that the device has */
    hdv_error error;
    hdv_descriptor table[HDV_MAX_DESCRIPTORS]; /* a copy of an indirect table, so that nobody changes it */
} hdv_ring;

typedef enum { HDV_BROKEN = -1, HDV_NONE = 0, HDV_CHAIN = 1 } hdv_popped;

/* The areas lie in memory that is aligned as the specification asks; the caller has checked that. */
void hdv_ring_init(hdv_ring *ring, uint8_t *descriptors, uint8_t *driver, uint8_t *device, uint32_t size, bool packed,
                   bool indirect, bool event_idx);

/* Take the next chain. After HDV_NONE the caller arms and looks once more before it sleeps, or a kick in between is
 * lost. After HDV_BROKEN, ring->error says why, and the ring is unusable until reset. */
hdv_popped hdv_ring_pop(hdv_ring *ring, hdv_memory *memory, hdv_chain *chain);

/* Whether a chain waits; true also when the driver's index makes no sense, which pop then finds. Changes nothing. */
bool hdv_ring_waiting(const hdv_ring *ring);

/* Ask the driver for a kick with the next chain. True: one is there already, pop again instead of waiting. */
bool hdv_ring_arm(hdv_ring *ring);

/* Tell the driver that kicks are not needed. */
void hdv_ring_disarm(hdv_ring *ring);

/* Give a chain back with so many bytes of answer. */
void hdv_ring_push(hdv_ring *ring, uint16_t head, uint16_t slots, uint32_t written);

/* Whether the driver wants an interrupt for what was given back since it was last asked. */
bool hdv_ring_should_signal(hdv_ring *ring);

/* Find a range of RAM: the region, which is then memory->recent, or NULL with the reason. */
const hdv_region *hdv_memory_find(hdv_memory *memory, uint64_t address, uint64_t size, bool writable, hdv_error *error);

/* Copy up to size bytes out of the readable part, from a place in it; how many there were. */
size_t hdv_chain_read(const hdv_chain *chain, uint64_t from, void *to, size_t size);

/* Copy up to size bytes into the writable part, to a place in it; for how many there was room. */
size_t hdv_chain_write(const hdv_chain *chain, uint64_t to, const void *from, size_t size);

/* The bytes [from, from + size) of a part as segments: which of them, cut at both ends. How many segments. */
uint32_t hdv_segments_cut(const hdv_segment *segments, uint32_t count, uint64_t from, uint64_t size, hdv_segment *cut);

#endif
