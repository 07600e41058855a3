/* The guest's virtio-fs driver: requests into rings, and out of them when the device is done. */
#ifndef DRIVER_H
#define DRIVER_H

#include <linux/fuse.h>
#include <sys/types.h>

#include "common.h"
#include "transport.h"

enum { DEPTH = 32 };           /* most operations at the same time */
#define MOST_DATA MIB          /* of one READ or WRITE: what a Linux guest sends at most */
#define ARGUMENTS 512u         /* room for what follows a header, without data */

/* One request at a time, in guest memory, and what a workload remembers of its operation. */
struct request {
    unsigned head;
    struct fuse_in_header *in;   /* what the device reads: header, */
    uint8_t *arguments;          /* arguments, and data when it is a WRITE */
    struct fuse_out_header *out; /* what it writes: header, */
    uint8_t *answer;             /* answer, and data when it is a READ */
    uint8_t *data;               /* pages */
    struct vring_desc *table;
    uint32_t written;            /* what the device said it wrote */

    uint64_t begun;              /* when its operation began */
    unsigned step;               /* how far it is; what follows is the workload's */
    uint64_t turn, node, handle, offset;
};

/* What a request consists of beside its headers, in bytes. */
struct sizes {
    uint32_t arguments, data_out; /* to the device */
    uint32_t answer, data_in;     /* from it */
    bool silent;                  /* nothing comes back, not even a header */
};

/* For operations; another one is for what happens before and after them. */
extern struct request requests[DEPTH];

/* Bring the device up: `server` is its process. */
void driver_start(const struct transport *transport, const char *path, enum kick kick, pid_t *server);

/* Let go of it. */
void driver_stop(void);

/* Send a request whose arguments and data are in place. */
void driver_send(struct request *request, uint32_t opcode, uint64_t node, struct sizes sizes);

/* Take one that the device is done with, or NULL. */
struct request *driver_take(void);

/* Sleep until the device may be done with one. */
void driver_wait(void);

/* The request to use while no other is under way; wait for its end with `driver_finish`. */
struct request *driver_aside(void);
void driver_finish(struct request *request);

#endif
