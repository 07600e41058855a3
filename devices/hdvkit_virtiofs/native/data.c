/* READ, WRITE and FSYNC: between the guest's own pages, a file and the disk. See request.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <sys/uio.h>
#include <unistd.h>

#include "request.h"

#ifndef IOV_MAX
#define IOV_MAX 1024
#endif

static const struct iovec *vector(const hdv_segment *segments) {
    _Static_assert(sizeof(hdv_segment) == sizeof(struct iovec), "hdv_segment is laid out as struct iovec");
    return (const struct iovec *)(const void *)segments;
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

static bool message(vf_call *call, vf_io_in *in, bool payload) {
    if (call->header.len < sizeof call->header + sizeof *in)
        return false;
    hdv_chain_read(call->chain, sizeof call->header, in, sizeof *in);
    return call->header.len == sizeof call->header + sizeof *in + (payload ? in->size : 0) && in->size &&
           in->offset <= (uint64_t)INT64_MAX - in->size;
}

bool vf_read(vf_call *call) {
    vf_io_in in;
    hdv_segment segments[HDV_MAX_DESCRIPTORS];
    uint32_t count;
    uint64_t done = 0;
    if (!message(call, &in, false) || !vf_has_room(call, in.size))
        return false;
    int descriptor = vf_use_file(call, in.fh, false);
    if (descriptor < 0)
        return false;
    while (done < in.size) {
        uint64_t asked = cut(call, false, sizeof(vf_out_header) + done, in.size - done, segments, &count);
        off_t offset = (off_t)(in.offset + done);
        ssize_t got = preadv2(descriptor, vector(segments), (int)count, offset, call->patient ? 0 : RWF_NOWAIT);
        call->waits = got < 0 && !call->patient; /* it is not in memory */
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

/* A write that fails after a part of it was done is a short one. */
bool vf_write(vf_call *call) {
    vf_io_in in;
    hdv_segment segments[HDV_MAX_DESCRIPTORS];
    uint32_t count;
    uint64_t done = 0;
    if (!message(call, &in, true) || !vf_has_room(call, sizeof(vf_write_out)))
        return false;
    if (in.flags & FUSE_WRITE_KILL_SUIDGID || in.size > call->terms.max_write)
        return false;
    int descriptor = vf_use_file(call, in.fh, true);
    if (descriptor < 0)
        return false;
    while (done < in.size) {
        cut(call, true, sizeof call->header + sizeof in + done, in.size - done, segments, &count);
        ssize_t put = pwritev(descriptor, vector(segments), (int)count, (off_t)(in.offset + done));
        if (put <= 0)
            break;
        done += (uint64_t)put;
    }
    vf_write_out out = {(uint32_t)done, 0};
    return done && vf_reply(call, &out, sizeof out);
}

/* What was not told when it failed is told to nobody else: the answer is given here in any case. */
static bool synchronize(vf_call *call, bool directory) {
    vf_fsync_in in;
    if (!vf_message(call, &in, sizeof in) || !vf_has_room(call, 0))
        return false;
    int descriptor = vf_use_any_file(call, in.fh, directory);
    call->waits = descriptor >= 0 && !call->patient;
    if (descriptor < 0 || call->waits)
        return false;
    if (in.fsync_flags & FUSE_FSYNC_FDATASYNC ? fdatasync(descriptor) : fsync(descriptor))
        return vf_refuse(call, errno);
    return vf_reply(call, NULL, 0);
}

bool vf_fsync(vf_call *call) {
    return synchronize(call, false);
}

bool vf_fsyncdir(vf_call *call) {
    return synchronize(call, true);
}
