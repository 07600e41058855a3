/* The guest's memory: one memfd, mapped here and, by the server that gets its descriptor, there. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Where the guest sees it: above 4 GiB, as the larger part of a real machine's memory is. */
#define GUEST_BASE 0x100000000u

extern struct memory {
    uint8_t *base;
    size_t size;
    int fd;
} memory;

/* Make it, all zeros. Once. */
void memory_make(size_t size);

/* Take the next `size` bytes, from a page border on. They are never given back. */
void *memory_take(size_t size);

/* The guest physical address of a place in it. */
uint64_t guest_address(const void *place);

#endif
