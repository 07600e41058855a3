#define _GNU_SOURCE
#include "tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SMALL = PAGE, PART = 4 }; /* target is a quarter of data, for it is written to and not only read */

struct tree tree;
static uint64_t *inodes;

uint64_t pattern(uint64_t word)
{
    return scramble(~word);
}

bool is_pattern(const void *bytes, size_t size, uint64_t offset)
{
    const uint64_t *words = bytes;
    for (size_t word = 0; word < size / sizeof *words; word++)
        if (words[word] != pattern(offset / sizeof *words + word))
            return false;
    return true;
}

const char *entry_name(char name[NAME_ROOM], unsigned entry)
{
    snprintf(name, NAME_ROOM, "entry-%06u", entry);
    return name;
}

uint64_t entry_size(unsigned entry)
{
    return entry % 5;
}

uint64_t entry_inode(unsigned entry)
{
    return inodes[entry];
}

int entry_called(const char *name, size_t length)
{
    char copy[NAME_ROOM], again[NAME_ROOM];
    if (length >= sizeof copy)
        return -1;
    memcpy(copy, name, length);
    copy[length] = 0;
    unsigned entry;
    if (sscanf(copy, "entry-%u", &entry) != 1 || entry >= tree.entries || strcmp(copy, entry_name(again, entry)))
        return -1;
    return (int)entry;
}

int tree_file(const char *path, int flags)
{
    const int fd = openat(tree.root, path, flags | O_CLOEXEC, 0644);
    if (fd < 0)
        fail("%s: %s", path, strerror(errno));
    return fd;
}

unsigned count_names(const char *path)
{
    DIR *directory = fdopendir(tree_file(path, O_RDONLY | O_DIRECTORY));
    unsigned names = 0;
    while (directory && readdir(directory))
        names++;
    closedir(directory);
    return names - 2;
}

static void set_numbers(const char *directory, unsigned entries, unsigned mib)
{
    tree.root = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (tree.root < 0)
        fail("%s: %s", directory, strerror(errno));
    tree.entries = entries;
    tree.size = (uint64_t)mib * MIB;
    tree.target_size = tree.size / PART;
}

static void write_pattern(int fd, uint64_t size)
{
    static uint64_t block[MIB / sizeof(uint64_t)];
    for (uint64_t done = 0; done < size; done += sizeof block) {
        const size_t part = size - done < sizeof block ? size - done : sizeof block;
        for (size_t word = 0; word < sizeof block / sizeof *block; word++)
            block[word] = pattern(done / sizeof *block + word);
        if (write(fd, block, part) != (ssize_t)part)
            fail("the directory takes no files: %s", strerror(errno));
    }
}

void dirty_target(uint64_t size)
{
    const int fd = tree_file("target", O_WRONLY);
    write_pattern(fd, size);
    close(fd);
}

void clean_target(void)
{
    const int fd = tree_file("target", O_WRONLY);
    if (fsync(fd) || close(fd))
        fail("the target cannot be written: %s", strerror(errno));
}

static void make_file(const char *path, uint64_t size)
{
    const int fd = tree_file(path, O_WRONLY | O_CREAT | O_TRUNC);
    write_pattern(fd, size);
    /* Nothing of this is to be written back while something is measured. */
    if (fsync(fd) || close(fd))
        fail("%s: %s", path, strerror(errno));
}

void tree_make(const char *directory, unsigned entries, unsigned mib)
{
    char name[NAME_ROOM], path[2 * NAME_ROOM];
    set_numbers(directory, entries, mib);
    make_file("small", SMALL);
    make_file("data", tree.size);
    make_file("target", tree.target_size);
    if ((mkdirat(tree.root, "entries", 0755) || mkdirat(tree.root, "scratch", 0755)) && errno != EEXIST)
        fail("%s: %s", directory, strerror(errno));
    for (unsigned entry = 0; entry < entries; entry++) {
        snprintf(path, sizeof path, "entries/%s", entry_name(name, entry));
        make_file(path, entry_size(entry));
    }
}

static void need_file(const char *path, uint64_t size, struct stat *status)
{
    if (fstatat(tree.root, path, status, 0) || (uint64_t)status->st_size != size)
        fail("%s is not as it was made: use --prepare in an empty directory", path);
}

void tree_open(const char *directory, unsigned entries, unsigned mib)
{
    char name[NAME_ROOM], path[2 * NAME_ROOM];
    struct stat status;
    set_numbers(directory, entries, mib);
    need_file("small", SMALL, &tree.small);
    need_file("data", tree.size, &status);
    need_file("target", tree.target_size, &status);
    inodes = calloc(entries, sizeof *inodes);
    for (unsigned entry = 0; entry < entries; entry++) {
        snprintf(path, sizeof path, "entries/%s", entry_name(name, entry));
        need_file(path, entry_size(entry), &status);
        inodes[entry] = status.st_ino;
    }
    if (count_names("entries") != entries || count_names("scratch"))
        fail("there are other files than were made: use --prepare in an empty directory");
}
