/* Nodes and files that a request uses, see request.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "request.h"

#define FREED_AT_ONCE (256 * 1024) /* bytes: a handful of extents, however they lie on the disk */

static void copy_handle(const vf_node *node, vf_handle *handle) {
    handle->bytes = node->handle->bytes;
    handle->type = node->handle->type;
    memcpy(handle->data, node->handle->data, handle->bytes);
}

/* What is known of a node; with its descriptor, used from now on, or the handle to open it again by. */
static int used_or_handle(vf_call *call, uint64_t nodeid, uint32_t type, vf_node *seen, vf_handle *handle) {
    vf_share *share = call->share;
    pthread_mutex_lock(&share->lock);
    vf_node *node = vf_table_find(&share->table, nodeid);
    bool fits = node && (!type || node->type == type);
    if (fits)
        *seen = *node;
    if (fits && node->descriptor >= 0) {
        vf_table_touch(&share->table, node);
        vf_table_use(&share->table, call, node->descriptor, false);
    } else if (fits && node->ours) {
        copy_handle(node, handle);
    }
    pthread_mutex_unlock(&share->lock);
    if (!fits)
        seen->ours = false;
    return fits ? seen->descriptor : -1;
}

static int open_by(vf_call *call, uint64_t nodeid, vf_handle *handle, int flags) {
    int descriptor = open_by_handle_at(call->terms.mount, (struct file_handle *)(void *)handle, flags | O_CLOEXEC);
    if (descriptor < 0 && errno == ESTALE) {
        pthread_mutex_lock(&call->share->lock);
        vf_node *node = vf_table_find(&call->share->table, nodeid);
        if (node)
            vf_table_disown(&call->share->table, node); /* what has its number now is another file */
        pthread_mutex_unlock(&call->share->lock);
    }
    return descriptor;
}

int vf_open_node(vf_call *call, uint64_t nodeid, uint32_t type, int flags) {
    vf_handle handle;
    pthread_mutex_lock(&call->share->lock);
    const vf_node *node = vf_table_find(&call->share->table, nodeid);
    bool may = call->terms.mount >= 0 && node && node->handle && node->type == type;
    if (may)
        copy_handle(node, &handle);
    pthread_mutex_unlock(&call->share->lock);
    return may ? open_by(call, nodeid, &handle, flags) : -1;
}

static int reopened(vf_call *call, uint64_t nodeid, const vf_node *seen, vf_handle *handle) {
    vf_share *share = call->share;
    struct stat status;
    int unused = -1;
    int descriptor = open_by(call, nodeid, handle, O_PATH);
    if (descriptor < 0)
        return -1;
    bool fits = !fstat(descriptor, &status) && status.st_ino == seen->inode && status.st_dev == seen->device &&
                (status.st_mode & S_IFMT) == seen->type;
    pthread_mutex_lock(&share->lock);
    vf_node *node = fits ? vf_table_find(&share->table, nodeid) : NULL;
    bool kept = node && node->ours && node->descriptor < 0 && share->terms.nodes;
    if (kept)
        unused = vf_table_keep(&share->table, node, descriptor, share->terms.nodes);
    if (fits && unused != descriptor)
        vf_table_use(&share->table, call, descriptor, !kept);
    pthread_mutex_unlock(&share->lock);
    if (!fits)
        unused = descriptor;
    if (unused >= 0)
        close(unused);
    return unused == descriptor ? -1 : descriptor;
}

int vf_use_node(vf_call *call, uint64_t nodeid, uint32_t type, uint64_t *device) {
    vf_node seen;
    vf_handle handle;
    int descriptor = used_or_handle(call, nodeid, type, &seen, &handle);
    if (descriptor < 0 && seen.ours)
        descriptor = reopened(call, nodeid, &seen, &handle);
    if (descriptor >= 0)
        *device = seen.device;
    return descriptor;
}

bool vf_hold_node(vf_call *call, uint64_t nodeid) {
    uint64_t device;
    if (vf_use_node(call, nodeid, 0, &device) < 0)
        return false;
    pthread_mutex_lock(&call->share->lock);
    vf_node *node = vf_table_find(&call->share->table, nodeid);
    bool held = node && node->descriptor >= 0;
    if (held)
        node->nameless = true;
    pthread_mutex_unlock(&call->share->lock);
    return held;
}

int vf_use_file(vf_call *call, uint64_t fh, bool to_write) {
    vf_share *share = call->share;
    int descriptor = -1;
    pthread_mutex_lock(&share->lock);
    vf_file *file = vf_table_find_file(&share->table, fh, call->header.nodeid);
    const vf_node *node = to_write ? vf_table_find(&share->table, call->header.nodeid) : NULL;
    bool waits = node && node->changing; /* for a lock that is held: that is Python's threads' to do */
    if (file && !waits && (to_write ? file->writable : file->readable)) {
        descriptor = file->descriptor;
        file->dirty = file->dirty || to_write;
        vf_table_use(&share->table, call, descriptor, false);
    }
    pthread_mutex_unlock(&share->lock);
    return descriptor;
}

