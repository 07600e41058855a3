/* One request, and what the requests have in common. Every function that answers one says whether it did; one that did
 * not has left no trace, and may have said that it would have to wait. */
#ifndef VIRTIOFS_REQUEST_H
#define VIRTIOFS_REQUEST_H

#include <sys/stat.h>

#include "share_internal.h"
#include "wire.h"

typedef struct {
    vf_share *share;
    vf_terms terms;
    const hdv_chain *chain;
    vf_in_header header;
    uint32_t written;
    bool patient; /* it may wait for the disk; */
    bool waits;   /* it would have to, and may not */
} vf_call;

/* Of every file that is opened: do not wait for a lease to break, take no terminal, leave nothing to children. */
#define VF_QUIET (O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

typedef bool vf_request(vf_call *call);

vf_request vf_lookup, vf_forget, vf_batch_forget, vf_create, vf_unlink, vf_mkdir; /* names.c */
vf_request vf_open, vf_opendir, vf_release, vf_releasedir, vf_flush;              /* opening.c */
vf_request vf_read, vf_write, vf_fsync, vf_fsyncdir;                              /* data.c */
vf_request vf_readdir, vf_readdirplus;                                            /* listing.c */

/* Messages: requests.c */

/* The request is this message and no more; false when it is not. */
bool vf_message(const vf_call *call, void *message, size_t size);
/* The same, with a name behind it: one component. */
bool vf_message_and_name(const vf_call *call, void *message, size_t size, char name[NAME_MOST + 2]);
bool vf_has_room(const vf_call *call, size_t payload);
bool vf_reply(vf_call *call, const void *payload, size_t size);
bool vf_refuse(vf_call *call, int code);
vf_attr vf_attributes(const struct stat *status);
/* Ask for the attributes of what stands under a name, or with AT_EMPTY_PATH of a descriptor itself, and when it was
 * made; 0 or -1 with errno. */
int vf_look(int directory, const char *name, int flags, struct stat *status, vf_born *born);
vf_entry_out vf_entry(const vf_call *call, uint64_t nodeid, const struct stat *status);

/* Nodes and files, kept open until the request is answered: using.c */

/* The O_PATH descriptor of a node, opened again if it is ours; of this type, or of any if that is 0. -1: decline. */
int vf_use_node(vf_call *call, uint64_t nodeid, uint32_t type, uint64_t *device);
/* The last name of a node is about to go: it keeps a descriptor. False: it has none, Python has a say. */
bool vf_hold_node(vf_call *call, uint64_t nodeid);
int vf_use_file(vf_call *call, uint64_t fh, bool to_write);
/* One that is a directory, or is not, however it was opened. */
int vf_use_any_file(vf_call *call, uint64_t fh, bool directory);
bool vf_knows_file(vf_call *call, uint64_t fh);
/* Whether one more may be opened here, and the number of one that was; 0 without memory. */
bool vf_has_files_left(vf_call *call);
uint64_t vf_number(vf_call *call, uint64_t nodeid, int descriptor, uint32_t flags, bool directory);
/* Open a file by its handle with flags of open(2), where it has one; or -1. */
int vf_open_node(vf_call *call, uint64_t nodeid, uint32_t type, int flags);
/* One more reference on a file that the guest knows, as vf_look has told of it: its number, or 0. */
uint64_t vf_enter_known(vf_call *call, const struct stat *status, vf_born born);
/* One more reference on what stands under a name: its number, or 0 where Python has a say. Tells its attributes. */
uint64_t vf_enter(vf_call *call, int directory, const char *name, struct stat *status);
/* The same of what is open. */
uint64_t vf_enter_open(vf_call *call, int descriptor, struct stat *status);
/* Whether a file goes with its last descriptor, and so much of the disk that it takes long. */
bool vf_frees_much(const struct stat *status, nlink_t names);

#endif
