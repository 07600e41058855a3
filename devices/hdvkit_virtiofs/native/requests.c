/* The requests that are frequent, each from the guest's bytes to the answer. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "share_internal.h"
#include "wire.h"

#ifndef IOV_MAX
#define IOV_MAX 1024
#endif

/* One request. Every function that answers says whether it did; one that did not has left no trace. */
typedef struct {
    vf_share *share;
    vf_terms terms;
    const hdv_chain *chain;
    vf_in_header header;
    uint32_t written;
} vf_call;

static bool answer(vf_call *call, const void *payload, size_t size) {
    uint8_t bytes[sizeof(vf_out_header) + sizeof(vf_entry_out)];
    vf_out_header header = {(uint32_t)(sizeof header + size), 0, call->header.unique};
    memcpy(bytes, &header, sizeof header);
    memcpy(bytes + sizeof header, payload, size);
    call->written = header.len;
    return hdv_chain_write(call->chain, 0, bytes, header.len) == header.len;
}

static bool refuse(vf_call *call, int code) {
    vf_out_header header = {sizeof header, -code, call->header.unique};
    call->written = header.len;
    return hdv_chain_write(call->chain, 0, &header, sizeof header) == sizeof header;
}

static bool has_room(const vf_call *call, size_t payload) {
    return call->chain->writable_size >= sizeof(vf_out_header) + payload;
}

/* Attributes */

static uint32_t kernel_device(dev_t device) {
    return (minor(device) & 0xFFu) | (major(device) & 0xFFFu) << 8 | (minor(device) & ~0xFFu) << 12;
}

static vf_attr attributes(const struct stat *status) {
    return (vf_attr){
        .ino = status->st_ino,
        .size = (uint64_t)status->st_size,
        .blocks = (uint64_t)status->st_blocks,
        .atime = (uint64_t)status->st_atim.tv_sec,
        .mtime = (uint64_t)status->st_mtim.tv_sec,
        .ctime = (uint64_t)status->st_ctim.tv_sec,
        .atimensec = (uint32_t)status->st_atim.tv_nsec,
        .mtimensec = (uint32_t)status->st_mtim.tv_nsec,
        .ctimensec = (uint32_t)status->st_ctim.tv_nsec,
        .mode = status->st_mode,
        .nlink = (uint32_t)status->st_nlink,
        .uid = status->st_uid,
        .gid = status->st_gid,
        .rdev = status->st_rdev ? kernel_device(status->st_rdev) : 0,
        .blksize = (uint32_t)status->st_blksize,
    };
}

/* Descriptors, kept open until the request is answered */

static int use_node(vf_call *call, uint64_t nodeid, uint32_t type, uint64_t *device) {
    vf_share *share = call->share;
    int descriptor = -1;
    pthread_mutex_lock(&share->lock);
    const vf_node *node = vf_table_find(&share->table, nodeid);
    if (node && node->descriptor >= 0 && (!type || node->type == type)) {
        descriptor = node->descriptor;
        *device = node->device;
        vf_table_use(&share->table, descriptor);
    }
    pthread_mutex_unlock(&share->lock);
    return descriptor;
}

static int use_file(vf_call *call, uint64_t fh, bool to_write) {
    vf_share *share = call->share;
    int descriptor = -1;
    pthread_mutex_lock(&share->lock);
    vf_file *file = vf_table_find_file(&share->table, fh, call->header.nodeid);
    const vf_node *node = to_write ? vf_table_find(&share->table, call->header.nodeid) : NULL;
    bool waits = node && node->changing; /* for a lock that is held: that is Python's threads' to do */
    if (file && !waits && (to_write ? file->writable : file->readable)) {
        descriptor = file->descriptor;
        file->dirty = file->dirty || to_write;
        vf_table_use(&share->table, descriptor);
    }
    pthread_mutex_unlock(&share->lock);
    return descriptor;
}

static bool knows_file(vf_call *call, uint64_t fh) {
    pthread_mutex_lock(&call->share->lock);
    bool known = vf_table_find_file(&call->share->table, fh, call->header.nodeid) != NULL;
    pthread_mutex_unlock(&call->share->lock);
    return known;
}

/* The requests */

