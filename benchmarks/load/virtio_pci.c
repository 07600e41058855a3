/* A virtio function on PCI, driven through vfio-user: what a guest's virtio-pci and its VMM do together. */
#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>
#include <string.h>
#include <unistd.h>

#include "common.h"
#include "memory.h"
#include "transport.h"
#include "vfio_user.h"

enum { CAPABILITIES = 48, RESET_LOOKS = 10000 };

static struct {
    uint32_t bar;
    uint64_t offset;
} common, doorbells;
static uint32_t doorbell_stride, msix;
static uint64_t doorbell_of[QUEUES];
static enum kick kind;
static int connection;

#define REGISTER(name) offsetof(struct virtio_pci_common_cfg, name), sizeof(((struct virtio_pci_common_cfg *)0)->name)

static uint32_t get(uint64_t offset, uint32_t size)
{
    uint32_t value = 0;
    vfio_read(common.bar, common.offset + offset, &value, size);
    return value;
}

static void set(uint64_t offset, uint32_t size, uint32_t value)
{
    vfio_write(common.bar, common.offset + offset, value, size);
}

static void find_capability(const uint8_t *config, uint8_t place)
{
    struct virtio_pci_notify_cap found;
    memcpy(&found, config + place, sizeof found);
    if (found.cap.cfg_type == VIRTIO_PCI_CAP_COMMON_CFG) {
        common.bar = found.cap.bar;
        common.offset = found.cap.offset;
    } else if (found.cap.cfg_type == VIRTIO_PCI_CAP_NOTIFY_CFG) {
        doorbells.bar = found.cap.bar;
        doorbells.offset = found.cap.offset;
        doorbell_stride = found.notify_off_multiplier;
    }
}

static void find_registers(void)
{
    uint8_t config[256 + sizeof(struct virtio_pci_notify_cap)] = {0};
    vfio_read(REGION_CONFIG, 0, config, 256);
    uint8_t place = config[PCI_CAPABILITY_LIST];
    for (unsigned seen = 0; place && seen < CAPABILITIES; seen++, place = config[place + PCI_CAP_LIST_NEXT]) {
        if (config[place] == PCI_CAP_ID_VNDR)
            find_capability(config, place);
        else if (config[place] == PCI_CAP_ID_MSIX)
            msix = place;
    }
    if (!msix || !doorbell_stride)
        fail("the device is no modern virtio function with MSI-X");
}

static void enable_function(void)
{
    uint16_t control;
    vfio_write(REGION_CONFIG, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    vfio_read(REGION_CONFIG, msix + PCI_MSIX_FLAGS, &control, sizeof control);
    vfio_write(REGION_CONFIG, msix + PCI_MSIX_FLAGS, control | PCI_MSIX_FLAGS_ENABLE, sizeof control);
}

static void reset(void)
{
    set(REGISTER(device_status), 0);
    for (unsigned looks = 0; get(REGISTER(device_status)); looks++)
        if (looks == RESET_LOOKS)
            fail("the device does not end its reset");
}

static void negotiate(void)
{
    uint64_t offered = 0;
    for (uint32_t half = 0; half < 2; half++) {
        set(REGISTER(device_feature_select), half);
        offered |= (uint64_t)get(REGISTER(device_feature)) << 32 * half;
    }
    require_features(offered);
    for (uint32_t half = 0; half < 2; half++) {
        set(REGISTER(guest_feature_select), half);
        set(REGISTER(guest_feature), (uint32_t)(FEATURES >> 32 * half));
    }
}

static void place(uint64_t low_offset, const void *area)
{
    const uint64_t address = guest_address(area);
    set(low_offset, 4, (uint32_t)address);
    set(low_offset + 4, 4, (uint32_t)(address >> 32));
}

static void start_queue(struct ring *ring)
{
    set(REGISTER(queue_select), ring->index);
    if (get(REGISTER(queue_size)) < RING_SIZE)
        fail("queue %u has less than %u places", ring->index, RING_SIZE);
    set(REGISTER(queue_size), RING_SIZE);
    set(REGISTER(queue_msix_vector), 0);
    place(offsetof(struct virtio_pci_common_cfg, queue_desc_lo), ring->vring.desc);
    place(offsetof(struct virtio_pci_common_cfg, queue_avail_lo), ring->vring.avail);
    place(offsetof(struct virtio_pci_common_cfg, queue_used_lo), ring->vring.used);
    doorbell_of[ring->index] = doorbells.offset + (uint64_t)get(REGISTER(queue_notify_off)) * doorbell_stride;
    set(REGISTER(queue_enable), 1);
    if (kind == KICK_IOEVENTFD && (ring->kick = vfio_ioeventfd(doorbells.bar, doorbell_of[ring->index])) < 0)
        fail("the device offers no eventfd for kicks of queue %u", ring->index);
}

static void start(int socket, struct ring *rings, int interrupt, enum kick kick)
{
    const uint32_t driver = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    connection = socket;
    kind = kick;
    vfio_open(socket);
    find_registers();
    enable_function();
    vfio_map_memory();
    vfio_connect_interrupt(interrupt);
    reset();
    set(REGISTER(device_status), VIRTIO_CONFIG_S_ACKNOWLEDGE);
    set(REGISTER(device_status), driver);
    negotiate();
    set(REGISTER(device_status), driver | VIRTIO_CONFIG_S_FEATURES_OK);
    if (!(get(REGISTER(device_status)) & VIRTIO_CONFIG_S_FEATURES_OK))
        fail("the device refuses our features");
    for (unsigned queue = 0; queue < QUEUES; queue++)
        start_queue(&rings[queue]);
    set(REGISTER(device_status), driver | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

static void kick(struct ring *ring)
{
    const uint64_t offset = doorbell_of[ring->index];
    switch (kind) {
    case KICK_IOEVENTFD:
        kick_eventfd(ring);
        break;
    case KICK_POSTED:
        vfio_post(doorbells.bar, offset, (uint16_t)ring->index);
        break;
    case KICK_REPLY:
        vfio_write(doorbells.bar, offset, ring->index, sizeof(uint16_t));
        break;
    }
}

static void stop(void)
{
    reset();
    close(connection);
}

const struct transport vfio_user = {start, kick, stop};
