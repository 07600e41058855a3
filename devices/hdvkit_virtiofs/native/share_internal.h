/* What share.c and requests.c share. */
#ifndef VIRTIOFS_SHARE_INTERNAL_H
#define VIRTIOFS_SHARE_INTERNAL_H

#include <pthread.h>

#include "share.h"

struct vf_share {
    pthread_mutex_t lock; /* never held during a call of the file system */
    vf_table table;
    vf_terms terms;
};

#endif
