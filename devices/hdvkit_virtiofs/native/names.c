/* LOOKUP and what forgets, makes and removes names. See request.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "request.h"

#define PERMISSIONS 07777u
#define FORGETS_AT_ONCE 256 /* more of them are Python's, which lets others have their turn */

/* Finding and forgetting */

bool vf_lookup(vf_call *call) {
    char name[NAME_MOST + 2];
    uint64_t device;
    struct stat status;
    vf_born born;
    if (!vf_has_room(call, sizeof(vf_entry_out)) || !vf_message_and_name(call, NULL, 0, name))
        return false;
    int directory = vf_use_node(call, call->header.nodeid, S_IFDIR, &device);
    if (directory < 0)
        return false;
    if (vf_look(directory, name, 0, &status, &born))
        return errno == ENOENT && vf_refuse(call, ENOENT);
    if (S_ISDIR(status.st_mode) && status.st_dev != device)
        return false; /* where another file system begins, Python has more to say */
    uint64_t nodeid = vf_enter_known(call, &status, born);
    if (!nodeid)
        nodeid = vf_enter(call, directory, name, &status);
    vf_entry_out out = vf_entry(call, nodeid, &status);
    return nodeid && vf_reply(call, &out, sizeof out);
}

/* Give up references on nodes, if all of them are ours and none frees much with its descriptor: those without a name
 * may, unless they are `small`. */
static bool forget(vf_call *call, const vf_forget_one *forgets, uint32_t count, bool small) {
    vf_table *table = &call->share->table;
    int unused[FORGETS_AT_ONCE], closing = 0;
    bool all = true;
    pthread_mutex_lock(&call->share->lock);
    for (uint32_t at = 0; at < count && all; at++) {
        const vf_node *node = vf_table_find(table, forgets[at].nodeid);
        all = node && node->ours && (small || !node->nameless);
    }
    for (uint32_t at = 0; at < count && all; at++) {
        vf_node *node = vf_table_find(table, forgets[at].nodeid); /* NULL: it was named twice */
        int descriptor = node ? vf_table_forget(table, node, forgets[at].nlookup) : -1;
        if (descriptor >= 0)
            unused[closing++] = descriptor;
    }
    pthread_mutex_unlock(&call->share->lock);
    while (closing)
        close(unused[--closing]);
    return all;
}

/* Whether what was removed while the guest knew it is small enough to go here. */
static bool is_small(vf_call *call, uint64_t nodeid) {
    struct stat status;
    pthread_mutex_lock(&call->share->lock);
    const vf_node *node = vf_table_find(&call->share->table, nodeid);
    int descriptor = node && node->ours && node->nameless ? node->descriptor : -1;
    if (descriptor >= 0)
        vf_table_use(&call->share->table, call, descriptor, false);
    pthread_mutex_unlock(&call->share->lock);
    return descriptor >= 0 && !fstat(descriptor, &status) && !vf_frees_much(&status, 0);
}

bool vf_forget(vf_call *call) {
    vf_forget_in in;
    if (!vf_message(call, &in, sizeof in))
        return false;
    vf_forget_one one = {call->header.nodeid, in.nlookup};
    return forget(call, &one, 1, false) || (is_small(call, one.nodeid) && forget(call, &one, 1, true));
}

bool vf_batch_forget(vf_call *call) {
    vf_batch_forget_in in;
    vf_forget_one forgets[FORGETS_AT_ONCE];
    size_t before = sizeof call->header + sizeof in;
    if (call->header.len < before || hdv_chain_read(call->chain, sizeof call->header, &in, sizeof in) != sizeof in)
        return false;
    if (in.count > FORGETS_AT_ONCE || call->header.len != before + in.count * sizeof *forgets)
        return false;
    size_t size = in.count * sizeof *forgets;
    return hdv_chain_read(call->chain, before, forgets, size) == size && forget(call, forgets, in.count, false);
}

/* Making: for callers whom this process need not become, and with the mode that was asked for */

static bool may_make(const vf_call *call) {
    const vf_terms *terms = &call->terms;
    return terms->mount >= 0 && (terms->anybody || (terms->root && !call->header.uid && call->header.gid == terms->gid));
}

