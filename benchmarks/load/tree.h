/* The shared directory as the host sees it, and what must be found in it. */
#ifndef TREE_H
#define TREE_H

#include <sys/stat.h>

#include "common.h"

enum { NAME_ROOM = 32 };

/* So much of target gets small writes at random. All over a file they measure how the host's file system finds pages:
 * ext4 looks at hundreds of buffers for each write to a large folio, and they are in no cache then. */
#define WINDOW (4ull * MIB)

/* small: a file. data: words by `pattern`. target: to write to. entries/: many names. scratch/: empty between runs. */
extern struct tree {
    int root;         /* a descriptor */
    unsigned entries; /* how many files lie in entries/ */
    uint64_t size;    /* of data, whole MiB */
    uint64_t target_size;
    struct stat small;
} tree;

/* Make it in an empty directory. Its files are in the page cache then. */
void tree_make(const char *directory, unsigned entries, unsigned mib);

/* Look at a directory that was made with these numbers. */
void tree_open(const char *directory, unsigned entries, unsigned mib);

/* Write the first bytes of target on the host, so that their pages are dirty, for making them so costs more than a
 * request; and have them on the disk, so that writing them back is not measured with what comes next. */
void dirty_target(uint64_t size);
void clean_target(void);

/* Open something below it on the host. */
int tree_file(const char *path, int flags);

/* Name, size and inode of a file in entries/. */
const char *entry_name(char name[NAME_ROOM], unsigned entry);
uint64_t entry_size(unsigned entry);
uint64_t entry_inode(unsigned entry);

/* Which entry has this name, or -1. */
int entry_called(const char *name, size_t length);

/* The 64-bit word number `word` of data. */
uint64_t pattern(uint64_t word);

/* Whether these are the bytes of data at `offset`, a whole number of words. */
bool is_pattern(const void *bytes, size_t size, uint64_t offset);

/* How many names a directory has, without `.` and `..`. */
unsigned count_names(const char *path);

#endif
