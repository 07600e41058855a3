/* The thread: take turns among the queues, answer or hand on, poll for a while with kicks disarmed, arm, sleep.
 *
 * The order at the end matters: armed before it is polled, a driver would still kick for each request. */
#define _GNU_SOURCE
#include "lane.h"

#include "atomics.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64             /* chains of one queue before the others have their turn */
#define SIGNAL_AFTER 16      /* chains that wait for one interrupt at most, */
#define SIGNAL_WITHIN 20000  /* and for how many nanoseconds */
#define EMPTY_LOOKS 16       /* as in hdvkit/runtime/queue.py: "there is more", and there was not */
#define KICK_BYTES 1024      /* of a socket that are looked at at once: some thirty kicks */
#define LISTEN_EVERY 50000   /* nanoseconds in which a busy lane looks at its socket */
#define FIRST_POLL 10000     /* nanoseconds, where polling begins to grow */

#define LISTENER UINT32_MAX /* stands for the socket where queues are named */

typedef struct {
    hdv_ring *ring; /* NULL: not ours */
    uint64_t life;
    int kick;
    int call;
    bool call_blocks; /* the machine's choice; it must not stop us all the same */
    bool broken;
    bool signal_told; /* Python is to interrupt, and has not taken that yet */
    uint32_t unsignalled; /* answered here, and not yet asked whether the driver wants to hear */
    uint32_t empty_looks;
    uint64_t oldest; /* when the first of them was */
    hdv_lane_counters counters;
} lane_queue;

struct hdv_lane {
    pthread_mutex_t lock; /* of all below; never held while the handler works or a descriptor is waited for */
    lane_queue queues[HDV_LANE_QUEUES];
    uint32_t count; /* behind the last that was ever attached */
    hdv_memory memory;
    uint64_t table; /* its name */
    hdv_handler handler;
    hdv_event *first;
    hdv_event **last;
    bool busy;     /* the thread has a chain */
    uint64_t done; /* chains that it has had */
    uint64_t asked; /* somebody waits for so many */
    bool stopping;
    int wake;
    int news;
    int socket; /* -1: Python's */
    hdv_listener listener;
    uint64_t listened; /* when it was looked at last */
    uint64_t poll_most; /* nanoseconds */
    uint64_t poll_now;
    hdv_chain chain; /* of the thread */
};

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void write_event(int descriptor) {
    uint64_t one = 1;
    /* It fails when the counter is full, and then the other side has enough to read. */
    if (write(descriptor, &one, sizeof one) < 0)
        return;
}

/* How often it was written; 0 when somebody else was first. */
static uint64_t read_event(int descriptor) {
    uint64_t count;
    return read(descriptor, &count, sizeof count) < 0 ? 0 : count;
}

static bool blocks(int descriptor) {
    int flags = descriptor < 0 ? 0 : fcntl(descriptor, F_GETFL);
    return flags >= 0 && !(flags & O_NONBLOCK);
}

/* Making and ending */

static bool may_poll(void) {
    cpu_set_t cpus;
    return !sched_getaffinity(0, sizeof cpus, &cpus) && CPU_COUNT(&cpus) > 1;
}

hdv_lane *hdv_lane_new(int news, uint32_t poll_us) {
    hdv_lane *lane = calloc(1, sizeof *lane);
    if (!lane)
        return NULL;
    lane->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (lane->wake < 0) {
        free(lane);
        return NULL;
    }
    pthread_mutex_init(&lane->lock, NULL);
    lane->last = &lane->first;
    lane->news = news;
    lane->socket = -1;
    /* Alone on a processor, polling would keep the guest from what it is polled for. */
    lane->poll_most = may_poll() ? (uint64_t)poll_us * 1000u : 0;
    return lane;
}

void hdv_lane_free(hdv_lane *lane) {
    while (lane->first) {
        hdv_event *event = lane->first;
        lane->first = event->next;
        hdv_event_free(event);
    }
    close(lane->wake);
    pthread_mutex_destroy(&lane->lock);
    free(lane);
}

/* Interrupt the driver, where that is done by an eventfd. With the lock held, so that it is not another queue's by then. */
static bool call_driver(lane_queue *queue) {
    struct pollfd room = {queue->call, POLLOUT, 0};
    if (queue->call < 0)
        return false;
    queue->counters.interrupts++;
    if (!queue->call_blocks || poll(&room, 1, 0) == 1) /* full is signalled already */
        write_event(queue->call);
    return true;
}

static void wake(hdv_lane *lane) {
    write_event(lane->wake);
}

