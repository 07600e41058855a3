/* vhost-user, the front end's half: what virtiofsd speaks. */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common.h"
#include "memory.h"
#include "transport.h"

enum request {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    SET_VRING_ENABLE = 18,
};

enum { VERSION = 0x1, REPLY = 0x4, NEED_REPLY = 0x8 };

#define F_PROTOCOL_FEATURES (1ull << 30)
#define PROTOCOL_F_REPLY_ACK (1ull << 3)

struct header {
    uint32_t request, flags, size;
};

static int connection;
static bool acknowledges;

static void ask(enum request request, const void *payload, size_t size, const int *fd, uint32_t flags)
{
    struct header header = {request, VERSION | flags, (uint32_t)size};
    socket_send(connection, &header, sizeof header, payload, size, fd, fd ? 1 : 0);
}

static uint64_t answer(enum request request)
{
    struct header header;
    uint64_t value = 0;
    socket_receive(connection, &header, sizeof header, NULL);
    if (header.request != request || !(header.flags & REPLY) || header.size != sizeof value)
        fail("vhost-user: no answer to request %d", request);
    socket_receive(connection, &value, sizeof value, NULL);
    return value;
}

static void tell(enum request request, const void *payload, size_t size, const int *fd)
{
    ask(request, payload, size, fd, acknowledges ? NEED_REPLY : 0);
    if (acknowledges && answer(request))
        fail("vhost-user: the server refuses request %d", request);
}

static uint64_t get(enum request request)
{
    ask(request, NULL, 0, NULL, 0);
    return answer(request);
}

static void set(enum request request, uint64_t value)
{
    tell(request, &value, sizeof value, NULL);
}

static void set_vring(enum request request, unsigned queue, uint32_t value)
{
    tell(request, (uint32_t[]){queue, value}, 2 * sizeof(uint32_t), NULL);
}

static void set_vring_fd(enum request request, uint64_t queue, int fd)
{
    tell(request, &queue, sizeof queue, &fd);
}

static void negotiate(void)
{
    tell(SET_OWNER, NULL, 0, NULL);
    const uint64_t offered = get(GET_FEATURES);
    require_features(offered);
    if (offered & F_PROTOCOL_FEATURES) {
        const uint64_t extensions = get(GET_PROTOCOL_FEATURES) & PROTOCOL_F_REPLY_ACK;
        set(SET_PROTOCOL_FEATURES, extensions);
        acknowledges = extensions;
    }
    set(SET_FEATURES, FEATURES | (offered & F_PROTOCOL_FEATURES));
}

static void share_memory(void)
{
    const struct {
        uint32_t regions, padding;
        uint64_t guest_address, size, user_address, offset;
    } table = {1, 0, GUEST_BASE, memory.size, (uintptr_t)memory.base, 0};
    tell(SET_MEM_TABLE, &table, sizeof table, &memory.fd);
}

static void start_queue(struct ring *ring, int interrupt)
{
    const struct vring *vring = &ring->vring;
    const struct {
        uint32_t queue, flags;
        uint64_t descriptors, used, available, log;
    } places = {ring->index, 0, (uintptr_t)vring->desc, (uintptr_t)vring->used, (uintptr_t)vring->avail, 0};
    ring->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    set_vring(SET_VRING_NUM, ring->index, RING_SIZE);
    set_vring(SET_VRING_BASE, ring->index, 0);
    tell(SET_VRING_ADDR, &places, sizeof places, NULL);
    set_vring_fd(SET_VRING_CALL, ring->index, interrupt);
    set_vring_fd(SET_VRING_KICK, ring->index, ring->kick);
}

static void start(int socket, struct ring *rings, int interrupt, enum kick kick)
{
    if (kick != KICK_IOEVENTFD)
        fail("vhost-user knows no other kicks than eventfds");
    connection = socket;
    negotiate();
    share_memory();
    for (unsigned queue = 0; queue < QUEUES; queue++)
        start_queue(&rings[queue], interrupt);
    for (unsigned queue = 0; queue < QUEUES; queue++)
        set_vring(SET_VRING_ENABLE, queue, 1);
}

static void stop(void)
{
    for (uint32_t queue = 0; queue < QUEUES; queue++) {
        set_vring(SET_VRING_ENABLE, queue, 0);
        ask(GET_VRING_BASE, (uint32_t[]){queue, 0}, 2 * sizeof(uint32_t), NULL, 0);
        answer(GET_VRING_BASE);
    }
    close(connection);
}

const struct transport vhost_user = {start, kick_eventfd, stop};
