#include "driver.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "memory.h"

enum { HIPRIO, REQUESTS, MOST_BUFFERS = MOST_DATA / PAGE + 4 };
enum { AREA = (MOST_BUFFERS * sizeof(struct vring_desc) / PAGE + 2) * PAGE + MOST_DATA };

struct request requests[DEPTH];
static struct request aside;
static struct ring rings[QUEUES];
static const struct transport *device;
static int interrupt;
static uint64_t last_unique;

static void make_request(struct request *request, unsigned head)
{
    uint8_t *place = memory_take(PAGE);
    request->head = head;
    request->in = (struct fuse_in_header *)place;
    request->arguments = place + sizeof *request->in; /* together, as FORGET has it */
    request->out = (struct fuse_out_header *)(place + PAGE / 4);
    request->answer = place + PAGE / 2;
    request->table = memory_take(MOST_BUFFERS * sizeof *request->table);
    request->data = memory_take(MOST_DATA);
}

void driver_start(const struct transport *transport, const char *path, enum kick kick, pid_t *server)
{
    memory_make(QUEUES * 64 * PAGE + (DEPTH + 1) * (size_t)AREA);
    for (unsigned queue = 0; queue < QUEUES; queue++)
        ring_make(&rings[queue], queue);
    for (unsigned head = 0; head < DEPTH; head++)
        make_request(&requests[head], head);
    make_request(&aside, DEPTH);
    interrupt = eventfd(0, EFD_CLOEXEC);
    device = transport;
    device->start(socket_connect(path, server), rings, interrupt, kick);
    /* A server may have made it non-blocking, for itself and so for us; we want to sleep in a read. */
    if (fcntl(interrupt, F_SETFL, 0))
        fail("the eventfd of interrupts cannot be waited for: %s", strerror(errno));
}

void driver_stop(void)
{
    device->stop();
}

/* As Linux does, each page is a buffer of its own. */
static void add_pages(struct chain *chain, const uint8_t *data, uint32_t size, bool writable)
{
    for (uint32_t done = 0; done < size; done += PAGE)
        chain_add(chain, data + done, size - done < PAGE ? size - done : PAGE, writable);
}

void driver_send(struct request *request, uint32_t opcode, uint64_t node, struct sizes sizes)
{
    struct ring *ring = &rings[sizes.silent ? HIPRIO : REQUESTS];
    struct chain chain = {.table = request->table};
    *request->in = (struct fuse_in_header){
        .len = (uint32_t)sizeof *request->in + sizes.arguments + sizes.data_out,
        .opcode = opcode,
        .unique = last_unique += 2, /* the odd numbers belong to INTERRUPT */
        .nodeid = node,
        .pid = 1,
    };
    if (sizes.silent) {
        chain_add(&chain, request->in, request->in->len, false);
    } else {
        *request->out = (struct fuse_out_header){.error = INT32_MAX}; /* so that an old answer is none */
        chain_add(&chain, request->in, sizeof *request->in, false);
        chain_add(&chain, request->arguments, sizes.arguments, false);
        add_pages(&chain, request->data, sizes.data_out, false);
        chain_add(&chain, request->out, sizeof *request->out, true);
        chain_add(&chain, request->answer, sizes.answer, true);
        add_pages(&chain, request->data, sizes.data_in, true);
    }
    ring_add(ring, request->head, &chain);
    if (ring_must_kick(ring))
        device->kick(ring);
}

struct request *driver_take(void)
{
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        uint32_t written;
        const int head = ring_take(&rings[queue], &written);
        if (head < 0)
            continue;
        if (head > DEPTH)
            fail("queue %u: the device has used chain %d, which is none of ours", queue, head);
        struct request *request = head == DEPTH ? &aside : &requests[head];
        request->written = written;
        return request;
    }
    return NULL;
}

void driver_wait(void)
{
    bool nothing = true;
    uint64_t count;
    for (unsigned queue = 0; queue < QUEUES; queue++)
        nothing &= ring_listen(&rings[queue]);
    if (nothing && read(interrupt, &count, sizeof count) != sizeof count)
        fail("no interrupts: %s", strerror(errno));
    for (unsigned queue = 0; queue < QUEUES; queue++)
        ring_mute(&rings[queue]);
}

struct request *driver_aside(void)
{
    return &aside;
}

void driver_finish(struct request *request)
{
    for (;;) {
        struct request *done = driver_take();
        if (done == request)
            return;
        if (done)
            fail("the device has used chain %u out of turn", done->head);
        driver_wait();
    }
}
