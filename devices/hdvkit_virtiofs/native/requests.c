/* From a request's bytes to the function that answers it, and what they all need of messages. See request.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "request.h"

/* Messages */

bool vf_message(const vf_call *call, void *message, size_t size) {
    return call->header.len == sizeof call->header + size &&
           hdv_chain_read(call->chain, sizeof call->header, message, size) == size;
}

bool vf_message_and_name(const vf_call *call, void *message, size_t size, char name[NAME_MOST + 2]) {
    size_t before = sizeof call->header + size;
    if (call->header.len < before + 2 || call->header.len > before + NAME_MOST + 1)
        return false;
    size_t length = call->header.len - before;
    if (size && hdv_chain_read(call->chain, sizeof call->header, message, size) != size)
        return false;
    if (hdv_chain_read(call->chain, before, name, length) != length)
        return false;
    bool dots = !strcmp(name, ".") || !strcmp(name, "..");
    return memchr(name, 0, length) == name + length - 1 && !strchr(name, '/') && !dots;
}

bool vf_has_room(const vf_call *call, size_t payload) {
    return call->chain->writable_size >= sizeof(vf_out_header) + payload;
}

bool vf_reply(vf_call *call, const void *payload, size_t size) {
    vf_out_header header = {(uint32_t)(sizeof header + size), 0, call->header.unique};
    call->written = header.len;
    return hdv_chain_write(call->chain, 0, &header, sizeof header) == sizeof header &&
           hdv_chain_write(call->chain, sizeof header, payload, size) == size;
}

bool vf_refuse(vf_call *call, int code) {
    vf_out_header header = {sizeof header, -code, call->header.unique};
    call->written = header.len;
    return hdv_chain_write(call->chain, 0, &header, sizeof header) == sizeof header;
}

static uint32_t kernel_device(dev_t device) {
    return (minor(device) & 0xFFu) | (major(device) & 0xFFFu) << 8 | (minor(device) & ~0xFFu) << 12;
}

