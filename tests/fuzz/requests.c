/* FUSE requests of any bytes, in pieces of any size, at a share of real files: C answers, or declines, and touches
 * nothing else. A canary beside the share is looked at in the end. Runs in a folder of its own. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../devices/hdvkit_virtiofs/native/share.h"
#include "../../devices/hdvkit_virtiofs/native/wire.h"
#include "helpers.h"
#include "random.h"

#define KNOWN 256
#define LARGEST 8192
#define ANSWER 70000
#define LENT 32

static const uint32_t OPCODES[] = {1, 2, 3, 9, 10, 14, 15, 16, 17, 18, 20, 22, 25, 27, 28, 29, 30, 35, 42, 44};
static const char *const NAMES[] = {"file", "directory", "link", "fifo", "new", "made", "..", ".", "a/b", "", "nothing"};
static uint64_t nodes[KNOWN] = {1}, handles[KNOWN];
static size_t node_count = 1, handle_count;
static unsigned long long answered, declined;

static uint64_t a_node(void) {
    if (fuzz_one_in(20))
        return fuzz_next() >> fuzz_below(64);
    return nodes[fuzz_one_in(2) ? 0 : fuzz_below(node_count)];
}

static uint64_t a_handle(void) {
    return !handle_count || fuzz_one_in(10) ? fuzz_next() >> fuzz_below(64) : handles[fuzz_below(handle_count)];
}

static size_t add_name(uint8_t *to) {
    char long_name[300];
    const char *name = NAMES[fuzz_below(sizeof NAMES / sizeof *NAMES)];
    if (fuzz_one_in(2)) {
        snprintf(long_name, sizeof long_name, "n%d", (int)fuzz_below(40));
        name = long_name;
    } else if (fuzz_one_in(10)) {
        memset(long_name, 'n', sizeof long_name);
        long_name[fuzz_below(sizeof long_name)] = 0;
        long_name[sizeof long_name - 1] = 0;
        name = long_name;
    }
    size_t size = strlen(name) + 1;
    memcpy(to, name, size);
    return size - (size_t)fuzz_one_in(20);
}

/* A body as the opcode has it, more or less. */
static size_t a_body(uint32_t opcode, uint8_t *to) {
    static const uint64_t OFFSETS[] = {0, 1, 7, 100, INT64_MAX, UINT64_MAX, UINT64_C(1) << 63};
    switch (opcode) {
    case FUSE_LOOKUP:
    case FUSE_UNLINK:
        return add_name(to);
    case FUSE_MKDIR:
        memcpy(to, &(vf_mkdir_in){(uint32_t)fuzz_below(01000), 0}, 8);
        return 8 + add_name(to + 8);
    case FUSE_GETXATTR:
        memcpy(to, &(vf_getxattr_in){(uint32_t)fuzz_below(fuzz_one_in(8) ? 100000 : 300), 0}, 8);
        if (fuzz_one_in(4))
            return 8 + add_name(to + 8);
        memcpy(to + 8, "security.capability", 20);
        return 28;
    case FUSE_CREATE:
        memcpy(to, &(vf_create_in){(uint32_t)(fuzz_one_in(8) ? fuzz_next() : 0102), (uint32_t)fuzz_below(01000), 0, 0}, 16);
        return 16 + add_name(to + 16);
    case FUSE_BATCH_FORGET: {
        uint32_t count = (uint32_t)fuzz_below(fuzz_one_in(8) ? 300 : 6);
        memcpy(to, &(vf_batch_forget_in){fuzz_one_in(10) ? (uint32_t)fuzz_next() : count, 0}, 8);
        for (uint32_t at = 0; at < count; at++)
            memcpy(to + 8 + 16 * at, &(vf_forget_one){a_node(), fuzz_below(3)}, 16);
        return 8 + 16 * count;
    }
    default: {
        /* Handles come first, or flags do. */
        vf_io_in in = {a_handle(), OFFSETS[fuzz_below(7)], (uint32_t)fuzz_below(6000), 0, 0, 0, 0};
        static const size_t SIZES[] = {[FUSE_FORGET] = 8, [FUSE_GETATTR] = 16, [FUSE_OPEN] = 8, [FUSE_READ] = 40,
                                       [FUSE_WRITE] = 40, [FUSE_STATFS] = 0, [FUSE_RELEASE] = 24, [FUSE_FLUSH] = 24,
                                       [FUSE_OPENDIR] = 8, [FUSE_READDIR] = 40, [FUSE_RELEASEDIR] = 24,
                                       [FUSE_READDIRPLUS] = 40,  [FUSE_FSYNC] = 16,    [FUSE_FSYNCDIR] = 16};
        if (opcode == FUSE_OPEN || opcode == FUSE_OPENDIR || opcode == FUSE_FORGET)
            in.fh = fuzz_one_in(8) ? fuzz_next() : fuzz_below(3);
        if (opcode == FUSE_RELEASE || opcode == FUSE_RELEASEDIR)
            in.offset = 0;
        memcpy(to, &in, sizeof in);
        if (opcode == FUSE_GETATTR)
            memcpy(to, &(vf_getattr_in){(uint32_t)fuzz_below(2), 0, a_handle()}, 16);
        return SIZES[opcode] + (opcode == FUSE_WRITE ? in.size : 0);
    }
    }
}

