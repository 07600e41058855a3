/* The lock around a share's table and terms. */
#include "share_internal.h"

#include <stdlib.h>
#include <string.h>

vf_share *vf_share_new(void) {
    vf_share *share = calloc(1, sizeof *share);
    if (!share)
        return NULL;
    pthread_mutex_init(&share->lock, NULL);
    vf_table_init(&share->table);
    return share;
}

void vf_share_free(vf_share *share) {
    vf_table_clear(&share->table);
    pthread_mutex_destroy(&share->lock);
    free(share);
}

void vf_share_agree(vf_share *share, vf_terms terms) {
    pthread_mutex_lock(&share->lock);
    share->terms = terms;
    pthread_mutex_unlock(&share->lock);
}

void vf_share_clear(vf_share *share) {
    pthread_mutex_lock(&share->lock);
    memset(&share->terms, 0, sizeof share->terms);
    vf_table_clear(&share->table);
    pthread_mutex_unlock(&share->lock);
}

void vf_share_node(vf_share *share, uint64_t nodeid, int descriptor, uint64_t device, uint64_t inode, uint32_t type,
                   bool named) {
    pthread_mutex_lock(&share->lock);
    vf_table_node(&share->table, nodeid, descriptor, device, inode, type, named);
    pthread_mutex_unlock(&share->lock);
}

void vf_share_reopened(vf_share *share, uint64_t device, uint64_t inode, int descriptor, bool named) {
    pthread_mutex_lock(&share->lock);
    vf_table_reopened(&share->table, device, inode, descriptor, named);
    pthread_mutex_unlock(&share->lock);
}

void vf_share_disown(vf_share *share, uint64_t device, uint64_t inode) {
    pthread_mutex_lock(&share->lock);
    vf_table_disown(&share->table, device, inode);
    pthread_mutex_unlock(&share->lock);
}

void vf_share_changing(vf_share *share, uint64_t device, uint64_t inode, bool changing) {
    pthread_mutex_lock(&share->lock);
    vf_table_changing(&share->table, device, inode, changing);
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
    vf_table_drop_file(&share->table, fh);
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
