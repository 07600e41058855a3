/* Nodes and open files of one guest, as far as C may use them by itself.
 *
 * Each is Python's, which tells of it and takes it back, or ours: met here, and unknown to Python until it asks. Numbers
 * of ours begin where Python's never get to. Everything is called with the lock held, which is never held during a call
 * of the file system: what has to be closed is given back to the caller. */
#ifndef VIRTIOFS_TABLE_H
#define VIRTIOFS_TABLE_H

#include "../../../hdvkit/native/handler.h"
#include "map.h"

#define VF_HANDLE_MOST 40 /* bytes; where handles are longer, all nodes are Python's */
#define VF_NODES_MOST (UINT32_C(1) << 20)
#define VF_FIRST (UINT64_C(1) << 48) /* of the numbers that are given here */

/* As struct file_handle, for open_by_handle_at(2). */
typedef struct {
    uint32_t bytes;
    int32_t type;
    uint8_t data[VF_HANDLE_MOST];
} vf_handle;

/* When a file was made: tells it from one that comes later under its inode number. All zero where nobody can tell. */
typedef struct {
    int64_t seconds;
    uint32_t nanoseconds;
} vf_born;

typedef struct vf_node {
    uint64_t nodeid;
    uint64_t device;
    uint64_t inode;
    uint64_t lookups;  /* references the guest was given here, and Python has not counted */
    vf_born born;      /* of those with a handle */
    vf_handle *handle; /* by which it is known again while it is closed; NULL where Python alone knows it */
    struct vf_node *older, *newer; /* of ours that have a descriptor, by when they were used */
    int descriptor;    /* O_PATH; -1 while it is closed */
    uint32_t type;     /* S_IFMT of its mode: an inode keeps it for life */
    bool ours;         /* Python has not met it; it can be opened by its handle */
    bool named;        /* Python has to hear of each name it is found by */
    bool changing;     /* a call of Python's holds its lock, maybe for long */
    bool locks;        /* somebody has locked ranges of it: closing it means more than closing */
    bool nameless;     /* nothing leads to it any more but its descriptor */
} vf_node;

/* What was read of a directory: as getdents64(2) gives it, from the beginning. */
typedef struct {
    uint8_t *bytes;
    size_t size;
    size_t end;
    size_t at; /* of the next name to tell, which is behind `place` others */
    uint64_t place;
    bool complete;
} vf_listing;

typedef struct {
    uint64_t fh;
    uint64_t nodeid;
    int descriptor;
    uint32_t flags; /* the guest's, of ours */
    bool readable;
    bool writable; /* here: not those that append, or wait for the disk with each write */
    bool dirty;    /* written to here since Python asked last */
    bool ours;
    bool opened; /* here */
    bool directory;
    vf_listing listing; /* of a directory, between two requests */
} vf_file;

/* What Python is told of a node of ours that it takes over. */
typedef struct {
    uint64_t device;
    uint64_t inode;
    uint32_t type;
    int descriptor; /* -1: closed */
    vf_handle handle;
} vf_who;

/* A descriptor that a request uses. */
typedef struct {
    const void *call; /* NULL: nobody does */
    int descriptor;
    bool doomed; /* to be closed when the last of them does not any more */
} vf_used;

#define VF_USED 2 /* descriptors that one request uses at most */

typedef struct {
    vf_map by_nodeid;
    vf_map by_inode;      /* nodes; the one that was told of last, where the host gave a number twice */
    vf_map by_descriptor; /* nodes and files; b says which */
    vf_map by_fh;
    vf_node *oldest, *newest; /* of ours that have a descriptor */
    uint32_t nodes;           /* of ours */
    uint32_t open_nodes;      /* of those, with a descriptor */
    uint32_t open_files;      /* of ours */
    uint32_t opened_files;    /* here, and not closed: ours, and those Python has taken over */
    size_t listed;            /* bytes of listings */
    uint64_t next_nodeid;
    uint64_t next_fh;
    vf_used used[HDV_CALLS * VF_USED]; /* by the requests under way */
} vf_table;