static bool getattr_(vf_call *call) {
    vf_getattr_in in;
    uint64_t device;
    struct stat status;
    if (call->header.len != sizeof call->header + sizeof in || !has_room(call, sizeof(vf_attr_out)))
        return false;
    hdv_chain_read(call->chain, sizeof call->header, &in, sizeof in);
    if (in.getattr_flags & FUSE_GETATTR_FH && !knows_file(call, in.fh))
        return false;
    int descriptor = use_node(call, call->header.nodeid, 0, &device);
    if (descriptor < 0 || fstat(descriptor, &status))
        return false;
    vf_attr_out out = {call->terms.attr_valid, call->terms.attr_valid_nsec, 0, attributes(&status)};
    return answer(call, &out, sizeof out);
}

/* A name as the guest may send it: one component, with a zero behind it. */
static bool read_name(const vf_call *call, char *name) {
    size_t size = call->header.len - sizeof call->header;
    if (size < 2 || size > NAME_MOST + 1)
        return false;
    hdv_chain_read(call->chain, sizeof call->header, name, size);
    bool dots = !strcmp(name, ".") || !strcmp(name, "..");
    return memchr(name, 0, size) == name + size - 1 && !strchr(name, '/') && !dots;
}

/* One more reference on a node that is known; its number, or 0. */
static uint64_t enter(vf_call *call, const struct stat *status) {
    pthread_mutex_lock(&call->share->lock);
    vf_node *node = vf_table_find_inode(&call->share->table, status->st_dev, status->st_ino);
    /* While it has a descriptor, nobody else gets its number. */
    if (node && (node->named || node->descriptor < 0 || node->type != (status->st_mode & S_IFMT)))
        node = NULL;
    if (node)
        node->lookups++;
    pthread_mutex_unlock(&call->share->lock);
    return node ? node->nodeid : 0;
}

static bool lookup(vf_call *call) {
    char name[NAME_MOST + 2];
    uint64_t device;
    struct stat status;
    if (call->header.len <= sizeof call->header || !has_room(call, sizeof(vf_entry_out)) || !read_name(call, name))
        return false;
    int directory = use_node(call, call->header.nodeid, S_IFDIR, &device);
    if (directory < 0)
        return false;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT))
        return errno == ENOENT && refuse(call, ENOENT);
    if (S_ISDIR(status.st_mode) && status.st_dev != device)
        return false; /* where another file system begins, Python has more to say */
    uint64_t nodeid = enter(call, &status);
    if (!nodeid)
        return false;
    vf_entry_out out = {
        .nodeid = nodeid,
        .entry_valid = call->terms.entry_valid,
        .entry_valid_nsec = call->terms.entry_valid_nsec,
        .attr_valid = call->terms.attr_valid,
        .attr_valid_nsec = call->terms.attr_valid_nsec,
        .attr = attributes(&status),
    };
    return answer(call, &out, sizeof out);
}

static bool statfs_(vf_call *call) {
    uint64_t device;
    struct statvfs status;
    if (call->header.len != sizeof call->header || !has_room(call, sizeof(vf_kstatfs)))
        return false;
    int descriptor = use_node(call, call->header.nodeid, 0, &device);
    if (descriptor < 0 || fstatvfs(descriptor, &status))
        return false;
    vf_kstatfs out = {
        .blocks = status.f_blocks,
        .bfree = status.f_bfree,
        .bavail = status.f_bavail,
        .files = status.f_files,
        .ffree = status.f_ffree,
        .bsize = (uint32_t)status.f_bsize,
        .namelen = (uint32_t)status.f_namemax,
        .frsize = (uint32_t)status.f_frsize,
    };
    return answer(call, &out, sizeof out);
}

/* Move data between segments and a file. How much, or -1 when nothing was; with wait false, also when not all of it was
 * in memory. */
static ssize_t move(int descriptor, const hdv_segment *segments, uint32_t count, off_t offset, bool in, bool wait) {
    _Static_assert(sizeof(hdv_segment) == sizeof(struct iovec), "hdv_segment is laid out as struct iovec");
    const struct iovec *vector = (const struct iovec *)(const void *)segments;
    return in ? preadv2(descriptor, vector, (int)count, offset, wait ? 0 : RWF_NOWAIT)
              : pwritev(descriptor, vector, (int)count, offset);
}