/* The thread's own umask, which takes nothing away: the guest's kernel has applied its caller's. */
static bool has_no_umask(void) {
    static _Thread_local bool done;
    if (!done && !unshare(CLONE_FS)) {
        umask(0);
        done = true;
    }
    return done;
}

/* A node of ours for a new file, or nothing is left of it. */
static uint64_t enter_made(vf_call *call, int directory, const char *name, int made, int undo, struct stat *status) {
    uint64_t nodeid = made >= 0 ? vf_enter_open(call, made, status) : vf_enter(call, directory, name, status);
    if (!nodeid)
        unlinkat(directory, name, undo);
    return nodeid;
}

bool vf_mkdir(vf_call *call) {
    vf_mkdir_in in;
    char name[NAME_MOST + 2];
    uint64_t device;
    struct stat status;
    if (!vf_has_room(call, sizeof(vf_entry_out)) || !vf_message_and_name(call, &in, sizeof in, name) || !may_make(call))
        return false;
    int directory = vf_use_node(call, call->header.nodeid, S_IFDIR, &device);
    if (directory < 0 || device != call->terms.device || !has_no_umask() ||
        mkdirat(directory, name, in.mode & PERMISSIONS))
        return false;
    uint64_t nodeid = enter_made(call, directory, name, -1, AT_REMOVEDIR, &status);
    vf_entry_out out = vf_entry(call, nodeid, &status);
    return nodeid && vf_reply(call, &out, sizeof out);
}

typedef struct {
    vf_entry_out entry;
    vf_open_out open;
} created;

bool vf_create(vf_call *call) {
    vf_create_in in;
    char name[NAME_MOST + 2];
    uint64_t device;
    struct stat status;
    if (!vf_has_room(call, sizeof(created)) || !vf_message_and_name(call, &in, sizeof in, name) || !may_make(call))
        return false;
    int access = (int)in.flags & O_ACCMODE;
    if (in.flags & (O_APPEND | O_SYNC | O_DSYNC) || access == O_ACCMODE || !vf_has_files_left(call))
        return false;
    int directory = vf_use_node(call, call->header.nodeid, S_IFDIR, &device);
    if (directory < 0 || device != call->terms.device || !has_no_umask())
        return false;
    int flags = access | O_CREAT | O_EXCL | O_NOFOLLOW | VF_QUIET;
    int made = openat(directory, name, flags, in.mode & PERMISSIONS);
    if (made < 0)
        return false;
    uint64_t nodeid = enter_made(call, directory, name, made, 0, &status);
    uint64_t fh = nodeid ? vf_number(call, nodeid, made, in.flags, false) : 0;
    if (!fh) {
        close(made);
        if (nodeid) {
            unlinkat(directory, name, 0);
            vf_share_forget(call->share, nodeid, 1); /* which has no descriptor */
        }
        return false;
    }
    created out = {vf_entry(call, nodeid, &status), {fh, call->terms.open_flags, 0}};
    return vf_reply(call, &out, sizeof out);
}

/* Removing: of what Python does not know, and what frees little */

/* Keep a descriptor of what is about to lose its last name, if the guest knows it. False: Python has a say. */
static bool keep(vf_call *call, const struct stat *status) {
    vf_table *table = &call->share->table;
    pthread_mutex_lock(&call->share->lock);
    const vf_node *node = vf_table_find_inode(table, status->st_dev, status->st_ino);
    bool known = node, ours = node && node->ours;
    uint64_t nodeid = ours ? node->nodeid : 0;
    pthread_mutex_unlock(&call->share->lock);
    if (!known || !ours || status->st_nlink > 1)
        return !known || ours;
    return vf_hold_node(call, nodeid);
}

bool vf_unlink(vf_call *call) {
    char name[NAME_MOST + 2];
    uint64_t device;
    struct stat status;
    if (!vf_has_room(call, 0) || !vf_message_and_name(call, NULL, 0, name))
        return false;
    int directory = vf_use_node(call, call->header.nodeid, S_IFDIR, &device);
    if (directory < 0 || fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW))
        return false;
    if (S_ISDIR(status.st_mode) || vf_frees_much(&status, 1))
        return false;
    if (!keep(call, &status) || unlinkat(directory, name, 0))
        return false;
    return vf_reply(call, NULL, 0);
}
