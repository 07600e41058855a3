/* READDIR and READDIRPLUS: names as the host's file system lists them, counted. See request.h.
 *
 * What was read of a directory is kept until it is listed from the beginning again, so that each name comes once
 * whatever changes meanwhile. A directory that was opened here is listed here to its end, for Python has read nothing of
 * it: what goes wrong is an error, and what Python has a say in is a name without a node, which the guest looks up. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "request.h"

#define LISTING_SIZE (32 * 1024)  /* most bytes of one answer, and of what is read at once */
#define LISTED_MOST (128u << 20)  /* bytes of names that one guest makes us keep */

/* What getdents64(2) gives. */
typedef struct {
    uint64_t ino;
    uint64_t off;
    uint16_t reclen;
    uint8_t type;
    char name[];
} host_dirent;

typedef struct {
    vf_call *call;
    int descriptor;
    bool plus;
    size_t size; /* room */
    size_t used;
    uint8_t bytes[LISTING_SIZE];
} answer;

/* The directory's descriptor, and what was read of it: nobody else has that until it is given back. */
static int take(vf_call *call, uint64_t fh, vf_listing *listing) {
    pthread_mutex_lock(&call->share->lock);
    vf_file *file = vf_table_find_file(&call->share->table, fh, call->header.nodeid);
    int descriptor = file && file->directory ? file->descriptor : -1;
    if (descriptor >= 0) {
        *listing = file->listing;
        file->listing = (vf_listing){0};
        vf_table_use(&call->share->table, call, descriptor, false);
    }
    pthread_mutex_unlock(&call->share->lock);
    return descriptor;
}

static void give_back(vf_call *call, uint64_t fh, vf_listing *listing) {
    pthread_mutex_lock(&call->share->lock);
    vf_file *file = vf_table_find_file(&call->share->table, fh, call->header.nodeid);
    if (file)
        file->listing = *listing;
    else
        vf_table_free_listing(&call->share->table, listing);
    pthread_mutex_unlock(&call->share->lock);
}

/* Make room for more names, within what all listings may take; false with errno. */
static bool grow(vf_call *call, vf_listing *listing) {
    size_t size = listing->size ? 2 * listing->size : LISTING_SIZE;
    pthread_mutex_lock(&call->share->lock);
    bool may = call->share->table.listed + (size - listing->size) <= LISTED_MOST;
    if (may)
        call->share->table.listed += size - listing->size;
    pthread_mutex_unlock(&call->share->lock);
    uint8_t *bytes = may ? realloc(listing->bytes, size) : NULL;
    if (bytes) {
        listing->bytes = bytes;
        listing->size = size;
        return true;
    }
    if (may) {
        pthread_mutex_lock(&call->share->lock);
        call->share->table.listed -= size - listing->size;
        pthread_mutex_unlock(&call->share->lock);
    }
    errno = ENOMEM;
    return false;
}

/* Read on; false at the end of the directory, or with errno where that is not it. */
static bool read_names(answer *to, vf_listing *listing) {
    errno = 0;
    if (listing->complete || (listing->size - listing->end < LISTING_SIZE && !grow(to->call, listing)))
        return false;
    long got = syscall(SYS_getdents64, to->descriptor, listing->bytes + listing->end, LISTING_SIZE);
    listing->complete = !got;
    listing->end += got > 0 ? (size_t)got : 0;
    return got > 0;
}

/* The next name; NULL at the end, or with errno where that is not it. */
static const host_dirent *next(answer *to, vf_listing *listing) {
    errno = 0;
    if (listing->at == listing->end && !read_names(to, listing))
        return NULL;
    return (const host_dirent *)(const void *)(listing->bytes + listing->at);
}

static void pass(vf_listing *listing, const host_dirent *entry) {
    listing->at += entry->reclen;
    listing->place++;
}

