/* One share as C sees it: what it may answer by itself, and of which nodes and files.
 *
 * vf_answer runs on the threads of a lane, everything else on the loop's. What a request needs but C must not decide, or
 * what goes wrong, is declined: Python does it again from the beginning, and its answer counts. */
#ifndef VIRTIOFS_SHARE_H
#define VIRTIOFS_SHARE_H

#include "table.h"

typedef struct vf_share vf_share;

typedef struct {
    uint64_t opcodes; /* bit N: requests of opcode N may be answered here */
    uint64_t entry_valid;
    uint64_t attr_valid;
    uint64_t device; /* of the root */
    uint64_t inode;
    uint32_t entry_valid_nsec;
    uint32_t attr_valid_nsec;
    uint32_t max_write;
    uint32_t open_flags;   /* of answers to OPEN and CREATE */
    uint32_t host_flags;   /* added where files are opened to be read only */
    uint32_t nodes;        /* descriptors for nodes of ours */
    uint32_t files;        /* and for files */
    uint32_t capability;   /* the errno of asking for this attribute of any file; 0: Python knows */
    uint32_t gid;          /* for whom files can be made: root with this group */
    int mount;             /* where files are opened by handle; -1: nowhere, and no node is ours */
    int mount_id;
    int numbers;           /* /proc/self/fd */
    bool read_only;
    bool anybody;          /* files can be made for everybody: they will be this process's */
    bool root;
} vf_terms;

/* NULL without memory. */
vf_share *vf_share_new(void);
void vf_share_free(vf_share *share);
/* What holds from the next request on; without opcodes, everything is declined. */
void vf_share_agree(vf_share *share, const vf_terms *terms);
/* The guest is gone: nothing is known, and nothing is answered. Up to `most` descriptors of ours, to be closed. */
uint32_t vf_share_clear(vf_share *share, int *descriptors, uint32_t most);

/* As in table.h, with the lock. */
void vf_share_reopened(vf_share *share, uint64_t device, uint64_t inode, int descriptor, bool named);
void vf_share_disown(vf_share *share, uint64_t device, uint64_t inode);
void vf_share_changing(vf_share *share, uint64_t device, uint64_t inode, bool changing);
void vf_share_locked(vf_share *share, uint64_t device, uint64_t inode);
uint64_t vf_share_drop_node(vf_share *share, uint64_t nodeid);
uint64_t vf_share_take_lookups(vf_share *share, uint64_t nodeid);
void vf_share_file(vf_share *share, uint64_t fh, uint64_t nodeid, int descriptor, bool readable, bool writable);
void vf_share_drop_file(vf_share *share, uint64_t fh);
bool vf_share_take_dirty(vf_share *share, int descriptor);
bool vf_share_close(vf_share *share, int descriptor);

/* Python gives the guest a reference on a node: its number, which is not the one that was proposed where the guest knows
 * the file already. It is Python's then. */
uint64_t vf_share_enter(vf_share *share, uint64_t nodeid, int descriptor, uint64_t device, uint64_t inode, uint32_t type,
                        bool named);
/* Python takes over a node or a file of ours; false when there is none of that number. */
bool vf_share_adopt(vf_share *share, uint64_t nodeid, vf_who *who);
bool vf_share_adopt_file(vf_share *share, uint64_t fh, uint64_t nodeid, vf_file *file);
/* The guest gives up references on a node of ours: a descriptor to be closed, or -1. */
int vf_share_forget(vf_share *share, uint64_t nodeid, uint64_t count);
/* A name is about to go: what the guest knows by it, and is ours, keeps a descriptor. */
void vf_share_hold(vf_share *share, int descriptor);
/* How many nodes are ours, and how many descriptors. */
uint32_t vf_share_nodes(vf_share *share);
uint32_t vf_share_held(vf_share *share);

/* An hdv_handler's answer; context is the share. */
hdv_outcome vf_answer(void *context, bool patient, const hdv_chain *chain, uint32_t *written);

#endif
