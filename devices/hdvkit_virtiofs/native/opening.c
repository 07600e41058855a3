/* OPEN and OPENDIR, RELEASE and RELEASEDIR, FLUSH. See request.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "request.h"

/* Number an open file, and tell the guest; or close it. */
static bool opened(vf_call *call, int descriptor, uint32_t flags, bool directory) {
    vf_open_out out = {
        .fh = vf_number(call, call->header.nodeid, descriptor, flags, directory),
        .open_flags = directory ? 0 : call->terms.open_flags,
    };
    if (out.fh)
        return vf_reply(call, &out, sizeof out);
    close(descriptor);
    return false;
}

/* Whether opening is all that is asked for; else Python has a say. */
static bool plain(const vf_call *call, const vf_open_in *in) {
    const uint32_t more = O_CREAT | O_EXCL | O_TRUNC | O_APPEND | O_SYNC | O_DSYNC;
    uint32_t access = in->flags & O_ACCMODE;
    return !in->open_flags && !(in->flags & more) && access != O_ACCMODE && !(call->terms.read_only && access);
}

bool vf_open(vf_call *call) {
    vf_open_in in;
    uint64_t device;
    char number[16];
    if (!vf_message(call, &in, sizeof in) || !vf_has_room(call, sizeof(vf_open_out)))
        return false;
    if (!plain(call, &in) || !vf_has_files_left(call))
        return false;
    int flags = (int)(in.flags & O_ACCMODE) | VF_QUIET | (int)call->terms.host_flags;
    int descriptor = vf_open_node(call, call->header.nodeid, S_IFREG, flags);
    if (descriptor < 0) {
        int node = vf_use_node(call, call->header.nodeid, S_IFREG, &device);
        if (node < 0)
            return false;
        snprintf(number, sizeof number, "%d", node);
        descriptor = openat(call->terms.numbers, number, flags);
    }
    return descriptor >= 0 && opened(call, descriptor, in.flags, false);
}

bool vf_opendir(vf_call *call) {
    vf_open_in in;
    uint64_t device;
    if (!vf_message(call, &in, sizeof in) || !vf_has_room(call, sizeof(vf_open_out)))
        return false;
    if (!plain(call, &in) || !vf_has_files_left(call))
        return false;
    int node = vf_use_node(call, call->header.nodeid, S_IFDIR, &device);
    if (node < 0)
        return false;
    int descriptor = openat(node, ".", O_RDONLY | O_DIRECTORY | VF_QUIET | (int)call->terms.host_flags);
    return descriptor >= 0 && opened(call, descriptor, in.flags, true);
}

/* A file of ours that may be closed here: nobody has locked it, and closing it takes no time. */
static bool may_close(vf_call *call, uint64_t fh, bool directory) {
    struct stat status;
    pthread_mutex_lock(&call->share->lock);
    const vf_file *file = vf_table_find_file(&call->share->table, fh, call->header.nodeid);
    const vf_node *node = vf_table_find(&call->share->table, call->header.nodeid);
    bool may = file && file->ours && file->directory == directory && !(node && node->locks);
    int descriptor = may ? file->descriptor : -1;
    if (may)
        vf_table_use(&call->share->table, call, descriptor, false);
    pthread_mutex_unlock(&call->share->lock);
    return may && (directory || (!fstat(descriptor, &status) && !vf_frees_much(&status, 0)));
}

static bool release(vf_call *call, bool directory) {
    vf_release_in in;
    if (!vf_message(call, &in, sizeof in) || !vf_has_room(call, 0) || in.release_flags & FUSE_RELEASE_FLOCK_UNLOCK)
        return false;
    if (!may_close(call, in.fh, directory))
        return false;
    pthread_mutex_lock(&call->share->lock);
    vf_file *file = vf_table_find_file(&call->share->table, in.fh, call->header.nodeid);
    bool ours = file && file->ours;
    if (ours)
        vf_table_drop_file(&call->share->table, file); /* closed when the request ends, which uses it */
    pthread_mutex_unlock(&call->share->lock);
    return ours && vf_reply(call, NULL, 0);
}

bool vf_release(vf_call *call) {
    return release(call, false);
}

bool vf_releasedir(vf_call *call) {
    return release(call, true);
}

/* File systems on a block device have nothing to do when a file is closed; others may be on the network. */
bool vf_flush(vf_call *call) {
    vf_flush_in in;
    if (!vf_message(call, &in, sizeof in) || !vf_has_room(call, 0))
        return false;
    pthread_mutex_lock(&call->share->lock);
    vf_file *file = vf_table_find_file(&call->share->table, in.fh, call->header.nodeid);
    const vf_node *node = vf_table_find(&call->share->table, call->header.nodeid);
    bool may = file && file->ours && !file->directory && node && !node->locks && (!file->dirty || major(node->device));
    bool dirty = may && file->dirty;
    int descriptor = may ? file->descriptor : -1;
    if (dirty) {
        file->dirty = false;
        vf_table_use(&call->share->table, call, descriptor, false);
    }
    pthread_mutex_unlock(&call->share->lock);
    if (!may)
        return false;
    int copy = dirty ? fcntl(descriptor, F_DUPFD_CLOEXEC, 0) : -1;
    if (dirty && copy < 0)
        return false; /* Python takes every file over as written to */
    if (dirty && close(copy))
        return vf_refuse(call, errno);
    return vf_reply(call, NULL, 0);
}
