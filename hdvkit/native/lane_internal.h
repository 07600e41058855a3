/* A lane as its files see it. */
#ifndef HDVKIT_LANE_INTERNAL_H
#define HDVKIT_LANE_INTERNAL_H

#include "lane.h"

#include <pthread.h>

#define LANE_HELPERS (HDV_CALLS - 1)
#define LANE_JOBS 16 /* more of them are Python's, which has threads too */

typedef struct {
    hdv_ring *ring; /* NULL: not ours */
    uint64_t life;
    int kick;
    int call;
    bool broken;
    bool signal_told; /* Python is to interrupt, and has not taken that yet */
    uint32_t unsignalled; /* answered here, and not yet asked whether the driver wants to hear */
    uint32_t empty_looks;
    uint64_t oldest; /* when the first of them was */
    hdv_lane_counters counters;
} lane_queue;

/* A chain that a helper answers. */
typedef struct lane_job {
    struct lane_job *next;
    uint64_t number; /* of the chain, as `done` counts them */
    uint32_t queue;
    uint64_t life;
    uint64_t table;
    hdv_handler handler;
    bool begun;
    hdv_chain chain;
} lane_job;

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
    lane_job *jobs; /* oldest first */
    uint32_t job_count;
    uint32_t idle; /* helpers that have no job */
    uint32_t helper_count;
    pthread_t helpers[LANE_HELPERS];
    pthread_cond_t more; /* jobs, or the end of them */
    bool stopping;
    int epoll; /* waits for new kicks, whether or not old ones were read */
    int wake;
    int news;
    int socket; /* -1: Python's */
    hdv_listener listener;
    uint64_t listened; /* when it was looked at last */
    uint64_t poll_most; /* nanoseconds */
    uint64_t poll_now;
    bool alone;          /* on one processor: who polls lets the others run, */
    uint64_t alone_from; /* but not before this: they took long to give it back */
    hdv_chain chain; /* of the thread */
};

/* Everything below is called with the lock held. */

/* Chains: lane_thread.c */

/* Give a chain back that was answered, and look whether the driver wants to hear of it; at once, or soon. */
void hdv_lane_give_back(hdv_lane *lane, uint32_t queue, const hdv_chain *chain, uint32_t written, bool at_once);

/* Helpers: lane_helpers.c */

/* Have a helper answer the chain that the thread has, as the thread was to; false when too many wait for one. */
bool hdv_lane_give_job(hdv_lane *lane, uint32_t queue, uint64_t table, hdv_handler handler);
/* Take back what no helper has begun, before things change under it: those of a queue, which goes; or all of them, which
 * Python answers instead. */
void hdv_lane_drop_jobs(hdv_lane *lane, uint32_t queue);
void hdv_lane_hand_on_jobs(hdv_lane *lane);
/* All chains up to this one are answered or handed on. */
uint64_t hdv_lane_settled(const hdv_lane *lane);
/* A chain was answered or handed on: whoever waits for that hears of it. */
void hdv_lane_tell_settled(hdv_lane *lane);
/* Wait for the helpers to end; what none has begun is dropped. */
void hdv_lane_end_helpers(hdv_lane *lane);

/* What happened, for Python: lane_events.c */
void hdv_lane_announce(hdv_lane *lane, hdv_event_kind kind, uint32_t queue);
void hdv_lane_report(hdv_lane *lane, uint32_t queue, hdv_error error);
void hdv_lane_hand_on(hdv_lane *lane, uint32_t queue, const hdv_chain *chain, uint64_t table);
/* Interrupt the driver, where that is done by an eventfd. */
bool hdv_lane_call(lane_queue *queue);

/* Waiting: lane_waiting.c */
bool hdv_lane_open(hdv_lane *lane);
void hdv_lane_close(hdv_lane *lane);
void hdv_lane_wake(hdv_lane *lane);
/* Hear of new kicks of a queue, or of it no more. */
void hdv_lane_hear(hdv_lane *lane, uint32_t queue);
void hdv_lane_ignore(hdv_lane *lane, uint32_t queue);
/* Begin with a socket, or leave it. */
void hdv_lane_take_socket(hdv_lane *lane, int socket);
void hdv_lane_leave_socket(hdv_lane *lane);
/* Take the kicks at the front of the socket; leave it to Python where something else is. */
void hdv_lane_listen_for_kicks(hdv_lane *lane);
/* Sleep until there are kicks or something is said, with the lock let go of. */
void hdv_lane_sleep(hdv_lane *lane);

void hdv_write_event(int descriptor);
/* How often it was written; 0 when somebody else was first. */
uint64_t hdv_read_event(int descriptor);
uint64_t hdv_now(void);

#endif
