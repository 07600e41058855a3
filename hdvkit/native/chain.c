/* The two parts of a chain as byte streams: how the driver cut them means nothing ("Message Framing"). */
#include <string.h>

#include "ring.h"

uint32_t hdv_segments_cut(const hdv_segment *segments, uint32_t count, uint64_t from, uint64_t size, hdv_segment *cut) {
    uint32_t found = 0;
    for (uint32_t index = 0; index < count && size; index++) {
        if (from >= segments[index].size) {
            from -= segments[index].size;
            continue;
        }
        size_t left = segments[index].size - (size_t)from;
        size_t taken = left < size ? left : (size_t)size;
        cut[found++] = (hdv_segment){segments[index].base + from, taken};
        from = 0;
        size -= taken;
    }
    return found;
}

/* Copying is done piece by piece, without a list of the pieces: headers lie in one or two. */
static size_t copy(const hdv_segment *segments, uint32_t count, uint64_t from, uint8_t *bytes, size_t size, bool in) {
    size_t done = 0;
    for (uint32_t index = 0; index < count && done < size; index++) {
        if (from >= segments[index].size) {
            from -= segments[index].size;
            continue;
        }
        size_t left = segments[index].size - (size_t)from;
        size_t taken = left < size - done ? left : size - done;
        if (in)
            memcpy(segments[index].base + from, bytes + done, taken);
        else
            memcpy(bytes + done, segments[index].base + from, taken);
        from = 0;
        done += taken;
    }
    return done;
}

size_t hdv_chain_read(const hdv_chain *chain, uint64_t from, void *to, size_t size) {
    return copy(chain->segments, chain->readable, from, to, size, false);
}

size_t hdv_chain_write(const hdv_chain *chain, uint64_t to, const void *from, size_t size) {
    /* The bytes are only read when they go in; one function for both directions has one type for them. */
    return copy(chain->segments + chain->readable, chain->writable, to, (uint8_t *)(uintptr_t)from, size, true);
}
