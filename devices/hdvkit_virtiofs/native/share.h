/* One share as C sees it: what it may answer by itself, and of which nodes and files.
 *
 * vf_answer runs on the thread of a lane, everything else on the loop's. What a request needs but C must not decide, or
 * what goes wrong, is declined: Python does it again from the beginning, and its answer counts. */
#ifndef VIRTIOFS_SHARE_H
#define VIRTIOFS_SHARE_H

#include "../../../hdvkit/native/handler.h"
#include "table.h"

typedef struct vf_share vf_share;

typedef struct {
    uint64_t opcodes; /* bit N: requests of opcode N may be answered here */
    uint64_t entry_valid;
    uint64_t attr_valid;
    uint32_t entry_valid_nsec;
    uint32_t attr_valid_nsec;
    uint32_t max_write;
} vf_terms;

/* NULL without memory. */
vf_share *vf_share_new(void);
void vf_share_free(vf_share *share);
/* What holds from the next request on; without opcodes, everything is declined. */
void vf_share_agree(vf_share *share, vf_terms terms);
/* The guest is gone: nothing is known, and nothing is answered. */
void vf_share_clear(vf_share *share);

/* As in table.h, with the lock. */
void vf_share_node(vf_share *share, uint64_t nodeid, int descriptor, uint64_t device, uint64_t inode, uint32_t type,
                   bool named);
void vf_share_reopened(vf_share *share, uint64_t device, uint64_t inode, int descriptor, bool named);
void vf_share_disown(vf_share *share, uint64_t device, uint64_t inode);
void vf_share_changing(vf_share *share, uint64_t device, uint64_t inode, bool changing);
uint64_t vf_share_drop_node(vf_share *share, uint64_t nodeid);
uint64_t vf_share_take_lookups(vf_share *share, uint64_t nodeid);
void vf_share_file(vf_share *share, uint64_t fh, uint64_t nodeid, int descriptor, bool readable, bool writable);
void vf_share_drop_file(vf_share *share, uint64_t fh);
bool vf_share_take_dirty(vf_share *share, int descriptor);
bool vf_share_close(vf_share *share, int descriptor);

/* An hdv_handler's answer; context is the share. */
bool vf_answer(void *context, const hdv_chain *chain, uint32_t *written);

#endif
