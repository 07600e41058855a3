/* The same work by plain system calls on the directory: what a server cannot save. Wrong answers count here too. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "workload.h"

static int place; /* what the calls are about */
static uint64_t turn;
static uint8_t *buffer;

static void close_place(void)
{
    close(place);
}

static void nothing(void)
{
}

/* Names and attributes */

static void take_small(void)
{
    place = tree_file("small", O_PATH);
}

static void take_entries(void)
{
    place = tree_file("entries", O_PATH | O_DIRECTORY);
}

static void call_stat(void)
{
    struct stat status;
    if (fstatat(place, "", &status, AT_EMPTY_PATH) || status.st_ino != tree.small.st_ino)
        wrong("stat: another file");
}

static void look_at_entry(int directory, const char *name, unsigned entry)
{
    struct stat status;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) || status.st_ino != entry_inode(entry))
        wrong("lookup: another file");
}

static void call_lookup(void)
{
    char name[NAME_ROOM];
    const unsigned entry = (unsigned)(turn++ % tree.entries);
    look_at_entry(place, entry_name(name, entry), entry);
}

static void call_negative(void)
{
    struct stat status;
    if (!fstatat(place, "absent", &status, AT_SYMLINK_NOFOLLOW) || errno != ENOENT)
        wrong("lookupneg: there is such a name");
}

static void call_statfs(void)
{
    struct statfs found;
    if (fstatfs(tree.root, &found) || !found.f_blocks)
        wrong("statfs: no blocks");
}

/* Files */

static void call_open(void)
{
    char path[NAME_ROOM];
    snprintf(path, sizeof path, "/proc/self/fd/%d", place); /* how a server opens a node it holds by O_PATH */
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || close(fd))
        wrong("openrelease: %d", errno);
}

static void take_scratch(void)
{
    place = tree_file("scratch", O_PATH | O_DIRECTORY);
}

static void call_create(void)
{
    const int fd = openat(place, "new", O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, "x", 1) != 1 || close(fd) || unlinkat(place, "new", 0))
        wrong("create: %d", errno);
}

static void take_target(void)
{
    place = tree_file("target", O_RDWR);
    buffer = calloc(1, MIB);
}

static void take_dirty_target(void)
{
    take_target();
    dirty_target(tree.target_size);
}

static void call_fsync(void)
{
    if (fsync(place))
        wrong("fsync: %d", errno);
}

static void take_data(void)
{
    place = tree_file("data", O_RDONLY);
    buffer = calloc(1, MIB);
}

static void drop_file(void)
{
    close(place);
    free(buffer);
}

static void drop_dirty_target(void)
{
    drop_file();
    clean_target();
}

/* Data */

static void read_at(uint64_t offset, size_t size)
{
    count_units(size);
    if (pread(place, buffer, size, (off_t)offset) != (ssize_t)size || !is_pattern(buffer, 8, offset))
        wrong("read: other bytes at %llu", (unsigned long long)offset);
}

static void write_at(uint64_t offset, size_t size)
{
    count_units(size);
    if (pwrite(place, buffer, size, (off_t)offset) != (ssize_t)size)
        wrong("write: %d", errno);
}

static uint64_t random_page(uint64_t size)
{
    return scramble(turn++) % (size / PAGE) * PAGE;
}

static uint64_t next_mib(uint64_t size)
{
    return turn++ * MIB % size;
}

static void call_read4k(void)
{
    read_at(random_page(tree.size), PAGE);
}

static void call_read1m(void)
{
    read_at(next_mib(tree.size), MIB);
}

static void call_write4k(void)
{
    write_at(random_page(WINDOW), PAGE);
}

static void call_write1m(void)
{
    write_at(next_mib(tree.target_size), MIB);
}

/* Listings */

struct entry { /* what getdents64(2) brings; no header has it */
    uint64_t inode;
    int64_t offset;
    uint16_t length;
    uint8_t type;
    char name[];
};

static void take_listing(void)
{
    buffer = calloc(1, MIB);
}

static void drop_listing(void)
{
    free(buffer);
}

static unsigned list_page(int directory, size_t size, bool plus)
{
    unsigned count = 0;
    for (size_t at = 0; at < size;) {
        const struct entry *one = (const struct entry *)(buffer + at);
        if (plus && one->name[0] != '.')
            look_at_entry(directory, one->name, (unsigned)atoi(one->name + sizeof "entry-" - 1));
        at += one->length;
        count++;
    }
    return count;
}

static void list(bool plus)
{
    const int directory = tree_file("entries", O_RDONLY | O_DIRECTORY);
    unsigned count = 0;
    for (long came; (came = syscall(SYS_getdents64, directory, buffer, PAGE)) > 0;)
        count += list_page(directory, (size_t)came, plus);
    if (count != tree.entries + 2)
        wrong("a listing of %u names", count);
    count_units(count);
    close(directory);
}

static void call_readdir(void)
{
    list(false);
}

static void call_readdirplus(void)
{
    list(true);
}

const struct plain plain_calls[] = {
    {"stat", NULL, take_small, call_stat, close_place},
    {"lookup", NULL, take_entries, call_lookup, close_place},
    {"lookupneg", NULL, take_entries, call_negative, close_place},
    {"statfs", NULL, nothing, call_statfs, nothing},
    {"openrelease", NULL, take_small, call_open, close_place},
    {"create", NULL, take_scratch, call_create, close_place},
    {"fsync", NULL, take_target, call_fsync, drop_file},
    {"readdirplus", "entries", take_listing, call_readdirplus, drop_listing},
    {"readdir", "entries", take_listing, call_readdir, drop_listing},
    {"read4k", NULL, take_data, call_read4k, drop_file},
    {"write4k", NULL, take_dirty_target, call_write4k, drop_dirty_target},
    {"read1m", "bytes", take_data, call_read1m, drop_file},
    {"write1m", "bytes", take_dirty_target, call_write1m, drop_dirty_target},
};
const unsigned plain_count = sizeof plain_calls / sizeof *plain_calls;