void hdv_lane_stop(hdv_lane *lane) {
    pthread_mutex_lock(&lane->lock);
    lane->stopping = true;
    pthread_mutex_unlock(&lane->lock);
    wake(lane);
}

/* What the loop's thread changes */

void hdv_lane_set_memory(hdv_lane *lane, uint64_t table, const hdv_region *regions, uint32_t count) {
    pthread_mutex_lock(&lane->lock);
    lane->table = table;
    lane->memory = (hdv_memory){regions, count, 0};
    pthread_mutex_unlock(&lane->lock);
}

void hdv_lane_set_handler(hdv_lane *lane, hdv_handler handler) {
    pthread_mutex_lock(&lane->lock);
    lane->handler = handler;
    pthread_mutex_unlock(&lane->lock);
}

void hdv_lane_attach(hdv_lane *lane, uint32_t queue, hdv_ring *ring, uint64_t life, int kick, int call) {
    pthread_mutex_lock(&lane->lock);
    lane->queues[queue] = (lane_queue){.ring = ring, .life = life, .kick = kick, .call = call, .call_blocks = blocks(call)};
    if (queue >= lane->count)
        lane->count = queue + 1;
    pthread_mutex_unlock(&lane->lock);
    wake(lane);
}

void hdv_lane_detach(hdv_lane *lane, uint32_t queue) {
    pthread_mutex_lock(&lane->lock);
    lane->queues[queue].ring = NULL;
    pthread_mutex_unlock(&lane->lock);
    wake(lane); /* its descriptor is not waited for any more */
}

void hdv_lane_set_call(hdv_lane *lane, uint32_t queue, int call) {
    pthread_mutex_lock(&lane->lock);
    lane->queues[queue].call = call;
    lane->queues[queue].call_blocks = blocks(call);
    pthread_mutex_unlock(&lane->lock);
}

void hdv_lane_listen(hdv_lane *lane, int socket, hdv_listener listener) {
    pthread_mutex_lock(&lane->lock);
    lane->socket = socket;
    lane->listener = listener;
    pthread_mutex_unlock(&lane->lock);
    wake(lane);
}

uint64_t hdv_lane_ticket(hdv_lane *lane) {
    pthread_mutex_lock(&lane->lock);
    uint64_t ticket = lane->done + lane->busy;
    lane->asked = ticket;
    pthread_mutex_unlock(&lane->lock);
    return ticket;
}

uint64_t hdv_lane_passed(hdv_lane *lane) {
    pthread_mutex_lock(&lane->lock);
    uint64_t passed = lane->done;
    pthread_mutex_unlock(&lane->lock);
    return passed;
}

void hdv_lane_kick(hdv_lane *lane) {
    wake(lane);
}

hdv_lane_counters hdv_lane_read(hdv_lane *lane, uint32_t queue) {
    pthread_mutex_lock(&lane->lock);
    hdv_lane_counters counters = lane->queues[queue].counters;
    pthread_mutex_unlock(&lane->lock);
    return counters;
}

bool hdv_lane_complete(hdv_lane *lane, uint32_t index, uint64_t life, uint16_t head, uint16_t slots, uint32_t written) {
    bool signal = false;
    pthread_mutex_lock(&lane->lock);
    lane_queue *queue = &lane->queues[index];
    if (queue->ring && queue->life == life) {
        hdv_ring_push(queue->ring, head, slots, written);
        signal = hdv_ring_should_signal(queue->ring) && !call_driver(queue);
    }
    pthread_mutex_unlock(&lane->lock);
    return signal;
}

/* Events for Python. With the lock held. */

static void announce(hdv_lane *lane, hdv_event *event) {
    if (!lane->first)
        write_event(lane->news);
    event->next = NULL;
    *lane->last = event;
    lane->last = &event->next;
}

static hdv_event *new_event(hdv_event_kind kind, uint32_t queue, uint64_t life, uint32_t segments) {
    size_t each = sizeof(hdv_segment) + sizeof(uint32_t);
    hdv_event *event = calloc(1, sizeof *event + segments * each);
    if (!event)
        abort(); /* no request may get lost, and there is nobody to tell */
    event->kind = kind;
    event->queue = queue;
    event->life = life;
    event->regions = (uint32_t *)(void *)(event->segments + segments);
    return event;
}

static void hand_on(hdv_lane *lane, uint32_t index, uint64_t table) {
    const hdv_chain *chain = &lane->chain;
    uint32_t count = chain->readable + chain->writable;
    hdv_event *event = new_event(HDV_EVENT_CHAIN, index, lane->queues[index].life, count);
    event->table = table;
    event->head = chain->head;
    event->slots = chain->slots;
    event->readable = chain->readable;
    event->writable = chain->writable;
    memcpy(event->segments, chain->segments, count * sizeof *chain->segments);
    memcpy(event->regions, chain->regions, count * sizeof *chain->regions);
    announce(lane, event);
}

