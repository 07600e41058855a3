#include "vfio_user.h"

#include <linux/vfio.h>
#include <stdio.h>
#include <string.h>

#include "common.h"
#include "memory.h"
#include "transport.h"

enum command {
    VERSION = 1,
    DMA_MAP = 2,
    DEVICE_GET_REGION_IO_FDS = 6,
    DEVICE_SET_IRQS = 8,
    REGION_READ = 9,
    REGION_WRITE = 10,
};

enum { TYPE_MASK = 0xf, TYPE_REPLY = 0x1, NO_REPLY = 0x10, ERROR = 0x20 };
enum { DMA_READ_WRITE = 0x3, TYPE_IOEVENTFD = 0, MOST_SUB_REGIONS = MOST_FDS };

struct header {
    uint16_t id, command;
    uint32_t size, flags, error;
};

struct access {
    uint64_t offset;
    uint32_t region, count;
};

struct sub_region {
    uint64_t offset, size;
    uint32_t fd_index, type, flags, padding;
    uint64_t datamatch;
};

static int connection;
static uint16_t last_id;

static void ask(enum command command, uint32_t flags, const void *payload, size_t size, const int *fd)
{
    struct header header = {++last_id, (uint16_t)command, (uint32_t)(sizeof header + size), flags, 0};
    socket_send(connection, &header, sizeof header, payload, size, fd, fd ? 1 : 0);
}

/* Send a command and wait for its reply, of which at most `room` bytes may come; returns how many did. */
static size_t call(enum command command, const void *payload, size_t size, const int *fd, void *reply, size_t room,
                   int *fds)
{
    ask(command, 0, payload, size, fd);
    struct header header;
    socket_receive(connection, &header, sizeof header, fds);
    if (header.id != last_id || (header.flags & TYPE_MASK) != TYPE_REPLY || header.size < sizeof header)
        fail("vfio-user: no reply to command %d", command);
    if (header.flags & ERROR)
        fail("vfio-user: command %d is refused: %s", command, strerror((int)header.error));
    const size_t rest = header.size - sizeof header;
    if (rest > room)
        fail("vfio-user: the reply to command %d is too long", command);
    socket_receive(connection, reply, rest, NULL);
    return rest;
}

void vfio_open(int socket)
{
    struct {
        uint16_t major, minor;
        char capabilities[1020];
    } version = {.minor = 1}, answer;
    connection = socket;
    snprintf(version.capabilities, sizeof version.capabilities,
             "{\"capabilities\":{\"max_msg_fds\":%d,\"max_data_xfer_size\":%u,\"pgsizes\":%u}}", MOST_FDS, MIB, PAGE);
    call(VERSION, &version, 4 + strlen(version.capabilities) + 1, NULL, &answer, sizeof answer, NULL);
    if (answer.major != version.major)
        fail("vfio-user: the server speaks version %u", answer.major);
}

void vfio_map_memory(void)
{
    const struct {
        uint32_t argsz, flags;
        uint64_t offset, address, size;
    } map = {sizeof map, DMA_READ_WRITE, 0, GUEST_BASE, memory.size};
    uint8_t reply[sizeof map];
    call(DMA_MAP, &map, sizeof map, &memory.fd, reply, sizeof reply, NULL);
}

void vfio_connect_interrupt(int fd)
{
    const struct vfio_irq_set set = {
        .argsz = sizeof set,
        .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
        .index = VFIO_PCI_MSIX_IRQ_INDEX,
        .count = 1,
    };
    uint8_t reply[sizeof set];
    call(DEVICE_SET_IRQS, &set, sizeof set, &fd, reply, sizeof reply, NULL);
}

void vfio_read(uint32_t region, uint64_t offset, void *place, uint32_t size)
{
    const struct access access = {offset, region, size};
    struct {
        struct access access;
        uint8_t data[256];
    } answer;
    if (size > sizeof answer.data || call(REGION_READ, &access, sizeof access, NULL, &answer, sizeof answer, NULL) !=
                                         sizeof access + size)
        fail("vfio-user: region %u cannot be read at %#llx", region, (unsigned long long)offset);
    memcpy(place, answer.data, size);
}

/* The payload of a write: little-endian, as the host is. */
struct write {
    struct access access;
    uint64_t value;
};

void vfio_write(uint32_t region, uint64_t offset, uint64_t value, uint32_t size)
{
    const struct write write = {{offset, region, size}, value};
    struct access answer;
    call(REGION_WRITE, &write, sizeof write.access + size, NULL, &answer, sizeof answer, NULL);
}

void vfio_post(uint32_t region, uint64_t offset, uint16_t value)
{
    const struct write write = {{offset, region, sizeof value}, value};
    ask(REGION_WRITE, NO_REPLY, &write, sizeof write.access + sizeof value, NULL);
}

/* What the device offers of a region; asked for once, for it is the descriptors that are handed out. */
static struct {
    struct {
        uint32_t argsz, flags, index, count;
        struct sub_region parts[MOST_SUB_REGIONS];
    } answer;
    int fds[MOST_FDS];
    bool asked;
} offered;

static void ask_for_ioeventfds(uint32_t region)
{
    const uint32_t question[4] = {sizeof offered.answer, 0, region, 0};
    memset(offered.fds, -1, sizeof offered.fds);
    size_t came = call(DEVICE_GET_REGION_IO_FDS, question, sizeof question, NULL, &offered.answer,
                       sizeof offered.answer, offered.fds);
    if (came < sizeof question || offered.answer.count > (came - sizeof question) / sizeof(struct sub_region))
        fail("vfio-user: the sub-regions of region %u make no sense", region);
    offered.asked = true;
}

int vfio_ioeventfd(uint32_t region, uint64_t offset)
{
    if (!offered.asked)
        ask_for_ioeventfds(region);
    for (uint32_t part = 0; part < offered.answer.count; part++) {
        const struct sub_region *one = &offered.answer.parts[part];
        if (one->type == TYPE_IOEVENTFD && one->offset == offset && one->fd_index < MOST_FDS)
            return offered.fds[one->fd_index];
    }
    return -1;
}
