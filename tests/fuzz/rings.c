/* Rings whose driver writes anything at any time: whatever comes out of them lies in the memory that is lent.
 *
 * Each region is a mapping of its own between pages that nobody may touch, and every byte of each chain is touched. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "../../hdvkit/native/ring.h"
#include "random.h"

#define PAGE 4096
#define REGIONS 3
#define LARGEST 64 /* of a ring */

static hdv_region regions[REGIONS];
static const uint64_t FLAGS[] = {0, 1, 2, 4, 3, 5, 6, 0x80, 0x8000, 0x8080, 0x81, 0x8002};

static void map_regions(void) {
    for (int at = 0; at < REGIONS; at++) {
        size_t size = (size_t)(at + 1) * PAGE;
        uint8_t *all = mmap(NULL, size + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (all == MAP_FAILED || mprotect(all + PAGE, size, PROT_READ | PROT_WRITE))
            abort();
        regions[at] = (hdv_region){(uint64_t)at * 16 * PAGE + PAGE, size, all + PAGE, at != 1};
    }
}

/* Mostly somewhere in memory, now and then at its borders or anywhere. */
static uint64_t an_address(void) {
    const hdv_region *region = &regions[fuzz_below(REGIONS)];
    switch (fuzz_below(8)) {
    case 0:
        return fuzz_next();
    case 1:
        return region->address + region->size - fuzz_below(64);
    case 2:
        return UINT64_MAX - fuzz_below(64);
    default:
        return region->address + fuzz_below(region->size);
    }
}

static uint32_t a_length(void) {
    return fuzz_one_in(8) ? (uint32_t)fuzz_next() : (uint32_t)fuzz_below(fuzz_one_in(3) ? 5000 : 64);
}

static void write_descriptor(uint8_t *to, uint32_t size) {
    uint64_t address = an_address();
    uint32_t length = fuzz_one_in(3) ? 16 * (uint32_t)fuzz_below(8) : a_length();
    uint16_t third = (uint16_t)(fuzz_one_in(2) ? FLAGS[fuzz_below(12)] : fuzz_below(size));
    uint16_t fourth = (uint16_t)(fuzz_one_in(2) ? FLAGS[fuzz_below(12)] : fuzz_below(size));
    memcpy(to, &address, 8);
    memcpy(to + 8, &length, 4);
    memcpy(to + 12, &third, 2);
    memcpy(to + 14, &fourth, 2);
}

/* What a driver may do at any time. */
static void disturb(uint8_t *descriptors, uint8_t *driver, uint32_t size) {
    for (uint64_t count = fuzz_below(8); count; count--) {
        if (fuzz_one_in(3)) {
            uint16_t number = (uint16_t)(fuzz_one_in(4) ? fuzz_next() : fuzz_below(2 * size));
            memcpy(driver + 2 * fuzz_below(size + 3), &number, 2);
        } else {
            write_descriptor(descriptors + 16 * fuzz_below(size), size);
        }
    }
    for (uint64_t count = fuzz_below(8); count; count--) /* tables, and whatever else is there */
        write_descriptor(regions[0].base + 16 * fuzz_below(regions[0].size / 16), size);
}

static void touch(const hdv_chain *chain) {
    volatile uint8_t sum = 0;
    if (chain->remote)
        return;
    for (uint32_t at = 0; at < chain->readable + chain->writable; at++) {
        const hdv_segment *segment = &chain->segments[at];
        sum ^= segment->base[0] ^ segment->base[segment->size - 1];
        if (at >= chain->readable)
            memset(segment->base, 0x55, segment->size);
    }
}

static void one_ring(void) {
    static hdv_ring ring;
    static hdv_chain chain;
    static _Alignas(16) uint8_t descriptors[16 * LARGEST], driver[4096], device[4096];
    hdv_memory memory = {regions, REGIONS, 0};
    bool packed = fuzz_one_in(2);
    uint32_t size = packed ? 1 + (uint32_t)fuzz_below(LARGEST) : 1u << fuzz_below(7);
    memset(descriptors, 0, sizeof descriptors);
    memset(driver, 0, sizeof driver);
    memset(device, 0, sizeof device);
    hdv_ring_init(&ring, descriptors, driver, device, size, packed, fuzz_one_in(2), fuzz_one_in(2));
    for (uint64_t turn = 1 + fuzz_below(40); turn; turn--) {
        disturb(descriptors, driver, size);
        hdv_popped popped = hdv_ring_pop(&ring, &memory, &chain);
        if (popped == HDV_BROKEN)
            return;
        if (popped == HDV_CHAIN) {
            touch(&chain);
            hdv_ring_push(&ring, chain.head, chain.slots, (uint32_t)fuzz_next());
        }
        (void)hdv_ring_should_signal(&ring);
        (void)hdv_ring_waiting(&ring);
        if (hdv_ring_arm(&ring))
            hdv_ring_disarm(&ring);
    }
}

int main(int count, char **arguments) {
    double end = fuzz_now() + fuzz_begin(count, arguments);
    unsigned long long rings = 0;
    map_regions();
    for (; fuzz_now() < end; rings++)
        one_ring();
    printf("%llu rings\n", rings);
    return 0;
}