static void report(hdv_lane *lane, uint32_t index, hdv_error error) {
    hdv_event *event = new_event(HDV_EVENT_BROKEN, index, lane->queues[index].life, 0);
    event->error = error;
    lane->queues[index].broken = true;
    announce(lane, event);
}

hdv_event *hdv_lane_take(hdv_lane *lane) {
    pthread_mutex_lock(&lane->lock);
    hdv_event *events = lane->first;
    lane->first = NULL;
    lane->last = &lane->first;
    for (uint32_t index = 0; index < lane->count; index++)
        lane->queues[index].signal_told = false;
    pthread_mutex_unlock(&lane->lock);
    return events;
}

void hdv_event_free(hdv_event *event) {
    free(event);
}

/* The thread. Everything below is called with the lock held, and lets go of it where it says so. */

static void signal_driver(hdv_lane *lane, uint32_t index) {
    lane_queue *queue = &lane->queues[index];
    queue->unsignalled = 0;
    if (!queue->ring || !hdv_ring_should_signal(queue->ring))
        return;
    if (call_driver(queue) || queue->signal_told)
        return;
    queue->signal_told = true;
    announce(lane, new_event(HDV_EVENT_SIGNAL, index, queue->life, 0));
}

static void give_back(hdv_lane *lane, uint32_t index, uint32_t written) {
    lane_queue *queue = &lane->queues[index];
    const hdv_chain *chain = &lane->chain;
    hdv_ring_push(queue->ring, chain->head, chain->slots, written);
    queue->counters.chains++;
    queue->counters.taken += chain->readable_size;
    queue->counters.given += written;
    uint64_t time = now();
    if (!queue->unsignalled++)
        queue->oldest = time;
    if (queue->unsignalled >= SIGNAL_AFTER || time - queue->oldest >= SIGNAL_WITHIN)
        signal_driver(lane, index);
}

/* Answer the chain that was taken, without the lock. Its ring may be gone afterwards. */
static void answer(hdv_lane *lane, uint32_t index) {
    uint64_t life = lane->queues[index].life;
    uint64_t table = lane->table;
    hdv_handler handler = lane->handler;
    uint32_t written = 0;
    lane->busy = true;
    pthread_mutex_unlock(&lane->lock);
    bool answered = handler.answer && !lane->chain.remote && handler.answer(handler.context, &lane->chain, &written);
    pthread_mutex_lock(&lane->lock);
    lane->busy = false;
    lane->done++;
    bool ours = lane->queues[index].ring && lane->queues[index].life == life;
    if (ours && answered)
        give_back(lane, index, written);
    else if (ours)
        hand_on(lane, index, table);
    if (lane->done == lane->asked)
        write_event(lane->news);
}

/* Take the kicks at the front of the socket; leave it to Python where something else is. All queues are looked at anyway,
 * so it does not matter whose they were. */