vf_attr vf_attributes(const struct stat *status) {
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

int vf_look(int directory, const char *name, int flags, struct stat *status, vf_born *born) {
    struct statx found;
    if (statx(directory, name, flags | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS | STATX_BTIME, &found))
        return -1;
    *status = (struct stat){
        .st_dev = makedev(found.stx_dev_major, found.stx_dev_minor),
        .st_ino = found.stx_ino,
        .st_mode = found.stx_mode,
        .st_nlink = found.stx_nlink,
        .st_uid = found.stx_uid,
        .st_gid = found.stx_gid,
        .st_rdev = makedev(found.stx_rdev_major, found.stx_rdev_minor),
        .st_size = (off_t)found.stx_size,
        .st_blksize = (blksize_t)found.stx_blksize,
        .st_blocks = (blkcnt_t)found.stx_blocks,
        .st_atim = {found.stx_atime.tv_sec, found.stx_atime.tv_nsec},
        .st_mtim = {found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec},
        .st_ctim = {found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec},
    };
    bool told = found.stx_mask & STATX_BTIME;
    *born = told ? (vf_born){found.stx_btime.tv_sec, found.stx_btime.tv_nsec} : (vf_born){0};
    return 0;
}

vf_entry_out vf_entry(const vf_call *call, uint64_t nodeid, const struct stat *status) {
    return (vf_entry_out){
        .nodeid = nodeid,
        .entry_valid = call->terms.entry_valid,
        .entry_valid_nsec = call->terms.entry_valid_nsec,
        .attr_valid = call->terms.attr_valid,
        .attr_valid_nsec = call->terms.attr_valid_nsec,
        .attr = vf_attributes(status),
    };
}

/* Three requests that are of no other kind */

static bool vf_getattr(vf_call *call) {
    vf_getattr_in in;
    uint64_t device;
    struct stat status;
    if (!vf_message(call, &in, sizeof in) || !vf_has_room(call, sizeof(vf_attr_out)))
        return false;
    if (in.getattr_flags & FUSE_GETATTR_FH && !vf_knows_file(call, in.fh))
        return false;
    int descriptor = vf_use_node(call, call->header.nodeid, 0, &device);
    if (descriptor < 0 || fstat(descriptor, &status))
        return false;
    vf_attr_out out = {call->terms.attr_valid, call->terms.attr_valid_nsec, 0, vf_attributes(&status)};
    return vf_reply(call, &out, sizeof out);
}

static bool vf_statfs(vf_call *call) {
    uint64_t device;
    struct statvfs status;
    if (!vf_message(call, NULL, 0) || !vf_has_room(call, sizeof(vf_kstatfs)))
        return false;
    int descriptor = vf_use_node(call, call->header.nodeid, 0, &device);
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
    return vf_reply(call, &out, sizeof out);
}

/* Guests ask for one attribute of each file they write to. Where the rules let no file have it, that is all there is. */
static bool vf_getxattr(vf_call *call) {
    vf_getxattr_in in;
    char name[NAME_MOST + 2];
    if (!vf_has_room(call, 0) || !vf_message_and_name(call, &in, sizeof in, name) || strcmp(name, "security.capability"))
        return false;
    pthread_mutex_lock(&call->share->lock);
    bool known = vf_table_find(&call->share->table, call->header.nodeid);
    pthread_mutex_unlock(&call->share->lock);
    return known && call->terms.capability && vf_refuse(call, (int)call->terms.capability);
}

/* Which request is whose */

/* Those that may wait; the others are never asked of two threads at a time, whatever becomes of a guest's message. */
#define WAITING (UINT64_C(1) << FUSE_READ | UINT64_C(1) << FUSE_FSYNC | UINT64_C(1) << FUSE_FSYNCDIR)

static vf_request *const REQUESTS[64] = {
    [FUSE_LOOKUP] = vf_lookup,
    [FUSE_FORGET] = vf_forget,
    [FUSE_GETATTR] = vf_getattr,
    [FUSE_MKDIR] = vf_mkdir,
    [FUSE_UNLINK] = vf_unlink,
    [FUSE_OPEN] = vf_open,
    [FUSE_READ] = vf_read,
    [FUSE_WRITE] = vf_write,
    [FUSE_STATFS] = vf_statfs,
    [FUSE_RELEASE] = vf_release,
    [FUSE_FSYNC] = vf_fsync,
    [FUSE_GETXATTR] = vf_getxattr,
    [FUSE_FLUSH] = vf_flush,
    [FUSE_OPENDIR] = vf_opendir,
    [FUSE_READDIR] = vf_readdir,
    [FUSE_RELEASEDIR] = vf_releasedir,
    [FUSE_FSYNCDIR] = vf_fsyncdir,
    [FUSE_CREATE] = vf_create,
    [FUSE_BATCH_FORGET] = vf_batch_forget,
    [FUSE_READDIRPLUS] = vf_readdirplus,
};

static void let_go(vf_call *call) {
    int doomed[VF_USED];
    pthread_mutex_lock(&call->share->lock);
    int count = vf_table_unuse(&call->share->table, call, doomed);
    pthread_mutex_unlock(&call->share->lock);
    while (count)
        close(doomed[--count]);
}

hdv_outcome vf_answer(void *context, bool patient, const hdv_chain *chain, uint32_t *written) {
    vf_call call = {.share = context, .chain = chain, .patient = patient};
    if (hdv_chain_read(chain, 0, &call.header, sizeof call.header) != sizeof call.header)
        return HDV_DECLINED;
    /* Extensions of a request, and lengths that do not fit, are Python's to judge. */
    if (call.header.len != chain->readable_size || call.header.total_extlen || call.header.opcode >= 64)
        return HDV_DECLINED;
    if (patient && !(WAITING >> call.header.opcode & 1))
        return HDV_DECLINED;
    pthread_mutex_lock(&call.share->lock);
    call.terms = call.share->terms;
    pthread_mutex_unlock(&call.share->lock);
    if (!(call.terms.opcodes >> call.header.opcode & 1) || !REQUESTS[call.header.opcode])
        return HDV_DECLINED;
    bool answered = REQUESTS[call.header.opcode](&call);
    let_go(&call);
    *written = call.written;
    return answered ? HDV_ANSWERED : call.waits ? HDV_WAITS : HDV_DECLINED;
}