/* Cut bytes into segments, each of its own allocation, so that a step beyond any of them is seen. */
static uint32_t cut(hdv_segment *segments, const uint8_t *bytes, size_t size) {
    uint32_t count = 0;
    while (size) {
        size_t piece = fuzz_one_in(2) ? size : 1 + fuzz_below(size < 5000 ? size : 5000);
        segments[count] = (hdv_segment){malloc(piece), piece};
        if (bytes) {
            memcpy(segments[count].base, bytes, piece);
            bytes += piece;
        }
        count++;
        size -= piece;
    }
    return count;
}

static void remember(uint32_t opcode, const hdv_chain *chain, uint32_t written) {
    uint8_t bytes[16 + 128 + 16] = {0};
    hdv_chain part = {.readable = chain->writable, .readable_size = chain->writable_size};
    memcpy(part.segments, chain->segments + chain->readable, chain->writable * sizeof *part.segments);
    hdv_chain_read(&part, 0, bytes, sizeof bytes < written ? sizeof bytes : written);
    int32_t error;
    uint64_t first;
    memcpy(&error, bytes + 4, 4);
    memcpy(&first, bytes + 16, 8);
    if (written > chain->writable_size || error > 0 || (error && written != 16))
        abort();
    if (error || written < 32)
        return;
    bool node = opcode == FUSE_LOOKUP || opcode == FUSE_MKDIR || opcode == FUSE_CREATE;
    if (node)
        nodes[node_count < KNOWN ? node_count++ : 1 + fuzz_below(KNOWN - 1)] = first;
    if (opcode == FUSE_CREATE)
        memcpy(&first, bytes + 16 + 128, 8);
    if (opcode == FUSE_CREATE || opcode == FUSE_OPEN || opcode == FUSE_OPENDIR)
        handles[handle_count < KNOWN ? handle_count++ : fuzz_below(KNOWN)] = first;
}

/* As a guest can that does not wait for its answer. */
static void write_somewhere(const hdv_chain *chain) {
    const hdv_segment *segment = &chain->segments[fuzz_below(chain->readable)];
    if (fuzz_one_in(2))
        ((uint8_t *)segment->base)[fuzz_below(segment->size)] ^= (uint8_t)fuzz_next();
}

static void one_request(vf_share *share) {
    static hdv_chain chain;
    uint8_t bytes[LARGEST + 64] = {0};
    uint32_t opcode = OPCODES[fuzz_below(sizeof OPCODES / sizeof *OPCODES)];
    vf_in_header header = {.opcode = opcode, .unique = fuzz_next(), .nodeid = a_node()};
    size_t size = sizeof header + a_body(opcode, bytes + sizeof header);
    header.len = fuzz_one_in(30) ? (uint32_t)fuzz_next() : (uint32_t)size;
    memcpy(bytes, &header, sizeof header);
    if (fuzz_one_in(10))
        bytes[fuzz_below(size)] ^= (uint8_t)fuzz_next();
    size_t room = opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET ? 0 : fuzz_one_in(10) ? fuzz_below(200) : ANSWER;
    chain.readable = cut(chain.segments, bytes, size);
    chain.readable_size = size;
    chain.writable = cut(chain.segments + chain.readable, NULL, room);
    chain.writable_size = room;
    uint32_t written = 0;
    bool patient = fuzz_one_in(4);
    uint32_t sent; /* which may be another by now */
    memcpy(&sent, bytes + 4, sizeof sent);
    bool may_wait = sent == FUSE_READ || sent == FUSE_FSYNC || sent == FUSE_FSYNCDIR;
    hdv_outcome outcome = vf_answer(share, patient, &chain, &written);
    if (patient && !may_wait && outcome != HDV_DECLINED)
        abort();
    if (!patient && outcome == HDV_WAITS) {
        write_somewhere(&chain);
        if (helpers_take(&chain))
            return;
        outcome = vf_answer(share, true, &chain, &written);
    }
    if (outcome == HDV_WAITS)
        abort();
    if (outcome == HDV_ANSWERED) {
        answered++;
        remember(opcode, &chain, written);
    } else {
        declined++;
    }
    free_segments(&chain);
}

