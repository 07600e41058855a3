#include "fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define MINOR 38 /* what Linux 6.2 speaks */

/* What Linux offers, but for extensions of requests that make new files. */
#define OFFERED                                                                                                      \
    (FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_ATOMIC_O_TRUNC | FUSE_EXPORT_SUPPORT | FUSE_BIG_WRITES |              \
     FUSE_DONT_MASK | FUSE_SPLICE_WRITE | FUSE_SPLICE_MOVE | FUSE_SPLICE_READ | FUSE_FLOCK_LOCKS |                   \
     FUSE_HAS_IOCTL_DIR | FUSE_AUTO_INVAL_DATA | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO |      \
     FUSE_WRITEBACK_CACHE | FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV | FUSE_POSIX_ACL | FUSE_ABORT_ERROR |        \
     FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS | FUSE_EXPLICIT_INVAL_DATA | FUSE_SUBMOUNTS | FUSE_HANDLE_KILLPRIV_V2 |    \
     FUSE_SETXATTR_EXT | FUSE_INIT_EXT)

/* Put arguments in place; they go no further than their type says. */
#define ARGUMENT(request, type, ...)                                                                                 \
    (*(struct type *)(request)->arguments = (struct type){__VA_ARGS__}, (uint32_t)sizeof(struct type))

static uint32_t put_name(struct request *request, uint32_t behind, const char *name)
{
    const size_t size = strlen(name) + 1;
    if (behind + size > ARGUMENTS)
        fail("the name %s is too long", name);
    memcpy(request->arguments + behind, name, size);
    return behind + (uint32_t)size;
}

void send_getattr(struct request *request, uint64_t node)
{
    const uint32_t size = ARGUMENT(request, fuse_getattr_in, 0);
    driver_send(request, FUSE_GETATTR, node, (struct sizes){.arguments = size, .answer = sizeof(struct fuse_attr_out)});
}

void send_lookup(struct request *request, uint64_t parent, const char *name)
{
    const uint32_t size = put_name(request, 0, name);
    driver_send(request, FUSE_LOOKUP, parent,
                (struct sizes){.arguments = size, .answer = sizeof(struct fuse_entry_out)});
}

void send_forget(struct request *request, uint64_t node, uint64_t lookups)
{
    const uint32_t size = ARGUMENT(request, fuse_forget_in, .nlookup = lookups);
    driver_send(request, FUSE_FORGET, node, (struct sizes){.arguments = size, .silent = true});
}

static void send_any_open(struct request *request, uint32_t opcode, uint64_t node, uint32_t flags)
{
    const uint32_t size = ARGUMENT(request, fuse_open_in, .flags = flags);
    driver_send(request, opcode, node, (struct sizes){.arguments = size, .answer = sizeof(struct fuse_open_out)});
}

void send_open(struct request *request, uint64_t node, uint32_t flags)
{
    send_any_open(request, FUSE_OPEN, node, flags);
}

void send_opendir(struct request *request, uint64_t node)
{
    send_any_open(request, FUSE_OPENDIR, node, O_RDONLY | O_DIRECTORY);
}

static void send_any_release(struct request *request, uint32_t opcode, uint64_t node, uint64_t handle, uint32_t flags)
{
    const uint32_t size = ARGUMENT(request, fuse_release_in, .fh = handle, .flags = flags);
    driver_send(request, opcode, node, (struct sizes){.arguments = size});
}

void send_release(struct request *request, uint64_t node, uint64_t handle, uint32_t flags)
{
    send_any_release(request, FUSE_RELEASE, node, handle, flags);
}

void send_releasedir(struct request *request, uint64_t node, uint64_t handle)
{
    send_any_release(request, FUSE_RELEASEDIR, node, handle, O_RDONLY | O_DIRECTORY);
}

static void send_any_read(struct request *request, uint32_t opcode, uint64_t node, struct fuse_read_in in)
{
    *(struct fuse_read_in *)request->arguments = in;
    driver_send(request, opcode, node, (struct sizes){.arguments = sizeof in, .data_in = in.size});
}

void send_readdir(struct request *request, uint64_t node, uint64_t handle, uint64_t offset, bool plus)
{
    const struct fuse_read_in in = {.fh = handle, .offset = offset, .size = PAGE}; /* what Linux asks for */
    send_any_read(request, plus ? FUSE_READDIRPLUS : FUSE_READDIR, node, in);
}

void send_read(struct request *request, uint64_t node, uint64_t handle, uint64_t offset, uint32_t size)
{
    send_any_read(request, FUSE_READ, node, (struct fuse_read_in){.fh = handle, .offset = offset, .size = size});
}

void send_write(struct request *request, uint64_t node, uint64_t handle, uint64_t offset, uint32_t size)
{
    const uint32_t arguments =
        ARGUMENT(request, fuse_write_in, .fh = handle, .offset = offset, .size = size, .flags = O_RDWR);
    driver_send(request, FUSE_WRITE, node,
                (struct sizes){.arguments = arguments, .data_out = size, .answer = sizeof(struct fuse_write_out)});
}

