/* The lock around a share's table and terms, and what takes a call of the file system in between. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "share_internal.h"

#define FREED_AT_ONCE 4096 /* nodes */

vf_share *vf_share_new(void) {
    vf_share *share = calloc(1, sizeof *share);
    if (!share)
        return NULL;
    pthread_mutex_init(&share->lock, NULL);
    vf_table_init(&share->table);
    return share;
}

void vf_share_free(vf_share *share) {
    vf_table_free(&share->table);
    pthread_mutex_destroy(&share->lock);
    free(share);
}

void vf_share_agree(vf_share *share, const vf_terms *terms) {
    pthread_mutex_lock(&share->lock);
    share->terms = *terms;
    pthread_mutex_unlock(&share->lock);
}

static void *free_table(void *table) {
    vf_table_free(table);
    free(table);
    return NULL;
}

/* Free a table in a thread of its own, where there can be one: a million nodes take a third of a second. */
static void free_aside(const vf_table *old) {
    pthread_t thread;
    vf_table *table = malloc(sizeof *table);
    if (!table)
        abort();
    *table = *old;
    if (table->by_nodeid.used <= FREED_AT_ONCE || pthread_create(&thread, NULL, free_table, table))
        free_table(table);
    else
        pthread_detach(thread);
}

uint32_t vf_share_clear(vf_share *share, int *descriptors, uint32_t most) {
    pthread_mutex_lock(&share->lock);
    memset(&share->terms, 0, sizeof share->terms);
    uint32_t count = vf_table_take_all(&share->table, descriptors, most);
    vf_table old = vf_table_clear(&share->table);
    pthread_mutex_unlock(&share->lock);
    free_aside(&old);
    return count;
}

void vf_share_reopened(vf_share *share, uint64_t device, uint64_t inode, int descriptor, bool named) {
    pthread_mutex_lock(&share->lock);
    vf_table_reopened(&share->table, device, inode, descriptor, named);
    pthread_mutex_unlock(&share->lock);
}

/* A node of Python's, with the lock. */
static vf_node *pythons(vf_share *share, uint64_t device, uint64_t inode) {
    vf_node *node = vf_table_find_inode(&share->table, device, inode);
    return node && !node->ours ? node : NULL;
}

void vf_share_disown(vf_share *share, uint64_t device, uint64_t inode) {
    pthread_mutex_lock(&share->lock);
    vf_node *node = pythons(share, device, inode);
    if (node)
        vf_table_disown(&share->table, node);
    pthread_mutex_unlock(&share->lock);
}

void vf_share_changing(vf_share *share, uint64_t device, uint64_t inode, bool changing) {
    pthread_mutex_lock(&share->lock);
    vf_node *node = pythons(share, device, inode);
    if (node)
        node->changing = changing;
    pthread_mutex_unlock(&share->lock);
}

void vf_share_locked(vf_share *share, uint64_t device, uint64_t inode) {
    pthread_mutex_lock(&share->lock);
    vf_node *node = pythons(share, device, inode);
    if (node)
        node->locks = true;
    pthread_mutex_unlock(&share->lock);
}

uint64_t vf_share_drop_node(vf_share *share, uint64_t nodeid) {
    pthread_mutex_lock(&share->lock);
    uint64_t lookups = vf_table_drop_node(&share->table, nodeid);
    pthread_mutex_unlock(&share->lock);
    return lookups;
}

uint64_t vf_share_take_lookups(vf_share *share, uint64_t nodeid) {
    pthread_mutex_lock(&share->lock);
    uint64_t lookups = vf_table_take_lookups(&share->table, nodeid);
    pthread_mutex_unlock(&share->lock);
    return lookups;
}

void vf_share_file(vf_share *share, uint64_t fh, uint64_t nodeid, int descriptor, bool readable, bool writable) {
    pthread_mutex_lock(&share->lock);
    vf_table_file(&share->table, fh, nodeid, descriptor, readable, writable);
    pthread_mutex_unlock(&share->lock);
}

void vf_share_drop_file(vf_share *share, uint64_t fh) {
    pthread_mutex_lock(&share->lock);
    vf_file *file = vf_map_get(&share->table.by_fh, fh, 0);
    if (file)
        vf_table_drop_file(&share->table, file); /* Python's by now */
    pthread_mutex_unlock(&share->lock);
}

bool vf_share_take_dirty(vf_share *share, int descriptor) {
    pthread_mutex_lock(&share->lock);
    bool dirty = vf_table_take_dirty(&share->table, descriptor);
    pthread_mutex_unlock(&share->lock);
    return dirty;
}

bool vf_share_close(vf_share *share, int descriptor) {
    pthread_mutex_lock(&share->lock);
    bool callers = vf_table_close(&share->table, descriptor);
    pthread_mutex_unlock(&share->lock);
    return callers;
}

