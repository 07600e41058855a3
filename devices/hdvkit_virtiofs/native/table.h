/* Nodes and open files of one guest, as far as C may use them by itself.
 *
 * Python tells what there is and takes it back; C adds references only. Everything is called with the lock held, which
 * is never held during a call of the file system. */
#ifndef VIRTIOFS_TABLE_H
#define VIRTIOFS_TABLE_H

#include "map.h"

typedef struct {
    uint64_t nodeid;
    uint64_t device;
    uint64_t inode;
    uint64_t lookups;  /* references the guest was given here, and Python has not counted yet */
    int descriptor;    /* O_PATH; -1 while Python has closed it */
    uint32_t type;     /* S_IFMT of its mode: an inode keeps it for life */
    bool named;        /* Python has to hear of each name it is found by */
    bool changing;     /* a call of Python's holds its lock, maybe for long */
} vf_node;

typedef struct {
    uint64_t fh;
    uint64_t nodeid;
    int descriptor;
    bool readable;
    bool writable; /* here: not those that append, or wait for the disk with each write */
    bool dirty;    /* written to here since Python asked last */
} vf_file;

#define VF_USED 2 /* descriptors that one request uses at most */

typedef struct {
    vf_map by_nodeid;
    vf_map by_inode;      /* nodes; the one that was told of last, where the host gave a number twice */
    vf_map by_descriptor; /* nodes and files; b says which */
    vf_map by_fh;
    int used[VF_USED]; /* by the request under way; -1 for none */
    bool doomed[VF_USED];
} vf_table;

void vf_table_init(vf_table *table);
void vf_table_clear(vf_table *table);

/* Learn of a node, or of its new descriptor. A node that cannot be kept for lack of memory is Python's alone. */
void vf_table_node(vf_table *table, uint64_t nodeid, int descriptor, uint64_t device, uint64_t inode, uint32_t type,
                   bool named);
/* Python has opened a node again. */
void vf_table_reopened(vf_table *table, uint64_t device, uint64_t inode, int descriptor, bool named);
/* The host may have given the number of an inode to another file: who had it is found by it no more. */
void vf_table_disown(vf_table *table, uint64_t device, uint64_t inode);
/* A call that holds the lock of an inode begins or ends. */
void vf_table_changing(vf_table *table, uint64_t device, uint64_t inode, bool changing);
/* References given here since the last time; where there are none, the node is forgotten. */
uint64_t vf_table_drop_node(vf_table *table, uint64_t nodeid);
uint64_t vf_table_take_lookups(vf_table *table, uint64_t nodeid);
void vf_table_file(vf_table *table, uint64_t fh, uint64_t nodeid, int descriptor, bool readable, bool writable);
void vf_table_drop_file(vf_table *table, uint64_t fh);
/* Whether a file was written to here since this was asked last. */
bool vf_table_take_dirty(vf_table *table, int descriptor);
/* A descriptor is about to be closed: nothing leads to it any more. False when a request uses it, which closes it. */
bool vf_table_close(vf_table *table, int descriptor);

vf_node *vf_table_find(const vf_table *table, uint64_t nodeid);
vf_node *vf_table_find_inode(const vf_table *table, uint64_t device, uint64_t inode);
vf_file *vf_table_find_file(const vf_table *table, uint64_t fh, uint64_t nodeid);

/* Keep a descriptor open for the request under way, and let go of all of them at its end: how many of them are to be
 * closed by the caller, without the lock, for the last of a file may take long. */
void vf_table_use(vf_table *table, int descriptor);
int vf_table_unuse(vf_table *table, int doomed[VF_USED]);

#endif
