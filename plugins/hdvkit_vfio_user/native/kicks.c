/* See kicks.h. Names and layouts are those of the vfio-user specification; all numbers are little-endian. */
#include "kicks.h"

#include <string.h>

#define REGION_WRITE 10
#define NO_REPLY 0x10

typedef struct {
    uint16_t id;
    uint16_t command;
    uint32_t size;
    uint32_t flags;
    uint32_t error;
    uint64_t offset; /* from here on, the access */
    uint32_t region;
    uint32_t count;
} message;

_Static_assert(sizeof(message) == 32, "header and region access");

static int is_kick(const vu_kicks *kicks, const uint8_t *bytes, size_t size) {
    message head;
    uint16_t index;
    if (size < sizeof head + kicks->size)
        return 0;
    memcpy(&head, bytes, sizeof head);
    memcpy(&index, bytes + sizeof head, sizeof index);
    return head.command == REGION_WRITE && head.flags == NO_REPLY && head.size == sizeof head + kicks->size &&
           head.region == kicks->region && head.count == kicks->size && index < 64 && kicks->queues >> index & 1 &&
           head.offset == kicks->offset + (uint64_t)index * kicks->multiplier;
}

size_t vu_kicks_in_front(void *context, const uint8_t *bytes, size_t size) {
    const vu_kicks *kicks = context;
    size_t found = 0;
    while (is_kick(kicks, bytes + found, size - found))
        found += sizeof(message) + kicks->size;
    return found;
}