/* The segments of [from, from + size) of a part, at most IOV_MAX of them; how many bytes those are. */
static uint64_t cut(const vf_call *call, bool readable, uint64_t from, uint64_t size, hdv_segment *cut, uint32_t *count) {
    const hdv_chain *chain = call->chain;
    const hdv_segment *part = readable ? chain->segments : chain->segments + chain->readable;
    *count = hdv_segments_cut(part, readable ? chain->readable : chain->writable, from, size, cut);
    if (*count > IOV_MAX)
        *count = IOV_MAX;
    uint64_t bytes = 0;
    for (uint32_t index = 0; index < *count; index++)
        bytes += cut[index].size;
    return bytes;
}

static bool read_in(vf_call *call, vf_io_in *in, uint64_t payload) {
    if (call->header.len < sizeof call->header + sizeof *in)
        return false;
    hdv_chain_read(call->chain, sizeof call->header, in, sizeof *in);
    return call->header.len == sizeof call->header + sizeof *in + (payload ? in->size : 0) && in->size &&
           in->offset <= (uint64_t)INT64_MAX - in->size;
}

/* Into the guest's own pages. What is not in memory is Python's, whose threads may wait for the disk. */
static bool read_(vf_call *call) {
    vf_io_in in;
    hdv_segment segments[HDV_MAX_DESCRIPTORS];
    uint32_t count;
    uint64_t done = 0;
    if (!read_in(call, &in, 0) || !has_room(call, in.size))
        return false;
    int descriptor = use_file(call, in.fh, false);
    if (descriptor < 0)
        return false;
    while (done < in.size) {
        uint64_t asked = cut(call, false, sizeof(vf_out_header) + done, in.size - done, segments, &count);
        ssize_t got = move(descriptor, segments, count, (off_t)(in.offset + done), true, false);
        if (got < 0 || !asked)
            return false;
        if (!got)
            break; /* the end of the file; less than asked for may be the end of what is in memory only */
        done += (uint64_t)got;
    }
    vf_out_header header = {(uint32_t)(sizeof header + done), 0, call->header.unique};
    call->written = header.len;
    return hdv_chain_write(call->chain, 0, &header, sizeof header) == sizeof header;
}

/* From the guest's own pages. A write that fails after a part of it was done is a short one. */
static bool write_(vf_call *call) {
    vf_io_in in;
    hdv_segment segments[HDV_MAX_DESCRIPTORS];
    uint32_t count;
    uint64_t done = 0;
    if (!read_in(call, &in, 1) || !has_room(call, sizeof(vf_write_out)))
        return false;
    if (in.flags & FUSE_WRITE_KILL_SUIDGID || in.size > call->terms.max_write)
        return false;
    int descriptor = use_file(call, in.fh, true);
    if (descriptor < 0)
        return false;
    while (done < in.size) {
        cut(call, true, sizeof call->header + sizeof in + done, in.size - done, segments, &count);
        ssize_t put = move(descriptor, segments, count, (off_t)(in.offset + done), false, true);
        if (put <= 0)
            break;
        done += (uint64_t)put;
    }
    vf_write_out out = {(uint32_t)done, 0};
    return done && answer(call, &out, sizeof out);
}

static bool dispatch(vf_call *call) {
    switch (call->header.opcode) {
    case FUSE_GETATTR:
        return getattr_(call);
    case FUSE_LOOKUP:
        return lookup(call);
    case FUSE_READ:
        return read_(call);
    case FUSE_WRITE:
        return write_(call);
    case FUSE_STATFS:
        return statfs_(call);
    default:
        return false;
    }
}

bool vf_answer(void *context, const hdv_chain *chain, uint32_t *written) {
    vf_call call = {.share = context, .chain = chain};
    if (hdv_chain_read(chain, 0, &call.header, sizeof call.header) != sizeof call.header)
        return false;
    /* Extensions of a request, and lengths that do not fit, are Python's to judge. */
    if (call.header.len != chain->readable_size || call.header.total_extlen || call.header.opcode >= 64)
        return false;
    pthread_mutex_lock(&call.share->lock);
    call.terms = call.share->terms;
    pthread_mutex_unlock(&call.share->lock);
    if (!(call.terms.opcodes >> call.header.opcode & 1))
        return false;
    bool answered = dispatch(&call);
    int doomed[VF_USED];
    pthread_mutex_lock(&call.share->lock);
    int count = vf_table_unuse(&call.share->table, doomed);
    pthread_mutex_unlock(&call.share->lock);
    while (count)
        close(doomed[--count]);
    *written = call.written;
    return answered;
}
