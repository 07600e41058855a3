/* What a lane waits for: kicks by eventfds, kicks as messages on a socket, and word from Python.
 *
 * Only what is new wakes it (EPOLLET), so that eventfds need not be read. */
#define _GNU_SOURCE
#include "lane_internal.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define KICK_BYTES 4096  /* of a socket that are looked at at once: some hundred kicks */
#define FIRST_POLL 10000 /* nanoseconds, where polling begins to grow */

enum { WAKE = HDV_LANE_QUEUES, LISTENER, SOURCES };

uint64_t hdv_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

void hdv_write_event(int descriptor) {
    uint64_t one = 1;
    /* It fails when the counter is full, and then the other side has enough to read. */
    if (write(descriptor, &one, sizeof one) < 0)
        return;
}

uint64_t hdv_read_event(int descriptor) {
    uint64_t count;
    return read(descriptor, &count, sizeof count) < 0 ? 0 : count;
}

static bool hear(hdv_lane *lane, int descriptor, uint32_t source) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u32 = source};
    return !epoll_ctl(lane->epoll, EPOLL_CTL_ADD, descriptor, &event);
}

bool hdv_lane_open(hdv_lane *lane) {
    lane->epoll = epoll_create1(EPOLL_CLOEXEC);
    lane->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    lane->socket = -1;
    if (lane->epoll >= 0 && lane->wake >= 0 && hear(lane, lane->wake, WAKE))
        return true;
    hdv_lane_close(lane);
    return false;
}

void hdv_lane_close(hdv_lane *lane) {
    if (lane->epoll >= 0)
        close(lane->epoll);
    if (lane->wake >= 0)
        close(lane->wake);
}

void hdv_lane_wake(hdv_lane *lane) {
    hdv_write_event(lane->wake);
}

/* Kicks of several queues may come by one eventfd; whose they are does not matter, for all queues are looked at. */
static bool shared(const hdv_lane *lane, uint32_t queue) {
    for (uint32_t index = 0; index < lane->count; index++)
        if (index != queue && lane->queues[index].ring && lane->queues[index].kick == lane->queues[queue].kick)
            return true;
    return false;
}

void hdv_lane_hear(hdv_lane *lane, uint32_t queue) {
    if (lane->queues[queue].kick >= 0 && !shared(lane, queue))
        hear(lane, lane->queues[queue].kick, queue);
}

void hdv_lane_ignore(hdv_lane *lane, uint32_t queue) {
    if (lane->queues[queue].kick >= 0 && !shared(lane, queue))
        epoll_ctl(lane->epoll, EPOLL_CTL_DEL, lane->queues[queue].kick, NULL);
}

/* The socket */

void hdv_lane_take_socket(hdv_lane *lane, int socket) {
    lane->socket = socket;
    hear(lane, socket, LISTENER);
}

void hdv_lane_leave_socket(hdv_lane *lane) {
    if (lane->socket >= 0)
        epoll_ctl(lane->epoll, EPOLL_CTL_DEL, lane->socket, NULL);
    lane->socket = -1;
}

/* Take the kicks that are in front; false where something else is, or the end. They are taken out at once: a socket
 * that is closed with bytes left in it tells the machine of an error, which QEMU does not survive. */
static bool look(const hdv_lane *lane, bool *more) {
    uint8_t bytes[KICK_BYTES];
    ssize_t seen = recv(lane->socket, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
    *more = false;
    if (seen < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    size_t kicks = seen > 0 ? lane->listener.kicks(lane->listener.context, bytes, (size_t)seen) : 0;
    *more = kicks < (size_t)seen || seen == sizeof bytes; /* only what is new would wake us */
    return kicks && recv(lane->socket, bytes, kicks, MSG_DONTWAIT) == (ssize_t)kicks;
}

void hdv_lane_listen_for_kicks(hdv_lane *lane) {
    bool more = true;
    while (lane->socket >= 0 && more)
        if (!look(lane, &more)) {
            hdv_lane_leave_socket(lane);
            hdv_lane_announce(lane, HDV_EVENT_SOCKET, 0);
        }
}

/* Sleeping */

/* As KVM's halt polling: grow while it would have been worth it, else shrink to nothing. */
static void learn(hdv_lane *lane, uint64_t began) {
    uint64_t ended = hdv_now();
    if (ended - began <= lane->poll_most && (!lane->alone || ended >= lane->alone_from))
        lane->poll_now = lane->poll_now ? lane->poll_now * 2 : FIRST_POLL;
    else
        lane->poll_now = 0;
    if (lane->poll_now > lane->poll_most)
        lane->poll_now = lane->poll_most;
}

void hdv_lane_sleep(hdv_lane *lane) {
    struct epoll_event events[SOURCES];
    uint64_t began = lane->poll_most ? hdv_now() : 0;
    pthread_mutex_unlock(&lane->lock);
    int ready = epoll_wait(lane->epoll, events, SOURCES, -1);
    pthread_mutex_lock(&lane->lock);
    if (lane->poll_most)
        learn(lane, began);
    for (int at = 0; at < ready; at++) {
        uint32_t source = events[at].data.u32;
        if (source == LISTENER)
            hdv_lane_listen_for_kicks(lane);
        else if (source < HDV_LANE_QUEUES)
            lane->queues[source].counters.wakeups++;
    }
}
