#define _GNU_SOURCE
#include "memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common.h"

struct memory memory;
static size_t taken;

void memory_make(size_t size)
{
    memory.size = size;
    memory.fd = memfd_create("guest", MFD_CLOEXEC);
    if (memory.fd < 0 || ftruncate(memory.fd, (off_t)size))
        fail("no memory for a guest: %s", strerror(errno));
    memory.base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory.fd, 0);
    if (memory.base == MAP_FAILED)
        fail("the guest's memory cannot be mapped: %s", strerror(errno));
}

void *memory_take(size_t size)
{
    size_t whole = (size + PAGE - 1) / PAGE * PAGE;
    if (whole > memory.size - taken)
        fail("the guest's memory is too small");
    void *place = memory.base + taken;
    taken += whole;
    return place;
}

uint64_t guest_address(const void *place)
{
    return GUEST_BASE + (uint64_t)((const uint8_t *)place - memory.base);
}