/* Be at a place: at the beginning, where everything is read anew, or behind so many names. */
static bool go_to(answer *to, vf_listing *listing, uint64_t place) {
    if (place && place == listing->place)
        return true;
    listing->at = 0;
    listing->place = 0;
    if (!place) {
        listing->end = 0;
        listing->complete = false;
        return lseek(to->descriptor, 0, SEEK_SET) >= 0;
    }
    errno = 0;
    for (const host_dirent *entry; listing->place < place && (entry = next(to, listing));)
        pass(listing, entry);
    return listing->place == place || !errno; /* else nobody was given that place */
}

/* Whether the guest knows a file with this inode number. */
static bool may_be_known(const answer *to, uint64_t inode) {
    pthread_mutex_lock(&to->call->share->lock);
    bool known = vf_table_find_inode(&to->call->share->table, to->call->terms.device, inode);
    pthread_mutex_unlock(&to->call->share->lock);
    return known;
}

static vf_entry_out entry_of(const answer *to, const host_dirent *entry) {
    struct stat status;
    vf_born born;
    uint64_t nodeid = 0;
    if (!strcmp(entry->name, ".") || !strcmp(entry->name, ".."))
        return (vf_entry_out){0};
    if (may_be_known(to, entry->ino) && !vf_look(to->descriptor, entry->name, 0, &status, &born))
        nodeid = status.st_dev == to->call->terms.device ? vf_enter_known(to->call, &status, born) : 0;
    if (!nodeid)
        nodeid = vf_enter(to->call, to->descriptor, entry->name, &status);
    return nodeid ? vf_entry(to->call, nodeid, &status) : (vf_entry_out){0};
}

/* Add a name, and the place behind it; false when there is no room for it. */
static bool add(answer *to, const host_dirent *entry, uint64_t place) {
    size_t length = strlen(entry->name);
    size_t head = (to->plus ? sizeof(vf_entry_out) : 0) + sizeof(vf_dirent);
    size_t all = (head + length + 7) & ~(size_t)7;
    if (all > to->size - to->used)
        return false;
    uint8_t *at = to->bytes + to->used;
    memset(at + all - 8, 0, 8);
    if (to->plus) {
        vf_entry_out out = entry_of(to, entry);
        memcpy(at, &out, sizeof out);
    }
    /* The parent of the root lies outside the share and is none of the guest's business. */
    bool above = to->call->header.nodeid == FUSE_ROOT_ID && !strcmp(entry->name, "..");
    vf_dirent out = {above ? to->call->terms.inode : entry->ino, place, (uint32_t)length, entry->type};
    memcpy(at + head - sizeof out, &out, sizeof out);
    memcpy(at + head, entry->name, length);
    to->used += all;
    return true;
}

/* Fill the answer; 0 or an errno. */
static int fill(answer *to, vf_listing *listing, uint64_t place) {
    if (!go_to(to, listing, place))
        return errno;
    if (place != listing->place)
        return 0;
    for (const host_dirent *entry; (entry = next(to, listing));) {
        if (!add(to, entry, listing->place + 1))
            return to->used ? 0 : EINVAL;
        pass(listing, entry);
    }
    return to->used ? 0 : errno;
}

static bool list(vf_call *call, bool plus) {
    vf_io_in in;
    vf_listing listing;
    if (!vf_message(call, &in, sizeof in) || !vf_has_room(call, 0))
        return false;
    uint64_t room = call->chain->writable_size - sizeof(vf_out_header);
    uint64_t size = in.size < room ? in.size : room;
    answer to; /* large: only what is read is set */
    to.call = call;
    to.plus = plus;
    to.size = size < LISTING_SIZE ? size : LISTING_SIZE;
    to.used = 0;
    to.descriptor = take(call, in.fh, &listing);
    if (to.descriptor < 0)
        return false;
    int error = fill(&to, &listing, in.offset);
    give_back(call, in.fh, &listing);
    return error ? vf_refuse(call, error) : vf_reply(call, to.bytes, to.used);
}

bool vf_readdir(vf_call *call) {
    return list(call, false);
}

bool vf_readdirplus(vf_call *call) {
    return list(call, true);
}
