/* The driver's half of a split virtqueue with event indexes and indirect descriptors. Knows no transport, no FUSE.
 *
 * A head is the number of the request that uses it, so nothing has to be allocated.
 */
#ifndef RING_H
#define RING_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

enum { RING_SIZE = 1024 };

struct ring {
    struct vring vring;
    unsigned index;    /* of the queue */
    int kick;          /* an eventfd, unless the transport kicks in another way */
    uint16_t available; /* our avail.idx */
    uint16_t told;     /* what it was when the device may have been kicked last */
    uint16_t used;     /* what we have taken of used.idx */
    uint32_t flying;   /* chains the device has */
};

/* A list of buffers in the making: an indirect table in guest memory. */
struct chain {
    struct vring_desc *table;
    unsigned count;
};

/* Append a buffer; none when it has no bytes. `writable` says that the device writes it. */
void chain_add(struct chain *chain, const void *place, uint32_t size, bool writable);

void ring_make(struct ring *ring, unsigned index);

/* Make a chain available under `head`, which must not be in use. Ask `ring_must_kick` next. */
void ring_add(struct ring *ring, unsigned head, const struct chain *chain);

/* Whether the device wants to be told of what was added since this was asked last. */
bool ring_must_kick(struct ring *ring);

/* Take a used chain: its head, or -1. `written` is what the device says it has written. */
int ring_take(struct ring *ring, uint32_t *written);

/* Want no interrupts. */
void ring_mute(struct ring *ring);

/* Want one for the next used chain. False when there is one already: then take it instead of waiting. */
bool ring_listen(struct ring *ring);

#endif
