/* The VMM: how a device is found, set up, kicked and let go. Two of them: vhost-user and vfio-user. */
#ifndef TRANSPORT_H
#define TRANSPORT_H

#include <linux/virtio_config.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "ring.h"

enum { QUEUES = 2 }; /* the high-priority queue and one for requests */

/* What our driver needs, and all that it accepts. */
#define FEATURES (1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_RING_F_EVENT_IDX)

/* How a guest's kick reaches a vfio-user device: by an eventfd, as a message, or as one whose answer is awaited. */
enum kick { KICK_IOEVENTFD, KICK_POSTED, KICK_REPLY };

struct transport {
    /* Set the device up on a connected socket, and let it run. `interrupt` is an eventfd for all queues. */
    void (*start)(int socket, struct ring *rings, int interrupt, enum kick kick);
    void (*kick)(struct ring *ring);
    /* Reset the device. The memory is ours again. */
    void (*stop)(void);
};

extern const struct transport vhost_user, vfio_user;

/* Refuse to go on with a device that lacks what our driver needs. */
void require_features(uint64_t offered);

/* Write to a queue's eventfd. */
void kick_eventfd(struct ring *ring);

/* A stream of messages with descriptors. */

enum { MOST_FDS = 16 };

/* Connect, waiting up to 100 s for a server that is about to listen; `server` is its process. */
int socket_connect(const char *path, pid_t *server);

/* Send all of two pieces as one. */
void socket_send(int socket, const void *head, size_t head_size, const void *body, size_t body_size, const int *fds,
                 size_t fd_count);

/* Receive so many bytes; `fds` takes up to MOST_FDS descriptors, and nothing else is kept. Returns how many came. */
size_t socket_receive(int socket, void *place, size_t size, int *fds);

#endif