/* What Python does meanwhile, which is told nothing it does not ask for. */
static void take_over(vf_share *share) {
    vf_who who;
    vf_file file;
    uint64_t node = a_node();
    if (vf_share_adopt(share, node, &who)) {
        if (who.descriptor >= 0 && vf_share_close(share, who.descriptor))
            close(who.descriptor);
        while (vf_share_drop_node(share, node)) {
        }
    }
    uint64_t fh = a_handle();
    if (vf_share_adopt_file(share, fh, node, &file)) {
        vf_share_drop_file(share, fh);
        if (vf_share_close(share, file.descriptor))
            close(file.descriptor);
    }
}

static void clear(vf_share *share, const vf_terms *terms, int root) {
    int descriptors[2 * LENT];
    for (uint32_t count = vf_share_clear(share, descriptors, 2 * LENT); count; count--)
        close(descriptors[count - 1]);
    node_count = 1;
    handle_count = 0;
    vf_share_agree(share, terms);
    vf_share_enter(share, 1, root, terms->device, terms->inode, S_IFDIR, false);
}

static size_t open_descriptors(void) {
    size_t count = 0;
    DIR *all = opendir("/proc/self/fd");
    while (readdir(all))
        count++;
    closedir(all);
    return count;
}

static void make_files(void) {
    if (mkdir("share", 0755) || mkdir("share/directory", 0755) || symlink("../canary", "share/link"))
        abort();
    if (mkfifo("share/fifo", 0644) || close(open("share/file", O_CREAT | O_WRONLY, 0644)) || truncate("share/file", 9999))
        abort();
    if (close(open("canary", O_CREAT | O_WRONLY, 0600)) || chmod("canary", 0))
        abort();
}

int main(int count, char **arguments) {
    double end = fuzz_now() + fuzz_begin(count, arguments);
    struct stat status, canary, after;
    struct file_handle handle = {.handle_bytes = 0};
    vf_share *share = vf_share_new();
    make_files();
    int root = open("share", O_PATH | O_DIRECTORY), mount = open("share", O_RDONLY | O_DIRECTORY);
    vf_terms terms = {
        .opcodes = UINT64_MAX,
        .max_write = 1 << 20,
        .nodes = LENT / 2,
        .files = LENT / 2,
        .mount = mount,
        .numbers = open("/proc/self/fd", O_PATH | O_DIRECTORY),
        .anybody = true,
    };
    if (fstat(root, &status) || stat("canary", &canary))
        abort();
    (void)!name_to_handle_at(root, "", &handle, &terms.mount_id, AT_EMPTY_PATH); /* tells the mount all the same */
    terms.device = status.st_dev;
    terms.inode = status.st_ino;
    size_t before = open_descriptors();
    clear(share, &terms, root);
    helpers_begin(share);
    while (fuzz_now() < end) {
        one_request(share);
        if (fuzz_one_in(50))
            take_over(share);
        if (fuzz_one_in(5000)) {
            clear(share, &terms, root);
            helpers_settle();
            if (open_descriptors() != before)
                abort();
        }
    }
    clear(share, &terms, root);
    unsigned long long waited = helpers_end();
    vf_share_free(share);
    if (open_descriptors() != before || stat("canary", &after) || memcmp(&canary.st_ctim, &after.st_ctim, sizeof after.st_ctim))
        abort();
    printf("%llu requests answered, %llu declined, %llu had to wait\n", answered, declined, waited);
    return answered < 1000 || waited < 10;
}
