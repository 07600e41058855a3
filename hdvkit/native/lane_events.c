/* What happened in a lane, for whom it concerns: events for Python, interrupts for the driver. */
#include "lane_internal.h"

#include <stdlib.h>
#include <string.h>

static hdv_event *new_event(const hdv_lane *lane, hdv_event_kind kind, uint32_t queue, uint32_t segments) {
    size_t each = sizeof(hdv_segment) + sizeof(uint32_t);
    hdv_event *event = calloc(1, sizeof *event + segments * each);
    if (!event)
        abort(); /* no request may get lost, and there is nobody to tell */
    event->kind = kind;
    event->queue = queue;
    event->life = lane->queues[queue].life;
    event->regions = (uint32_t *)(void *)(event->segments + segments);
    return event;
}

static void add(hdv_lane *lane, hdv_event *event) {
    if (!lane->first)
        hdv_write_event(lane->news);
    event->next = NULL;
    *lane->last = event;
    lane->last = &event->next;
}

void hdv_lane_announce(hdv_lane *lane, hdv_event_kind kind, uint32_t queue) {
    add(lane, new_event(lane, kind, queue, 0));
}

void hdv_lane_report(hdv_lane *lane, uint32_t queue, hdv_error error) {
    hdv_event *event = new_event(lane, HDV_EVENT_BROKEN, queue, 0);
    event->error = error;
    lane->queues[queue].broken = true;
    add(lane, event);
}

void hdv_lane_hand_on(hdv_lane *lane, uint32_t queue, const hdv_chain *chain, uint64_t table) {
    uint32_t count = chain->readable + chain->writable;
    hdv_event *event = new_event(lane, HDV_EVENT_CHAIN, queue, count);
    event->table = table;
    event->head = chain->head;
    event->slots = chain->slots;
    event->readable = chain->readable;
    event->writable = chain->writable;
    memcpy(event->segments, chain->segments, count * sizeof *chain->segments);
    memcpy(event->regions, chain->regions, count * sizeof *chain->regions);
    add(lane, event);
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

bool hdv_lane_call(lane_queue *queue) {
    if (queue->call < 0)
        return false;
    queue->counters.interrupts++;
    hdv_write_event(queue->call);
    return true;
}