static void listen_for_kicks(hdv_lane *lane) {
    uint8_t bytes[KICK_BYTES];
    ssize_t seen = recv(lane->socket, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
    if (seen < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    size_t kicks = seen > 0 ? lane->listener.kicks(lane->listener.context, bytes, (size_t)seen) : 0;
    if (kicks && recv(lane->socket, bytes, kicks, MSG_DONTWAIT) == (ssize_t)kicks)
        return;
    lane->socket = -1;
    announce(lane, new_event(HDV_EVENT_SOCKET, 0, 0, 0));
}

/* One turn of a queue: whether there was anything. */
static bool serve(hdv_lane *lane, uint32_t index) {
    bool any = false;
    for (uint32_t turn = 0; turn < BATCH; turn++) {
        lane_queue *queue = &lane->queues[index];
        if (!queue->ring || queue->broken || lane->stopping)
            break;
        hdv_popped popped = hdv_ring_pop(queue->ring, &lane->memory, &lane->chain);
        if (popped == HDV_BROKEN)
            report(lane, index, queue->ring->error);
        if (popped != HDV_CHAIN)
            break;
        queue->empty_looks = 0;
        any = true;
        answer(lane, index);
    }
    if (lane->queues[index].unsignalled)
        signal_driver(lane, index);
    return any;
}

static bool serve_all(hdv_lane *lane) {
    bool any = false;
    for (uint32_t index = 0; index < lane->count; index++)
        any = serve(lane, index) || any;
    if (lane->socket >= 0 && now() - lane->listened >= LISTEN_EVERY) {
        lane->listened = now();
        listen_for_kicks(lane);
    }
    return any;
}

static bool waiting(const hdv_lane *lane) {
    for (uint32_t index = 0; index < lane->count; index++)
        if (lane->queues[index].ring && !lane->queues[index].broken && hdv_ring_waiting(lane->queues[index].ring))
            return true;
    return false;
}

static void disarm(hdv_lane *lane) {
    for (uint32_t index = 0; index < lane->count; index++)
        if (lane->queues[index].ring && !lane->queues[index].broken)
            hdv_ring_disarm(lane->queues[index].ring);
}

/* Ask for kicks; whether something came before that. */
static bool arm(hdv_lane *lane) {
    bool more = false;
    for (uint32_t index = 0; index < lane->count; index++) {
        lane_queue *queue = &lane->queues[index];
        if (!queue->ring || queue->broken || !hdv_ring_arm(queue->ring))
            continue;
        if (++queue->empty_looks > EMPTY_LOOKS)
            report(lane, index, (hdv_error){HDV_ANNOUNCED_NOTHING, EMPTY_LOOKS, 0});
        else
            more = true;
    }
    return more;
}

/* Look for a while, with kicks disarmed and without the lock for most of it; whether something came. */
static bool poll_rings(hdv_lane *lane) {
    uint64_t end = now() + lane->poll_now;
    while (now() < end) {
        if (lane->stopping || waiting(lane))
            return true;
        pthread_mutex_unlock(&lane->lock);
        for (int spin = 0; spin < 32; spin++)
            hdv_pause();
        pthread_mutex_lock(&lane->lock);
    }
    return false;
}

/* As KVM's halt polling: grow while it would have been worth it, else shrink to nothing. */
static void learn(hdv_lane *lane, uint64_t slept) {
    if (slept <= lane->poll_most)
        lane->poll_now = lane->poll_now ? lane->poll_now * 2 : FIRST_POLL;
    else
        lane->poll_now = 0;
    if (lane->poll_now > lane->poll_most)
        lane->poll_now = lane->poll_most;
}

static nfds_t descriptors(const hdv_lane *lane, struct pollfd *waits, uint32_t *owners) {
    nfds_t count = 0;
    waits[count++] = (struct pollfd){lane->wake, POLLIN, 0};
    owners[count] = LISTENER;
    waits[count++] = (struct pollfd){lane->socket, POLLIN, 0}; /* poll(2) skips what is negative */
    for (uint32_t index = 0; index < lane->count; index++)
        if (lane->queues[index].ring && lane->queues[index].kick >= 0) {
            owners[count] = index;
            waits[count++] = (struct pollfd){lane->queues[index].kick, POLLIN, 0};
        }
    return count;
}

static void sleep_until_kicked(hdv_lane *lane) {
    struct pollfd waits[HDV_LANE_QUEUES + 2];
    uint32_t owners[HDV_LANE_QUEUES + 2] = {0};
    nfds_t count = descriptors(lane, waits, owners);
    uint64_t began = now();
    pthread_mutex_unlock(&lane->lock);
    int ready = poll(waits, count, -1);
    pthread_mutex_lock(&lane->lock);
    learn(lane, now() - began);
    for (nfds_t at = 0; ready > 0 && at < count; at++) {
        if (!waits[at].revents)
            continue;
        if (owners[at] == LISTENER) {
            if (lane->socket == waits[at].fd)
                listen_for_kicks(lane);
            continue;
        }
        lane_queue *owner = at ? &lane->queues[owners[at]] : NULL;
        if (owner && (!owner->ring || owner->kick != waits[at].fd))
            continue; /* detached meanwhile: that number may be anybody's by now */
        uint64_t kicks = read_event(waits[at].fd);
        if (owner) {
            owner->counters.wakeups++;
            owner->counters.kicks += kicks;
        }
    }
}

void hdv_lane_run(hdv_lane *lane) {
    pthread_mutex_lock(&lane->lock);
    while (!lane->stopping) {
        disarm(lane);
        /* A ring that is said to have something, and has not, ends at arm(), which counts that. */
        for (bool found = true; found || (lane->poll_now && poll_rings(lane));) {
            bool looked = found;
            found = serve_all(lane);
            if (lane->stopping || (!looked && !found))
                break;
        }
        if (!lane->stopping && !arm(lane))
            sleep_until_kicked(lane);
    }
    pthread_mutex_unlock(&lane->lock);
}