/* Between Python's and ours */

bool vf_handle_of(int directory, const char *name, int flags, vf_handle *handle, int *mount_id) {
    _Static_assert(offsetof(vf_handle, data) == sizeof(struct file_handle), "vf_handle is laid out as struct file_handle");
    handle->bytes = VF_HANDLE_MOST;
    return !name_to_handle_at(directory, name, (struct file_handle *)(void *)handle, mount_id, flags);
}

bool vf_same_handle(const vf_handle *one, const vf_handle *other) {
    return one->bytes == other->bytes && one->type == other->type && !memcmp(one->data, other->data, one->bytes);
}

/* The node of ours that stands for the file which Python has open. Lets go of the lock meanwhile. */
static vf_node *ours(vf_share *share, int descriptor, uint64_t device, uint64_t inode) {
    vf_handle handle;
    int mount_id;
    vf_node *node = vf_table_find_inode(&share->table, device, inode);
    if (!node || !node->ours || node->descriptor >= 0)
        return node && node->ours ? node : NULL; /* while it has a descriptor, nobody else gets its number */
    pthread_mutex_unlock(&share->lock);
    bool known = descriptor >= 0 && vf_handle_of(descriptor, "", AT_EMPTY_PATH, &handle, &mount_id);
    pthread_mutex_lock(&share->lock);
    node = vf_table_find_inode(&share->table, device, inode);
    return node && node->ours && known && vf_same_handle(node->handle, &handle) ? node : NULL;
}

uint64_t vf_share_enter(vf_share *share, uint64_t nodeid, int descriptor, uint64_t device, uint64_t inode, uint32_t type,
                        bool named) {
    vf_who who;
    int unused = -1;
    pthread_mutex_lock(&share->lock);
    vf_node *node = ours(share, descriptor, device, inode);
    if (node) {
        nodeid = node->nodeid;
        unused = vf_table_release(&share->table, node);
        vf_table_adopt(&share->table, node, &who);
    }
    vf_table_node(&share->table, nodeid, descriptor, device, inode, type, named);
    pthread_mutex_unlock(&share->lock);
    if (unused >= 0)
        close(unused); /* Python has another one, so it is not the last of its file */
    return nodeid;
}

bool vf_share_adopt(vf_share *share, uint64_t nodeid, vf_who *who) {
    pthread_mutex_lock(&share->lock);
    vf_node *node = vf_table_find(&share->table, nodeid);
    bool found = node && node->ours;
    if (found)
        vf_table_adopt(&share->table, node, who);
    pthread_mutex_unlock(&share->lock);
    return found;
}

bool vf_share_adopt_file(vf_share *share, uint64_t fh, uint64_t nodeid, vf_file *copy) {
    pthread_mutex_lock(&share->lock);
    vf_file *file = vf_table_find_file(&share->table, fh, nodeid);
    bool found = file && file->ours;
    if (found) {
        vf_table_adopt_file(&share->table, file);
        *copy = *file;
    }
    pthread_mutex_unlock(&share->lock);
    return found;
}

int vf_share_forget(vf_share *share, uint64_t nodeid, uint64_t count) {
    pthread_mutex_lock(&share->lock);
    vf_node *node = vf_table_find(&share->table, nodeid);
    int descriptor = node && node->ours ? vf_table_forget(&share->table, node, count) : -1;
    pthread_mutex_unlock(&share->lock);
    return descriptor;
}

void vf_share_hold(vf_share *share, int descriptor) {
    struct stat status;
    int unused = -1;
    if (fstat(descriptor, &status) || (!S_ISDIR(status.st_mode) && status.st_nlink > 1))
        return;
    pthread_mutex_lock(&share->lock);
    vf_node *node = ours(share, descriptor, status.st_dev, status.st_ino);
    if (node && node->descriptor < 0) {
        pthread_mutex_unlock(&share->lock);
        unused = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
        pthread_mutex_lock(&share->lock);
        node = ours(share, descriptor, status.st_dev, status.st_ino);
        if (node && node->descriptor < 0 && unused >= 0)
            unused = vf_table_keep(&share->table, node, unused, share->terms.nodes);
    }
    if (node)
        node->nameless = true;
    pthread_mutex_unlock(&share->lock);
    if (unused >= 0)
        close(unused);
}

uint32_t vf_share_nodes(vf_share *share) {
    pthread_mutex_lock(&share->lock);
    uint32_t count = share->table.nodes;
    pthread_mutex_unlock(&share->lock);
    return count;
}

uint32_t vf_share_held(vf_share *share) {
    pthread_mutex_lock(&share->lock);
    uint32_t count = share->table.open_nodes + share->table.open_files;
    pthread_mutex_unlock(&share->lock);
    return count;
}
