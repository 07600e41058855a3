/* What a workload is, and all there are. */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#include "fuse.h"
#include "measure.h"
#include "tree.h"

enum { MOST_DEPTHS = 4 };

struct workload {
    const char *name;
    const char *unit;             /* what an operation handles many of, or NULL */
    unsigned depths[MOST_DEPTHS]; /* operations at the same time; 0 ends the list */
    void (*set_up)(unsigned depth);
    /* Send the first request of an operation. */
    void (*begin)(struct request *request);
    /* A request is done: check it and send the next one, true; or the operation is over, false. */
    bool (*proceed)(struct request *request);
    /* After each operation, while the clocks stand. Only where nothing else is under way: at depth 1. */
    void (*between)(void);
    void (*tear_down)(void);
};

extern const struct workload stat_workload, lookup_workload, negative_workload, statfs_workload;
extern const struct workload open_workload, create_workload, fsync_workload;
extern const struct workload warm_workload, cold_workload, readdir_workload;
extern const struct workload read_page, write_page, read_mib, write_mib;

/* Count what the operation has handled. */
void count_units(uint64_t units);

/* The same work by plain system calls, without a device. */
struct plain {
    const char *name, *unit;
    void (*set_up)(void);
    void (*operation)(void);
    void (*tear_down)(void);
};

extern const struct plain plain_calls[];
extern const unsigned plain_count;

#endif
