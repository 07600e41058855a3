/* A lane: one thread that serves all queues of one device, and hands to Python what the device's handler declines.
 *
 * A queue belongs to the lane from hdv_lane_attach until hdv_lane_detach and the settling behind it. The thread never
 * takes the interpreter's lock. The loop's thread calls everything here but hdv_lane_run; no call waits for longer than
 * it takes to move a pointer. */
#ifndef HDVKIT_LANE_H
#define HDVKIT_LANE_H

#include "handler.h"

#define HDV_LANE_QUEUES 64

/* What happened that Python has to see to. */
typedef enum { HDV_EVENT_CHAIN, HDV_EVENT_BROKEN, HDV_EVENT_SIGNAL, HDV_EVENT_SOCKET } hdv_event_kind;

typedef struct hdv_event {
    struct hdv_event *next;
    hdv_event_kind kind;
    uint32_t queue;
    uint64_t life;  /* of the queue, as it was given to hdv_lane_attach */
    uint64_t table; /* which the regions are of, as it was given to hdv_lane_set_memory */
    hdv_error error;
    uint16_t head;
    uint16_t slots;
    uint32_t readable;
    uint32_t writable;
    uint32_t *regions;
    hdv_segment segments[]; /* and behind them the regions */
} hdv_event;

typedef struct {
    uint64_t chains; /* answered here, as the next three */
    uint64_t taken;
    uint64_t given;
    uint64_t interrupts; /* sent from here */
    uint64_t kicks;      /* by the queue's eventfd, */
    uint64_t wakeups;    /* and how often they woke the thread */
    uint64_t in_flight;  /* taken and not given back now, by whomever */
} hdv_lane_counters;

typedef struct hdv_lane hdv_lane;

/* news: an eventfd that is written when there are events or the lane has settled. NULL without memory or descriptors. */
hdv_lane *hdv_lane_new(int news, uint32_t poll_us);
/* After hdv_lane_run has returned; events that nobody took are dropped. */
void hdv_lane_free(hdv_lane *lane);
/* Serve until hdv_lane_stop. */
void hdv_lane_run(hdv_lane *lane);
void hdv_lane_stop(hdv_lane *lane);

/* From the next request on. Of what was there before the lane lets go when it has settled. */
void hdv_lane_set_memory(hdv_lane *lane, uint64_t table, const hdv_region *regions, uint32_t count);
void hdv_lane_set_handler(hdv_lane *lane, hdv_handler handler);

/* kick and call are eventfds or -1: without the first, hdv_lane_kick says when to look, without the second, an event
 * says when to interrupt. life tells events of this ring from those of another one in its place. */
void hdv_lane_attach(hdv_lane *lane, uint32_t queue, hdv_ring *ring, uint64_t life, int kick, int call);
/* Let go of a queue once settled. */
void hdv_lane_detach(hdv_lane *lane, uint32_t queue);
void hdv_lane_set_call(hdv_lane *lane, uint32_t queue, int call);
/* A name for now: the thread is done with all that was detached or replaced until now when hdv_lane_passed has reached
 * it. If it has not yet, news is written when it has. */
uint64_t hdv_lane_ticket(hdv_lane *lane);
uint64_t hdv_lane_passed(hdv_lane *lane);

/* Read kicks from a socket too, a stream at the beginning of a message. At the first message that is no kick, or the
 * end, the socket is Python's again and an event says so. With -1, leave it alone from now on. */
void hdv_lane_listen(hdv_lane *lane, int socket, hdv_listener listener);

/* Look at the queues: one was kicked by other means than its eventfd. */
void hdv_lane_kick(hdv_lane *lane);
/* Take all events, oldest first; each is freed by the caller. */
hdv_event *hdv_lane_take(hdv_lane *lane);
void hdv_event_free(hdv_event *event);
/* Give back a chain that was declined, unless its ring is gone. Whether the driver is to be interrupted by the caller. */
bool hdv_lane_complete(hdv_lane *lane, uint32_t queue, uint64_t life, uint16_t head, uint16_t slots, uint32_t written);
/* What a queue has done since it was attached. */
hdv_lane_counters hdv_lane_read(hdv_lane *lane, uint32_t queue);

#endif
