/* FUSE requests as Linux's virtiofs builds them, and what it demands of the replies. */
#ifndef FUSE_H
#define FUSE_H

#include "driver.h"

/* One function for each opcode: fills the request in and sends it. */
void send_getattr(struct request *request, uint64_t node);
void send_lookup(struct request *request, uint64_t parent, const char *name);
void send_forget(struct request *request, uint64_t node, uint64_t lookups);
void send_open(struct request *request, uint64_t node, uint32_t flags);
void send_release(struct request *request, uint64_t node, uint64_t handle, uint32_t flags);
void send_opendir(struct request *request, uint64_t node);
void send_readdir(struct request *request, uint64_t node, uint64_t handle, uint64_t offset, bool plus);
void send_releasedir(struct request *request, uint64_t node, uint64_t handle);
void send_read(struct request *request, uint64_t node, uint64_t handle, uint64_t offset, uint32_t size);
void send_write(struct request *request, uint64_t node, uint64_t handle, uint64_t offset, uint32_t size);
void send_create(struct request *request, uint64_t parent, const char *name);
void send_flush(struct request *request, uint64_t node, uint64_t handle);
void send_unlink(struct request *request, uint64_t parent, const char *name);
void send_statfs(struct request *request);
void send_fsync(struct request *request, uint64_t node, uint64_t handle);

/* Whether a reply is there, no error, and its answer as long as it must be; says so when it is wrong. */
bool replied(const struct request *request, size_t answer);

/* The same for one that brings data: how many bytes, or -1. */
long replied_data(const struct request *request, uint32_t most);

/* The errno of a reply: 0 for none, -1 when it is no reply at all. */
int reply_error(const struct request *request);

static inline const struct fuse_attr *attributes_of(const struct request *request)
{
    return &((const struct fuse_attr_out *)request->answer)->attr;
}

static inline const struct fuse_entry_out *entry_of(const struct request *request)
{
    return (const struct fuse_entry_out *)request->answer;
}

/* Before and after operations, one at a time; each ends the run when it fails. */
void mount_file_system(void);
void unmount_file_system(void);
uint64_t look_up(uint64_t parent, const char *name);
void forget(uint64_t node, uint64_t lookups);
uint64_t open_file(uint64_t node, uint32_t flags);
void close_file(uint64_t node, uint64_t handle, uint32_t flags);

#endif
