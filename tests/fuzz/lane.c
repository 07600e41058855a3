/* A lane between a driver that never stops and a loop that takes everything away from under it, for ThreadSanitizer.
 *
 * The driver keeps a split ring busy from a thread of its own. The loop completes what the handler declined, and now and
 * then stops the driver, detaches the ring, waits until the lane has settled, and begins with a new one. Each chain
 * must come back once, with its answer. */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "../../hdvkit/native/lane.h"
#include "random.h"

#define SIZE 64
#define AREA 4096
#define MEMORY (4 * AREA)
#define BUFFERS (MEMORY - AREA) /* one of 32 bytes for each chain: a word in, a word out */
#define WRITE 2
#define NEXT 1

static _Alignas(AREA) uint8_t ram[MEMORY];
static hdv_region region = {0x10000, sizeof ram, ram, true};
static hdv_ring ring;
static hdv_lane *lane;
static int kick, call, news;
static uint64_t life;

static pthread_mutex_t driver_lock = PTHREAD_MUTEX_INITIALIZER; /* held by the driver but between two turns */
static bool ending;
static uint16_t submitted, harvested;
static unsigned long long chains, restarts;

static uint16_t load(const uint8_t *at) {
    return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_ACQUIRE);
}

static void store(uint8_t *at, uint16_t value) {
    __atomic_store_n((uint16_t *)(void *)at, value, __ATOMIC_RELEASE);
}

/* The device */

static hdv_outcome answer(void *context, bool patient, const hdv_chain *chain, uint32_t *written) {
    uint32_t word;
    (void)context;
    if (hdv_chain_read(chain, 0, &word, sizeof word) != sizeof word || word % 4 == 3)
        return HDV_DECLINED;
    if (word % 4 == 2 && !patient)
        return HDV_WAITS;
    if (patient && word % 64 == 2 && poll(NULL, 0, 1))
        return HDV_DECLINED;
    word = ~word;
    *written = (uint32_t)hdv_chain_write(chain, 0, &word, sizeof word);
    return HDV_ANSWERED;
}

/* The driver */

static uint8_t *buffer(uint16_t head) {
    return ram + BUFFERS + 32 * (size_t)(head / 2);
}

static void submit(void) {
    uint16_t head = (uint16_t)(2 * (submitted % (SIZE / 2)));
    uint32_t word = (uint32_t)fuzz_next();
    memcpy(buffer(head), &word, 4);
    for (int part = 0; part < 2; part++) {
        uint8_t *descriptor = ram + 16 * (size_t)(head + part);
        uint64_t address = region.address + (uint64_t)(buffer(head) - ram) + 16u * (unsigned)part;
        uint32_t length = 4;
        uint16_t flags = part ? WRITE : NEXT, next = (uint16_t)(head + 1);
        memcpy(descriptor, &address, 8);
        memcpy(descriptor + 8, &length, 4);
        memcpy(descriptor + 12, &flags, 2);
        memcpy(descriptor + 14, &next, 2);
    }
    store(ram + AREA + 4 + 2 * (submitted % SIZE), head);
    store(ram + AREA + 2, ++submitted);
}

static void harvest(void) {
    while (harvested != load(ram + 2 * AREA + 2)) {
        const uint8_t *used = ram + 2 * AREA + 4 + 8 * (size_t)(harvested % SIZE);
        uint32_t head, length, in, out;
        memcpy(&head, used, 4);
        memcpy(&length, used + 4, 4);
        memcpy(&in, buffer((uint16_t)head), 4);
        memcpy(&out, buffer((uint16_t)head) + 16, 4);
        if (length != 4 || out != ~in)
            abort();
        harvested++;
        chains++;
    }
}

static void *drive(void *unused) {
    uint64_t one = 1, count;
    for (;;) {
        pthread_mutex_lock(&driver_lock);
        if (ending) {
            pthread_mutex_unlock(&driver_lock);
            return unused;
        }
        /* In order: a chain's place is free when those before it have come back. */
        harvest();
        bool idle = submitted == harvested;
        for (uint64_t more = idle ? 1 + fuzz_below(SIZE / 2) : 0; more; more--)
            submit();
        if (idle && write(kick, &one, sizeof one) < 0)
            abort();
        pthread_mutex_unlock(&driver_lock);
        struct pollfd called = {call, POLLIN, 0};
        if (poll(&called, 1, 1) == 1 && read(call, &count, sizeof count) < 0)
            continue;
    }
}

/* The loop */

static void begin(void) {
    memset(ram, 0, sizeof ram);
    submitted = harvested = 0;
    hdv_ring_init(&ring, ram, ram + AREA, ram + 2 * AREA, SIZE, false, true, fuzz_one_in(2));
    hdv_lane_set_memory(lane, ++life, &region, 1);
    hdv_lane_attach(lane, 0, &ring, life, kick, fuzz_one_in(4) ? -1 : call);
}

static void complete(const hdv_event *event) {
    uint32_t word;
    uint64_t one = 1;
    if (event->kind == HDV_EVENT_CHAIN && event->life == life) {
        memcpy(&word, event->segments[0].base, sizeof word);
        word = ~word;
        memcpy(event->segments[event->readable].base, &word, sizeof word);
    }
    bool signal = event->kind == HDV_EVENT_SIGNAL ||
                  (event->kind == HDV_EVENT_CHAIN &&
                   hdv_lane_complete(lane, 0, event->life, event->head, event->slots, sizeof word));
    if (event->kind == HDV_EVENT_BROKEN)
        abort();
    if (signal && write(call, &one, sizeof one) < 0)
        abort();
}

static void take_events(void) {
    uint64_t count;
    struct pollfd told = {news, POLLIN, 0};
    if (poll(&told, 1, 1) == 1 && read(news, &count, sizeof count) < 0)
        return;
    for (hdv_event *event = hdv_lane_take(lane), *next; event; event = next) {
        next = event->next;
        complete(event);
        hdv_event_free(event);
    }
}

static void restart(void) {
    pthread_mutex_lock(&driver_lock);
    hdv_lane_detach(lane, 0);
    life++; /* what is on its way belongs to nobody */
    for (uint64_t ticket = hdv_lane_ticket(lane); hdv_lane_passed(lane) < ticket;)
        take_events();
    begin();
    restarts++;
    pthread_mutex_unlock(&driver_lock);
}

static void *run(void *unused) {
    hdv_lane_run(lane);
    return unused;
}

int main(int count, char **arguments) {
    pthread_t serving, driving;
    double end = fuzz_now() + fuzz_begin(count, arguments);
    kick = eventfd(0, EFD_NONBLOCK);
    call = eventfd(0, EFD_NONBLOCK);
    news = eventfd(0, EFD_NONBLOCK);
    lane = hdv_lane_new(news, 50);
    hdv_lane_set_handler(lane, (hdv_handler){answer, NULL});
    begin();
    if (pthread_create(&serving, NULL, run, NULL) || pthread_create(&driving, NULL, drive, NULL))
        abort();
    for (unsigned turn = 1; fuzz_now() < end; turn++) {
        take_events();
        if (turn % 50 == 0)
            restart();
        if (turn % 7 == 0)
            hdv_lane_kick(lane);
        (void)hdv_lane_read(lane, 0);
    }
    pthread_mutex_lock(&driver_lock);
    ending = true;
    pthread_mutex_unlock(&driver_lock);
    pthread_join(driving, NULL);
    hdv_lane_stop(lane);
    pthread_join(serving, NULL);
    hdv_lane_free(lane);
    printf("%llu chains, %llu restarts\n", chains, restarts);
    return chains < 100;
}
