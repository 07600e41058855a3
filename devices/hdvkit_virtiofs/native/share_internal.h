/* What share.c and the requests share. */
#ifndef VIRTIOFS_SHARE_INTERNAL_H
#define VIRTIOFS_SHARE_INTERNAL_H

#include <pthread.h>

#include "share.h"

struct vf_share {
    pthread_mutex_t lock; /* never held during a call of the file system */
    vf_table table;
    vf_terms terms;
};

/* The handle of a file, by a name in a directory or with AT_EMPTY_PATH of a descriptor itself, and its mount. */
bool vf_handle_of(int directory, const char *name, int flags, vf_handle *handle, int *mount_id);
bool vf_same_handle(const vf_handle *one, const vf_handle *other);

#endif
