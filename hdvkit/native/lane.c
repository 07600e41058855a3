/* A lane as the loop's thread sees it: what it serves, and when it is done with what it served. */
#define _GNU_SOURCE
#include "lane_internal.h"

#include <sched.h>
#include <stdlib.h>

/* Making and ending */

static bool is_alone(void) {
    cpu_set_t cpus;
    return sched_getaffinity(0, sizeof cpus, &cpus) || CPU_COUNT(&cpus) == 1;
}

hdv_lane *hdv_lane_new(int news, uint32_t poll_us) {
    hdv_lane *lane = calloc(1, sizeof *lane);
    if (!lane)
        return NULL;
    if (!hdv_lane_open(lane)) {
        free(lane);
        return NULL;
    }
    pthread_mutex_init(&lane->lock, NULL);
    pthread_cond_init(&lane->more, NULL);
    lane->last = &lane->first;
    lane->news = news;
    lane->alone = is_alone();
    lane->poll_most = (uint64_t)poll_us * 1000u;
    return lane;
}

void hdv_lane_free(hdv_lane *lane) {
    while (lane->first) {
        hdv_event *event = lane->first;
        lane->first = event->next;
        hdv_event_free(event);
    }
    hdv_lane_close(lane);
    pthread_cond_destroy(&lane->more);
    pthread_mutex_destroy(&lane->lock);
    free(lane);
}

void hdv_lane_stop(hdv_lane *lane) {
    pthread_mutex_lock(&lane->lock);
    lane->stopping = true;
    pthread_mutex_unlock(&lane->lock);
    hdv_lane_wake(lane);
}

/* What the loop's thread changes */

void hdv_lane_set_memory(hdv_lane *lane, uint64_t table, const hdv_region *regions, uint32_t count) {
    pthread_mutex_lock(&lane->lock);
    hdv_lane_hand_on_jobs(lane); /* Python holds on to what they need, and not to all that was there */
    lane->table = table;
    lane->memory = (hdv_memory){regions, count, 0};
    pthread_mutex_unlock(&lane->lock);
}

void hdv_lane_set_handler(hdv_lane *lane, hdv_handler handler) {
    pthread_mutex_lock(&lane->lock);
    lane->handler = handler;
    if (!handler.answer)
        hdv_lane_hand_on_jobs(lane);
    pthread_mutex_unlock(&lane->lock);
}

void hdv_lane_attach(hdv_lane *lane, uint32_t queue, hdv_ring *ring, uint64_t life, int kick, int call) {
    pthread_mutex_lock(&lane->lock);
    lane->queues[queue] = (lane_queue){.ring = ring, .life = life, .kick = kick, .call = call};
    if (queue >= lane->count)
        lane->count = queue + 1;
    hdv_lane_hear(lane, queue);
    pthread_mutex_unlock(&lane->lock);
    hdv_lane_wake(lane);
}

void hdv_lane_detach(hdv_lane *lane, uint32_t queue) {
    pthread_mutex_lock(&lane->lock);
    hdv_lane_ignore(lane, queue);
    hdv_lane_drop_jobs(lane, queue);
    lane->queues[queue].ring = NULL;
    pthread_mutex_unlock(&lane->lock);
}

void hdv_lane_set_call(hdv_lane *lane, uint32_t queue, int call) {
    pthread_mutex_lock(&lane->lock);
    lane->queues[queue].call = call;
    pthread_mutex_unlock(&lane->lock);
}

void hdv_lane_listen(hdv_lane *lane, int socket, hdv_listener listener) {
    pthread_mutex_lock(&lane->lock);
    hdv_lane_leave_socket(lane);
    lane->listener = listener;
    if (socket >= 0)
        hdv_lane_take_socket(lane, socket);
    pthread_mutex_unlock(&lane->lock);
    hdv_lane_wake(lane);
}

uint64_t hdv_lane_ticket(hdv_lane *lane) {
    pthread_mutex_lock(&lane->lock);
    uint64_t ticket = lane->done + lane->busy;
    if (hdv_lane_settled(lane) < ticket)
        lane->asked = ticket;
    pthread_mutex_unlock(&lane->lock);
    return ticket;
}

uint64_t hdv_lane_passed(hdv_lane *lane) {
    pthread_mutex_lock(&lane->lock);
    uint64_t passed = hdv_lane_settled(lane);
    pthread_mutex_unlock(&lane->lock);
    return passed;
}

void hdv_lane_kick(hdv_lane *lane) {
    hdv_lane_wake(lane);
}

hdv_lane_counters hdv_lane_read(hdv_lane *lane, uint32_t queue) {
    pthread_mutex_lock(&lane->lock);
    lane_queue *of = &lane->queues[queue];
    if (of->ring && of->kick >= 0)
        of->counters.kicks += hdv_read_event(of->kick);
    hdv_lane_counters counters = of->counters;
    if (of->ring)
        counters.in_flight = of->ring->in_flight;
    pthread_mutex_unlock(&lane->lock);
    return counters;
}

bool hdv_lane_complete(hdv_lane *lane, uint32_t index, uint64_t life, uint16_t head, uint16_t slots, uint32_t written) {
    bool signal = false;
    pthread_mutex_lock(&lane->lock);
    lane_queue *queue = &lane->queues[index];
    if (queue->ring && queue->life == life) {
        hdv_ring_push(queue->ring, head, slots, written);
        signal = hdv_ring_should_signal(queue->ring) && !hdv_lane_call(queue);
    }
    pthread_mutex_unlock(&lane->lock);
    return signal;
}
