/* Workloads that move data: 4 KiB at random places and 1 MiB in sequence, to and from a file in the page cache. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workload.h"

static uint64_t node, handle, turn;
static uint32_t size;  /* of a request */
static uint64_t blocks; /* of that size, in the file */
static unsigned lanes; /* operations at the same time */

static void open_for(const char *name, uint32_t request_size, unsigned depth, int flags)
{
    node = look_up(FUSE_ROOT_ID, name);
    handle = open_file(node, (uint32_t)flags);
    size = request_size;
    blocks = (flags == O_RDONLY ? tree.size : tree.target_size) / size;
    lanes = depth;
}

static void close_for(int flags)
{
    close_file(node, handle, (uint32_t)flags);
    forget(node, 1);
}

/* Reads. */

static uint64_t *ends_of(struct request *request, bool last)
{
    return (uint64_t *)(request->data + (last ? size - sizeof(uint64_t) : 0));
}

static void read_block(struct request *request, uint64_t block)
{
    request->offset = block * size;
    *ends_of(request, false) = *ends_of(request, true) = 0; /* what an earlier read left there is no answer */
    send_read(request, node, handle, request->offset, size);
}

static void read_at_random(struct request *request)
{
    read_block(request, scramble(turn++) % blocks);
}

static void read_in_sequence(struct request *request)
{
    read_block(request, turn++ % blocks);
}

static bool end_read(struct request *request)
{
    const long came = replied_data(request, size);
    count_units(size);
    if (came >= 0 && came != (long)size)
        wrong("read: %ld bytes instead of %u", came, size);
    /* The ends now, for looking takes time that is measured; every word in the end. */
    else if (came >= 0 && (*ends_of(request, false) != pattern(request->offset / 8) ||
                           *ends_of(request, true) != pattern((request->offset + size) / 8 - 1)))
        wrong("read: other bytes at %llu", (unsigned long long)request->offset);
    return false;
}

/* Read the whole file through the device, and look at every word. */
static void check_reads(void)
{
    struct request *request = &requests[0];
    size = MOST_DATA;
    blocks = tree.size / size;
    for (uint64_t block = 0; block < blocks; block++) {
        memset(request->data, 0, size);
        read_block(request, block);
        driver_finish(request);
        if (replied_data(request, size) != (long)size || !is_pattern(request->data, size, request->offset))
            wrong("read: the file has other bytes after %llu", (unsigned long long)request->offset);
    }
    close_for(O_RDONLY);
}

static void set_up_read_page(unsigned depth)
{
    open_for("data", PAGE, depth, O_RDONLY);
}

static void set_up_read_mib(unsigned depth)
{
    open_for("data", MIB, depth, O_RDONLY);
}

const struct workload read_page = {
    "read4k", NULL, {1, 32}, set_up_read_page, read_at_random, end_read, NULL, check_reads,
};
const struct workload read_mib = {
    "read1m", "bytes", {1, 4}, set_up_read_mib, read_in_sequence, end_read, NULL, check_reads,
};

/* Writes. Each lane has blocks of its own, so a block is never under way twice and its last stamp is known.
 * A block holds its lane's words, and its stamp in the first and the last. */

static uint64_t *stamps; /* by block; 0 for those that were not written */

static uint64_t lane_word(unsigned lane, size_t word)
{
    return scramble((uint64_t)lane << 32 | word);
}

static void set_up_write(unsigned depth)
{
    dirty_target(blocks * size);
    for (unsigned lane = 0; lane < depth; lane++)
        for (size_t word = 0; word < size / sizeof(uint64_t); word++)
            ((uint64_t *)requests[lane].data)[word] = lane_word(lane, word);
    stamps = calloc(blocks, sizeof *stamps);
}

static void write_block(struct request *request, uint64_t random)
{
    const uint64_t block = random % (blocks / lanes) * lanes + request->head;
    stamps[block] = *ends_of(request, false) = *ends_of(request, true) = scramble(++turn);
    send_write(request, node, handle, block * size, size);
}

static void write_at_random(struct request *request)
{
    write_block(request, scramble(turn));
}

static void write_in_sequence(struct request *request)
{
    write_block(request, turn / lanes);
}

static bool end_write(struct request *request)
{
    count_units(size);
    if (replied(request, sizeof(struct fuse_write_out)) &&
        ((const struct fuse_write_out *)request->answer)->size != size)
        wrong("write: not all bytes were taken");
    return false;
}

static bool is_written(const uint64_t *block, uint64_t number)
{
    const size_t words = size / sizeof *block;
    for (size_t word = 1; word + 1 < words; word++)
        if (block[word] != lane_word((unsigned)(number % lanes), word))
            return false;
    return block[0] == stamps[number] && block[words - 1] == stamps[number];
}

/* Look at every block that was written, on the host. */
static void check_writes(void)
{
    const int fd = tree_file("target", O_RDONLY);
    uint64_t *block = malloc(size);
    struct stat status;
    for (uint64_t number = 0; number < blocks; number++)
        if (stamps[number] && (pread(fd, block, size, (off_t)(number * size)) != (ssize_t)size ||
                               !is_written(block, number)))
            wrong("write: block %llu has other bytes on the host", (unsigned long long)number);
    if (fstat(fd, &status) || (uint64_t)status.st_size != tree.target_size)
        wrong("write: the file has another size");
    close(fd);
    free(block);
    free(stamps);
    close_for(O_RDWR);
    clean_target();
}

static void set_up_write_page(unsigned depth)
{
    open_for("target", PAGE, depth, O_RDWR);
    blocks = WINDOW / PAGE;
    set_up_write(depth);
}

static void set_up_write_mib(unsigned depth)
{
    open_for("target", MIB, depth, O_RDWR);
    set_up_write(depth);
}

const struct workload write_page = {
    "write4k", NULL, {1, 32}, set_up_write_page, write_at_random, end_write, NULL, check_writes,
};
const struct workload write_mib = {
    "write1m", "bytes", {1, 4}, set_up_write_mib, write_in_sequence, end_write, NULL, check_writes,
};