enum { VF_BY_NODE, VF_BY_FILE };

void vf_table_init(vf_table *table);
/* Forget everything. Who is ours must have no descriptor any more: see vf_table_take_all. What was there is the
 * caller's, to be freed: that takes long where it is much. */
vf_table vf_table_clear(vf_table *table);
void vf_table_free(vf_table *table);
/* Take up to `most` descriptors of ours, to be closed; how many. */
uint32_t vf_table_take_all(vf_table *table, int *descriptors, uint32_t most);

/* Nodes: nodes.c */

vf_node *vf_table_find(const vf_table *table, uint64_t nodeid);
vf_node *vf_table_find_inode(const vf_table *table, uint64_t device, uint64_t inode);
/* Learn of a node of Python's. One that cannot be kept for lack of memory is Python's alone. */
void vf_table_node(vf_table *table, uint64_t nodeid, int descriptor, uint64_t device, uint64_t inode, uint32_t type,
                   bool named);
/* Python has opened a node of its own again. */
void vf_table_reopened(vf_table *table, uint64_t device, uint64_t inode, int descriptor, bool named);
/* The host may have given the number of an inode to another file: who had it is found by it no more. */
void vf_table_disown(vf_table *table, vf_node *node);
/* References given here since the last time; where there are none, the node of Python's is forgotten. */
uint64_t vf_table_drop_node(vf_table *table, uint64_t nodeid);
uint64_t vf_table_take_lookups(vf_table *table, uint64_t nodeid);

/* A node of ours with one reference; NULL without memory. */
vf_node *vf_table_meet(vf_table *table, uint64_t device, uint64_t inode, uint32_t type, const vf_handle *handle,
                       vf_born born);
/* Let one of ours have a descriptor, while at most so many have; one to be closed for that, or -1. */
int vf_table_keep(vf_table *table, vf_node *node, int descriptor, uint32_t most);
/* It was used just now. */
void vf_table_touch(vf_table *table, vf_node *node);
/* Take the descriptor of one of ours from it: to be closed, or -1. */
int vf_table_release(vf_table *table, vf_node *node);
/* The guest gives up references on one of ours; a descriptor to be closed, or -1. */
int vf_table_forget(vf_table *table, vf_node *node, uint64_t count);
/* It is Python's from now on, with its descriptor if it has one. */
void vf_table_adopt(vf_table *table, vf_node *node, vf_who *who);

/* Open files: files.c */

vf_file *vf_table_find_file(const vf_table *table, uint64_t fh, uint64_t nodeid);
void vf_table_file(vf_table *table, uint64_t fh, uint64_t nodeid, int descriptor, bool readable, bool writable);
/* A file of ours; NULL without memory. */
vf_file *vf_table_open(vf_table *table, uint64_t nodeid, int descriptor, uint32_t flags, bool directory);
/* It is closed; its descriptor if that is ours to close, or -1. */
int vf_table_drop_file(vf_table *table, vf_file *file);
/* It is Python's from now on. */
void vf_table_adopt_file(vf_table *table, vf_file *file);
void vf_table_free_listing(vf_table *table, vf_listing *listing);
/* Whether a file was written to here since this was asked last. */
bool vf_table_take_dirty(vf_table *table, int descriptor);

/* Descriptors: table.c */

/* A descriptor is about to be closed: nothing leads to it any more. False when a request uses it, which closes it. */
bool vf_table_close(vf_table *table, int descriptor);
/* False when a request uses it, the last of which closes it then. */
bool vf_table_may_close(vf_table *table, int descriptor);
/* Keep a descriptor open for a request, and let go of all of them at its end: how many of them are to be closed by the
 * caller, without the lock, for the last of a file may take long. */
void vf_table_use(vf_table *table, const void *call, int descriptor, bool doomed);
int vf_table_unuse(vf_table *table, const void *call, int doomed[VF_USED]);

#endif