void send_create(struct request *request, uint64_t parent, const char *name)
{
    uint32_t size =
        ARGUMENT(request, fuse_create_in, .flags = O_CREAT | O_EXCL | O_RDWR, .mode = 0100644, .umask = 022);
    size = put_name(request, size, name);
    driver_send(request, FUSE_CREATE, parent,
                (struct sizes){.arguments = size,
                               .answer = sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out)});
}

void send_flush(struct request *request, uint64_t node, uint64_t handle)
{
    const uint32_t size = ARGUMENT(request, fuse_flush_in, .fh = handle);
    driver_send(request, FUSE_FLUSH, node, (struct sizes){.arguments = size});
}

void send_unlink(struct request *request, uint64_t parent, const char *name)
{
    driver_send(request, FUSE_UNLINK, parent, (struct sizes){.arguments = put_name(request, 0, name)});
}

void send_statfs(struct request *request)
{
    driver_send(request, FUSE_STATFS, FUSE_ROOT_ID, (struct sizes){.answer = sizeof(struct fuse_statfs_out)});
}

void send_fsync(struct request *request, uint64_t node, uint64_t handle)
{
    const uint32_t size = ARGUMENT(request, fuse_fsync_in, .fh = handle);
    driver_send(request, FUSE_FSYNC, node, (struct sizes){.arguments = size});
}

int reply_error(const struct request *request)
{
    /* Linux checks the same in virtio_fs_verify_response(). */
    if (request->out->unique != request->in->unique || request->out->len != request->written ||
        request->out->len < sizeof *request->out || request->out->error > 0) {
        wrong("opcode %u: a reply of %u bytes, %u of them in the ring, to request %llu instead of %llu",
              request->in->opcode, request->out->len, request->written, (unsigned long long)request->out->unique,
              (unsigned long long)request->in->unique);
        return -1;
    }
    return -request->out->error;
}

static bool good(const struct request *request)
{
    const int error = reply_error(request);
    if (error > 0)
        wrong("opcode %u of node %llu: %s", request->in->opcode, (unsigned long long)request->in->nodeid,
              strerror(error));
    return !error;
}

bool replied(const struct request *request, size_t answer)
{
    if (!good(request))
        return false;
    if (request->out->len == sizeof *request->out + answer)
        return true;
    wrong("opcode %u: an answer of %zu bytes instead of %zu", request->in->opcode,
          request->out->len - sizeof *request->out, answer);
    return false;
}

long replied_data(const struct request *request, uint32_t most)
{
    if (!good(request))
        return -1;
    const long size = (long)(request->out->len - sizeof *request->out);
    if (size <= (long)most)
        return size;
    wrong("opcode %u: %ld bytes where %u were asked for", request->in->opcode, size, most);
    return -1;
}

/* Wait for the request aside; without a good reply there is nothing to measure. */
static struct request *need(const char *what, size_t answer)
{
    struct request *request = driver_aside();
    driver_finish(request);
    if (!replied(request, answer))
        fail("%s does not work", what);
    return request;
}

void mount_file_system(void)
{
    struct request *request = driver_aside();
    const uint32_t size = ARGUMENT(request, fuse_init_in, .major = FUSE_KERNEL_VERSION, .minor = MINOR,
                                   .max_readahead = 128 * 1024, .flags = OFFERED);
    driver_send(request, FUSE_INIT, 0, (struct sizes){.arguments = size, .answer = sizeof(struct fuse_init_out)});
    const struct fuse_init_out *agreed =
        (const struct fuse_init_out *)need("INIT", sizeof(struct fuse_init_out))->answer;
    if (agreed->max_write < MOST_DATA || agreed->max_pages < MOST_DATA / PAGE)
        fail("the device takes no more than %u bytes and %u pages in a request", agreed->max_write, agreed->max_pages);
}

void unmount_file_system(void)
{
    struct request *request = driver_aside();
    driver_send(request, FUSE_DESTROY, 0, (struct sizes){0});
    driver_finish(request); /* virtiofsd leaves it unanswered, and Linux does not look */
}

uint64_t look_up(uint64_t parent, const char *name)
{
    send_lookup(driver_aside(), parent, name);
    const uint64_t node = entry_of(need(name, sizeof(struct fuse_entry_out)))->nodeid;
    if (!node)
        fail("the device does not share %s: is it the same directory?", name);
    return node;
}

void forget(uint64_t node, uint64_t lookups)
{
    send_forget(driver_aside(), node, lookups);
    driver_finish(driver_aside());
}

uint64_t open_file(uint64_t node, uint32_t flags)
{
    send_open(driver_aside(), node, flags);
    return ((const struct fuse_open_out *)need("OPEN", sizeof(struct fuse_open_out))->answer)->fh;
}

void close_file(uint64_t node, uint64_t handle, uint32_t flags)
{
    send_release(driver_aside(), node, handle, flags);
    need("RELEASE", 0);
}
