/* Workloads that list a directory: opened, read to its end, closed. readdirplus, readdirplus-cold, readdir. */
#include <stdlib.h>
#include <string.h>

#include "workload.h"

static uint64_t node, handle;
static bool plus;
static uint8_t *seen;            /* how often, by entry */
static uint64_t *known, *lookups; /* nodes and references, by entry */

static void set_up(bool with_attributes)
{
    node = look_up(FUSE_ROOT_ID, "entries");
    plus = with_attributes;
    seen = calloc(tree.entries, sizeof *seen);
    known = calloc(tree.entries, sizeof *known);
    lookups = calloc(tree.entries, sizeof *lookups);
}

static void forget_entries(void)
{
    for (unsigned entry = 0; entry < tree.entries; entry++)
        if (lookups[entry])
            forget(known[entry], lookups[entry]);
    memset(known, 0, tree.entries * sizeof *known);
    memset(lookups, 0, tree.entries * sizeof *lookups);
}

static void tear_down(void)
{
    forget_entries();
    free(seen);
    free(known);
    free(lookups);
    forget(node, 1);
}

static void begin(struct request *request)
{
    request->step = 0;
    memset(seen, 0, tree.entries * sizeof *seen);
    send_opendir(request, node);
}

static void take_attributes(const struct fuse_entry_out *found, unsigned entry)
{
    if (!found->nodeid || (known[entry] && known[entry] != found->nodeid) ||
        found->attr.ino != entry_inode(entry) || found->attr.size != entry_size(entry) || !S_ISREG(found->attr.mode))
        wrong("readdirplus: entry %u is another file", entry);
    known[entry] = found->nodeid;
    lookups[entry]++;
}

static void take_entry(const struct fuse_dirent *found, const struct fuse_entry_out *with)
{
    const int entry = entry_called(found->name, found->namelen);
    if (entry < 0) {
        if (found->namelen > 2 || found->name[0] != '.')
            wrong("a listing names %.*s", (int)found->namelen, found->name);
        return;
    }
    if (seen[entry]++ || found->ino != entry_inode((unsigned)entry))
        wrong("a listing names entry %d again, or with another inode", entry);
    if (with)
        take_attributes(with, (unsigned)entry);
}

/* Take a page of entries; where the next one is to begin, or 0 when this one is broken. */
static uint64_t take_page(const uint8_t *page, size_t size)
{
    const size_t head = plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
    uint64_t offset = 0;
    for (size_t at = 0; at < size;) {
        const struct fuse_direntplus *both = (const struct fuse_direntplus *)(page + at);
        const struct fuse_dirent *entry = plus ? &both->dirent : (const struct fuse_dirent *)(page + at);
        if (size - at < head || size - at < FUSE_DIRENT_ALIGN(head + entry->namelen)) {
            wrong("a listing ends within an entry");
            return 0;
        }
        take_entry(entry, plus ? &both->entry_out : NULL);
        count_units(1);
        offset = entry->off;
        at += FUSE_DIRENT_ALIGN(head + entry->namelen);
    }
    return offset;
}

static bool end_listing(struct request *request)
{
    for (unsigned entry = 0; entry < tree.entries; entry++)
        if (!seen[entry])
            wrong("a listing lacks entry %u", entry);
    send_releasedir(request, node, handle);
    request->step = 2;
    return true;
}

static bool take_listing(struct request *request)
{
    const long size = replied_data(request, PAGE);
    const uint64_t offset = size > 0 ? take_page(request->data, (size_t)size) : 0;
    if (!offset)
        return end_listing(request);
    send_readdir(request, node, handle, offset, plus);
    return true;
}

static bool proceed(struct request *request)
{
    switch (request->step) {
    case 0:
        if (!replied(request, sizeof(struct fuse_open_out)))
            return false;
        handle = ((const struct fuse_open_out *)request->answer)->fh;
        request->step = 1;
        send_readdir(request, node, handle, 0, plus);
        return true;
    case 1:
        return take_listing(request);
    default:
        replied(request, 0);
        return false;
    }
}

/* Warm: the device knows all nodes from the listing before. */
static void set_up_warm(unsigned depth)
{
    (void)depth;
    set_up(true);
    begin(&requests[0]);
    do
        driver_finish(&requests[0]);
    while (proceed(&requests[0]));
}

static void set_up_cold(unsigned depth)
{
    (void)depth;
    set_up(true);
}

static void set_up_names(unsigned depth)
{
    (void)depth;
    set_up(false);
}

const struct workload warm_workload = {
    "readdirplus", "entries", {1}, set_up_warm, begin, proceed, NULL, tear_down,
};
const struct workload cold_workload = {
    "readdirplus-cold", "entries", {1}, set_up_cold, begin, proceed, forget_entries, tear_down,
};
const struct workload readdir_workload = {
    "readdir", "entries", {1}, set_up_names, begin, proceed, NULL, tear_down,
};
