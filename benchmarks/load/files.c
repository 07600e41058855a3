/* Workloads about whole files: openrelease, create, fsync. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "workload.h"

static uint64_t node, handle;

static void forget_node(void)
{
    forget(node, 1);
}

/* openrelease: OPEN and RELEASE of one file. */

static void set_up_open(unsigned depth)
{
    (void)depth;
    node = look_up(FUSE_ROOT_ID, "small");
}

static void begin_open(struct request *request)
{
    request->step = 0;
    send_open(request, node, O_RDONLY);
}

static bool proceed_open(struct request *request)
{
    if (request->step++) {
        replied(request, 0);
        return false;
    }
    if (!replied(request, sizeof(struct fuse_open_out)))
        return false;
    send_release(request, node, ((const struct fuse_open_out *)request->answer)->fh, O_RDONLY);
    return true;
}

const struct workload open_workload = {
    "openrelease", NULL, {1, 32}, set_up_open, begin_open, proceed_open, NULL, forget_node,
};

/* create: what a guest sends for a new file of one byte that is removed again. */

enum { LOOK_EACH = 64 }; /* so often the host looks whether the file is there */

static uint64_t turn;

static void set_up_create(unsigned depth)
{
    (void)depth;
    node = look_up(FUSE_ROOT_ID, "scratch");
}

static const char *new_name(char name[NAME_ROOM], const struct request *request)
{
    snprintf(name, NAME_ROOM, "new-%u-%llu", request->head, (unsigned long long)request->turn);
    return name;
}

static void begin_create(struct request *request)
{
    char name[NAME_ROOM];
    request->step = 0;
    request->turn = turn++;
    send_create(request, node, new_name(name, request));
}

static void look_at_the_new_file(const struct request *request)
{
    char name[NAME_ROOM], path[2 * NAME_ROOM], byte = 0;
    struct stat status;
    snprintf(path, sizeof path, "scratch/%s", new_name(name, request));
    const int fd = openat(tree.root, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) || status.st_size != 1 || pread(fd, &byte, 1, 0) != 1 || byte != 'x')
        wrong("create: %s is not there, or not as it was written", path);
    else
        close(fd);
}

static bool write_byte(struct request *request)
{
    const struct fuse_entry_out *entry = entry_of(request);
    if (!replied(request, sizeof *entry + sizeof(struct fuse_open_out)))
        return false;
    if (!entry->nodeid || !S_ISREG(entry->attr.mode) || entry->attr.size)
        wrong("create: the new file is node %llu of %llu bytes", (unsigned long long)entry->nodeid,
              (unsigned long long)entry->attr.size);
    request->node = entry->nodeid;
    request->handle = ((const struct fuse_open_out *)(entry + 1))->fh;
    request->data[0] = 'x';
    send_write(request, request->node, request->handle, 0, 1);
    return true;
}

static bool proceed_create(struct request *request)
{
    char name[NAME_ROOM];
    switch (request->step++) {
    case 0:
        return write_byte(request);
    case 1:
        if (replied(request, sizeof(struct fuse_write_out)) &&
            ((const struct fuse_write_out *)request->answer)->size != 1)
            wrong("create: the byte was not written");
        send_flush(request, request->node, request->handle);
        return true;
    case 2:
        replied(request, 0);
        send_release(request, request->node, request->handle, O_RDWR);
        return true;
    case 3:
        replied(request, 0);
        if (request->turn % LOOK_EACH == 0)
            look_at_the_new_file(request);
        send_unlink(request, node, new_name(name, request));
        return true;
    case 4:
        replied(request, 0);
        send_forget(request, request->node, 1);
        return true;
    default:
        return false;
    }
}

static void tear_down_create(void)
{
    if (count_names("scratch"))
        wrong("create: files are left");
    forget_node();
}

const struct workload create_workload = {
    "create", NULL, {1, 8}, set_up_create, begin_create, proceed_create, NULL, tear_down_create,
};

/* fsync: FSYNC of an open file that has nothing to be written. */

static void set_up_fsync(unsigned depth)
{
    (void)depth;
    node = look_up(FUSE_ROOT_ID, "target");
    handle = open_file(node, O_RDWR);
}

static void begin_fsync(struct request *request)
{
    send_fsync(request, node, handle);
}

static bool end_fsync(struct request *request)
{
    replied(request, 0);
    return false;
}

static void tear_down_fsync(void)
{
    close_file(node, handle, O_RDWR);
    forget_node();
}

const struct workload fsync_workload = {
    "fsync", NULL, {1}, set_up_fsync, begin_fsync, end_fsync, NULL, tear_down_fsync,
};