int vf_use_any_file(vf_call *call, uint64_t fh, bool directory) {
    pthread_mutex_lock(&call->share->lock);
    const vf_file *file = vf_table_find_file(&call->share->table, fh, call->header.nodeid);
    bool fits = file && file->directory == directory;
    int descriptor = fits ? file->descriptor : -1;
    if (fits)
        vf_table_use(&call->share->table, call, descriptor, false);
    pthread_mutex_unlock(&call->share->lock);
    return descriptor;
}

bool vf_has_files_left(vf_call *call) {
    pthread_mutex_lock(&call->share->lock);
    bool left = call->share->table.opened_files < call->share->terms.files;
    pthread_mutex_unlock(&call->share->lock);
    return left;
}

uint64_t vf_number(vf_call *call, uint64_t nodeid, int descriptor, uint32_t flags, bool directory) {
    pthread_mutex_lock(&call->share->lock);
    const vf_file *file = vf_table_open(&call->share->table, nodeid, descriptor, flags, directory);
    uint64_t fh = file ? file->fh : 0;
    pthread_mutex_unlock(&call->share->lock);
    return fh;
}

bool vf_knows_file(vf_call *call, uint64_t fh) {
    pthread_mutex_lock(&call->share->lock);
    bool known = vf_table_find_file(&call->share->table, fh, call->header.nodeid) != NULL;
    pthread_mutex_unlock(&call->share->lock);
    return known;
}

static bool same_birth(vf_born one, vf_born other) {
    return one.seconds == other.seconds && one.nanoseconds == other.nanoseconds && (one.seconds || one.nanoseconds);
}

/* Whether a node stands for the file that is there now under its inode number. */
static bool is_this(const vf_node *node, vf_born born, const vf_handle *handle) {
    if (node->descriptor >= 0)
        return true; /* while it has a descriptor, nobody else gets its number */
    return node->handle && (handle ? vf_same_handle(node->handle, handle) : same_birth(node->born, born));
}

/* The number of a node, with one more reference; 0 where nobody knows the file, or Python has a say: that is decided. */
static uint64_t known(vf_call *call, const struct stat *status, vf_born born, const vf_handle *handle, bool *decided) {
    vf_node *node = vf_table_find_inode(&call->share->table, status->st_dev, status->st_ino);
    bool found = node && is_this(node, born, handle);
    *decided = found || (node && !node->handle); /* closed, and Python alone knows who it is */
    if (!found || node->type != (status->st_mode & S_IFMT) || node->named)
        return 0;
    node->lookups++;
    if (handle)
        node->born = born; /* it was not known, or is told anew */
    return node->nodeid;
}

uint64_t vf_enter_known(vf_call *call, const struct stat *status, vf_born born) {
    bool decided;
    pthread_mutex_lock(&call->share->lock);
    uint64_t nodeid = known(call, status, born, NULL, &decided);
    pthread_mutex_unlock(&call->share->lock);
    return nodeid;
}

static uint64_t met(vf_call *call, const struct stat *status, vf_born born, const vf_handle *handle) {
    bool decided;
    pthread_mutex_lock(&call->share->lock);
    uint64_t nodeid = known(call, status, born, handle, &decided);
    if (!nodeid && !decided) {
        const vf_node *node = vf_table_meet(&call->share->table, status->st_dev, status->st_ino,
                                            status->st_mode & S_IFMT, handle, born);
        nodeid = node ? node->nodeid : 0;
    }
    pthread_mutex_unlock(&call->share->lock);
    return nodeid;
}

/* Attributes and handle are asked of one descriptor: under a name there may be another file each time. */
uint64_t vf_enter_open(vf_call *call, int descriptor, struct stat *status) {
    vf_born born;
    vf_handle handle;
    int mount_id;
    if (vf_look(descriptor, "", AT_EMPTY_PATH, status, &born) || status->st_dev != call->terms.device)
        return 0;
    if (!vf_handle_of(descriptor, "", AT_EMPTY_PATH, &handle, &mount_id) || mount_id != call->terms.mount_id)
        return 0;
    return met(call, status, born, &handle);
}

uint64_t vf_enter(vf_call *call, int directory, const char *name, struct stat *status) {
    if (call->terms.mount < 0)
        return 0;
    int descriptor = openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor < 0)
        return 0;
    uint64_t nodeid = vf_enter_open(call, descriptor, status);
    close(descriptor);
    return nodeid;
}

bool vf_frees_much(const struct stat *status, nlink_t names) {
    /* A hole takes no blocks but memory, once it was read. */
    return status->st_nlink <= names &&
           (status->st_size > FREED_AT_ONCE || status->st_blocks > FREED_AT_ONCE / 512);
}
