#include "ring.h"

#include "common.h"
#include "memory.h"

static uint16_t used_index(const struct ring *ring)
{
    return __atomic_load_n(&ring->vring.used->idx, __ATOMIC_ACQUIRE);
}

/* Where the device says, and where we say, at which index to be told: behind each other's rings. */
static volatile uint16_t *avail_event(const struct ring *ring)
{
    return (void *)&ring->vring.used->ring[RING_SIZE];
}

static volatile uint16_t *used_event(const struct ring *ring)
{
    return &ring->vring.avail->ring[RING_SIZE];
}

void chain_add(struct chain *chain, const void *place, uint32_t size, bool writable)
{
    if (!size)
        return;
    if (chain->count)
        chain->table[chain->count - 1].flags |= VRING_DESC_F_NEXT;
    chain->table[chain->count] = (struct vring_desc){
        .addr = guest_address(place),
        .len = size,
        .flags = writable ? VRING_DESC_F_WRITE : 0,
        .next = (uint16_t)(chain->count + 1),
    };
    chain->count++;
}

void ring_make(struct ring *ring, unsigned index)
{
    *ring = (struct ring){.index = index, .kick = -1};
    vring_init(&ring->vring, RING_SIZE, memory_take(vring_size(RING_SIZE, PAGE)), PAGE);
}

void ring_add(struct ring *ring, unsigned head, const struct chain *chain)
{
    struct vring_desc *descriptor = &ring->vring.desc[head];
    /* As Linux does: a single buffer is no reason for a table. */
    if (chain->count == 1)
        *descriptor = chain->table[0];
    else
        *descriptor = (struct vring_desc){
            .addr = guest_address(chain->table),
            .len = (uint32_t)(chain->count * sizeof *chain->table),
            .flags = VRING_DESC_F_INDIRECT,
        };
    ring->vring.avail->ring[ring->available % RING_SIZE] = (uint16_t)head;
    __atomic_store_n(&ring->vring.avail->idx, ++ring->available, __ATOMIC_RELEASE);
    ring->flying++;
}

bool ring_must_kick(struct ring *ring)
{
    /* "Available Buffer Notification Suppression": the index must be visible before we look. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    const uint16_t event = *avail_event(ring), before = ring->told;
    ring->told = ring->available;
    return vring_need_event(event, ring->available, before);
}

int ring_take(struct ring *ring, uint32_t *written)
{
    if (ring->used == used_index(ring))
        return -1;
    const vring_used_elem_t *element = &ring->vring.used->ring[ring->used++ % RING_SIZE];
    if (!ring->flying--)
        fail("queue %u: the device has used more chains than it was given", ring->index);
    if (element->id >= RING_SIZE)
        fail("queue %u: the device has used descriptor %u of %u", ring->index, element->id, RING_SIZE);
    *written = element->len;
    return (int)element->id;
}

void ring_mute(struct ring *ring)
{
    /* The one index that is not reached for the longest time: what has just been passed. */
    *used_event(ring) = (uint16_t)(ring->used - 1);
}

bool ring_listen(struct ring *ring)
{
    *used_event(ring) = ring->used;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return ring->used == used_index(ring);
}
