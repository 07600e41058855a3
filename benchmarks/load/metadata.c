/* Workloads of one request each that ask for names and attributes: stat, lookup, lookupneg, statfs. */
#include <errno.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#include "workload.h"

static uint64_t node; /* that is asked about */
static uint64_t turn;

static bool is_attributes(const struct fuse_attr *found, uint64_t inode, uint64_t size)
{
    return found->ino == inode && found->size == size && S_ISREG(found->mode) && found->nlink == 1;
}

static void forget_node(void)
{
    forget(node, 1);
}

/* stat: GETATTR of one file. */

static void set_up_stat(unsigned depth)
{
    (void)depth;
    node = look_up(FUSE_ROOT_ID, "small");
}

static void begin_stat(struct request *request)
{
    send_getattr(request, node);
}

static bool end_stat(struct request *request)
{
    if (replied(request, sizeof(struct fuse_attr_out)) &&
        !is_attributes(attributes_of(request), tree.small.st_ino, (uint64_t)tree.small.st_size))
        wrong("stat: attributes of another file");
    return false;
}

const struct workload stat_workload = {
    "stat", NULL, {1, 8, 32}, set_up_stat, begin_stat, end_stat, NULL, forget_node,
};

/* lookup: LOOKUP of names in turn, all of which the device knows already. */

static uint64_t *known, *lookups;

static void set_up_lookup(unsigned depth)
{
    char name[NAME_ROOM];
    (void)depth;
    node = look_up(FUSE_ROOT_ID, "entries");
    known = calloc(tree.entries, sizeof *known);
    lookups = calloc(tree.entries, sizeof *lookups);
    for (unsigned entry = 0; entry < tree.entries; entry++) {
        known[entry] = look_up(node, entry_name(name, entry));
        lookups[entry] = 1;
    }
}

static void begin_lookup(struct request *request)
{
    char name[NAME_ROOM];
    request->turn = turn++ % tree.entries;
    send_lookup(request, node, entry_name(name, (unsigned)request->turn));
}

static bool end_lookup(struct request *request)
{
    const unsigned entry = (unsigned)request->turn;
    if (!replied(request, sizeof(struct fuse_entry_out)))
        return false;
    lookups[entry]++;
    if (entry_of(request)->nodeid != known[entry] ||
        !is_attributes(&entry_of(request)->attr, entry_inode(entry), entry_size(entry)))
        wrong("lookup: entry %u is another file", entry);
    return false;
}

static void tear_down_lookup(void)
{
    for (unsigned entry = 0; entry < tree.entries; entry++)
        forget(known[entry], lookups[entry]);
    free(known);
    free(lookups);
    forget_node();
}

const struct workload lookup_workload = {
    "lookup", NULL, {1, 8, 32}, set_up_lookup, begin_lookup, end_lookup, NULL, tear_down_lookup,
};

/* lookupneg: LOOKUP of a name that nobody has. */

static void set_up_negative(unsigned depth)
{
    (void)depth;
    node = look_up(FUSE_ROOT_ID, "entries");
}

static void begin_negative(struct request *request)
{
    send_lookup(request, node, "absent");
}

static bool end_negative(struct request *request)
{
    const int error = reply_error(request);
    /* Node 0 is an absence that the guest may remember. */
    if (error != ENOENT && (error || entry_of(request)->nodeid))
        wrong("lookupneg: error %d of a name that is absent", error);
    return false;
}

const struct workload negative_workload = {
    "lookupneg", NULL, {1, 8, 32}, set_up_negative, begin_negative, end_negative, NULL, forget_node,
};

/* statfs: STATFS of the root. */

static struct statvfs expected;

static void set_up_statfs(unsigned depth)
{
    (void)depth;
    if (fstatvfs(tree.root, &expected))
        fail("the directory's file system tells nothing about itself");
}

static void begin_statfs(struct request *request)
{
    send_statfs(request);
}

static bool end_statfs(struct request *request)
{
    const struct fuse_kstatfs *found = &((const struct fuse_statfs_out *)request->answer)->st;
    if (replied(request, sizeof(struct fuse_statfs_out)) &&
        (found->blocks != expected.f_blocks || found->frsize != expected.f_frsize || found->files != expected.f_files ||
         found->namelen != expected.f_namemax))
        wrong("statfs: %llu blocks of %u bytes instead of %llu of %lu", (unsigned long long)found->blocks,
              found->frsize, (unsigned long long)expected.f_blocks, expected.f_frsize);
    return false;
}

static void nothing(void)
{
}

const struct workload statfs_workload = {
    "statfs", NULL, {1}, set_up_statfs, begin_statfs, end_statfs, NULL, nothing,
};
