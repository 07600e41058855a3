/* What of FUSE's messages is read and written here; names are those of <linux/fuse.h>, all numbers little-endian. */
#ifndef VIRTIOFS_WIRE_H
#define VIRTIOFS_WIRE_H

#include <stdint.h>

enum {
    FUSE_LOOKUP = 1,
    FUSE_FORGET = 2,
    FUSE_GETATTR = 3,
    FUSE_MKDIR = 9,
    FUSE_UNLINK = 10,
    FUSE_OPEN = 14,
    FUSE_READ = 15,
    FUSE_WRITE = 16,
    FUSE_STATFS = 17,
    FUSE_RELEASE = 18,
    FUSE_FSYNC = 20,
    FUSE_GETXATTR = 22,
    FUSE_FLUSH = 25,
    FUSE_OPENDIR = 27,
    FUSE_READDIR = 28,
    FUSE_RELEASEDIR = 29,
    FUSE_FSYNCDIR = 30,
    FUSE_CREATE = 35,
    FUSE_BATCH_FORGET = 42,
    FUSE_READDIRPLUS = 44,
};

#define FUSE_ROOT_ID 1u
#define FUSE_GETATTR_FH 1u
#define FUSE_WRITE_KILL_SUIDGID 4u
#define FUSE_OPEN_KILL_SUIDGID 1u
#define FUSE_RELEASE_FLOCK_UNLOCK 2u
#define FUSE_FSYNC_FDATASYNC 1u
#define NAME_MOST 255

typedef struct {
    uint32_t len;
    uint32_t opcode;
    uint64_t unique;
    uint64_t nodeid;
    uint32_t uid;
    uint32_t gid;
    uint32_t pid;
    uint16_t total_extlen;
    uint16_t padding;
} vf_in_header;

typedef struct {
    uint32_t len;
    int32_t error;
    uint64_t unique;
} vf_out_header;

typedef struct {
    uint32_t getattr_flags;
    uint32_t dummy;
    uint64_t fh;
} vf_getattr_in;

/* READ and WRITE alike. */
typedef struct {
    uint64_t fh;
    uint64_t offset;
    uint32_t size;
    uint32_t flags; /* read_flags, write_flags */
    uint64_t lock_owner;
    uint32_t open_flags;
    uint32_t padding;
} vf_io_in;

typedef struct {
    uint32_t size;
    uint32_t padding;
} vf_write_out;

typedef struct {
    uint32_t size;
    uint32_t padding;
} vf_getxattr_in;

typedef struct {
    uint64_t fh;
    uint32_t fsync_flags;
    uint32_t padding;
} vf_fsync_in;

typedef struct {
    uint64_t nlookup;
} vf_forget_in;

typedef struct {
    uint32_t count;
    uint32_t dummy;
} vf_batch_forget_in;

typedef struct {
    uint64_t nodeid;
    uint64_t nlookup;
} vf_forget_one;

/* OPEN and OPENDIR alike. */
typedef struct {
    uint32_t flags;
    uint32_t open_flags;
} vf_open_in;

typedef struct {
    uint64_t fh;
    uint32_t open_flags;
    uint32_t padding;
} vf_open_out;

/* RELEASE and RELEASEDIR alike. */
typedef struct {
    uint64_t fh;
    uint32_t flags;
    uint32_t release_flags;
    uint64_t lock_owner;
} vf_release_in;

typedef struct {
    uint64_t fh;
    uint32_t unused;
    uint32_t padding;
    uint64_t lock_owner;
} vf_flush_in;

typedef struct {
    uint32_t flags;
    uint32_t mode;
    uint32_t umask;
    uint32_t open_flags;
} vf_create_in;

typedef struct {
    uint32_t mode;
    uint32_t umask;
} vf_mkdir_in;

/* Followed by the name, and zeros up to a multiple of eight bytes. */
typedef struct {
    uint64_t ino;
    uint64_t off;
    uint32_t namelen;
    uint32_t type;
} vf_dirent;

typedef struct {
    uint64_t ino;
    uint64_t size;
    uint64_t blocks;
    uint64_t atime;
    uint64_t mtime;
    uint64_t ctime;
    uint32_t atimensec;
    uint32_t mtimensec;
    uint32_t ctimensec;
    uint32_t mode;
    uint32_t nlink;
    uint32_t uid;
    uint32_t gid;
    uint32_t rdev;
    uint32_t blksize;
    uint32_t flags;
} vf_attr;

typedef struct {
    uint64_t attr_valid;
    uint32_t attr_valid_nsec;
    uint32_t dummy;
    vf_attr attr;
} vf_attr_out;

typedef struct {
    uint64_t nodeid;
    uint64_t generation;
    uint64_t entry_valid;
    uint64_t attr_valid;
    uint32_t entry_valid_nsec;
    uint32_t attr_valid_nsec;
    vf_attr attr;
} vf_entry_out;

typedef struct {
    uint64_t blocks;
    uint64_t bfree;
    uint64_t bavail;
    uint64_t files;
    uint64_t ffree;
    uint32_t bsize;
    uint32_t namelen;
    uint32_t frsize;
    uint32_t padding;
    uint32_t spare[6];
} vf_kstatfs;

_Static_assert(sizeof(vf_in_header) == 40, "fuse_in_header");
_Static_assert(sizeof(vf_out_header) == 16, "fuse_out_header");
_Static_assert(sizeof(vf_getattr_in) == 16, "fuse_getattr_in");
_Static_assert(sizeof(vf_io_in) == 40, "fuse_read_in, fuse_write_in");
_Static_assert(sizeof(vf_attr) == 88, "fuse_attr");
_Static_assert(sizeof(vf_attr_out) == 104, "fuse_attr_out");
_Static_assert(sizeof(vf_entry_out) == 128, "fuse_entry_out");
_Static_assert(sizeof(vf_open_out) == 16, "fuse_open_out");
_Static_assert(sizeof(vf_release_in) == 24, "fuse_release_in");
_Static_assert(sizeof(vf_flush_in) == 24, "fuse_flush_in");
_Static_assert(sizeof(vf_create_in) == 16, "fuse_create_in");
_Static_assert(sizeof(vf_dirent) == 24, "fuse_dirent");
_Static_assert(sizeof(vf_kstatfs) == 80, "fuse_kstatfs");

#endif
