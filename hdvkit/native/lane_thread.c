/* The thread: take turns among the queues, answer or hand on, poll for a while with kicks disarmed, arm, sleep.
 *
 * The order at the end matters: armed before it is polled, a driver would still kick for each request. Everything is
 * called with the lock held, and lets go of it where it says so. */
#include "atomics.h"
#include "lane_internal.h"

#include <sched.h>

#define BATCH 64            /* chains of one queue before the others have their turn */
#define SIGNAL_AFTER 16     /* chains that wait for one interrupt at most, */
#define SIGNAL_WITHIN 20000 /* and for how many nanoseconds */
#define EMPTY_LOOKS 16      /* as in hdvkit/runtime/queue.py: "there is more", and there was not */
#define LISTEN_EVERY 50000  /* nanoseconds in which a busy lane looks at its socket */
#define YIELDED_MOST 200000 /* nanoseconds for which others may have our processor while we look out for a kick, */
#define ASLEEP 100000000    /* or we sleep as soon as there is nothing to do, for so many */

static void signal_driver(hdv_lane *lane, uint32_t index) {
    lane_queue *queue = &lane->queues[index];
    queue->unsignalled = 0;
    if (!queue->ring || !hdv_ring_should_signal(queue->ring))
        return;
    if (hdv_lane_call(queue) || queue->signal_told)
        return;
    queue->signal_told = true;
    hdv_lane_announce(lane, HDV_EVENT_SIGNAL, index);
}

void hdv_lane_give_back(hdv_lane *lane, uint32_t index, const hdv_chain *chain, uint32_t written, bool at_once) {
    lane_queue *queue = &lane->queues[index];
    hdv_ring_push(queue->ring, chain->head, chain->slots, written);
    queue->counters.chains++;
    queue->counters.taken += chain->readable_size;
    queue->counters.given += written;
    uint64_t time = hdv_now();
    if (!queue->unsignalled++)
        queue->oldest = time;
    if (at_once || queue->unsignalled >= SIGNAL_AFTER || time - queue->oldest >= SIGNAL_WITHIN)
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
    hdv_outcome outcome = HDV_DECLINED;
    if (handler.answer && !lane->chain.remote)
        outcome = handler.answer(handler.context, false, &lane->chain, &written);
    pthread_mutex_lock(&lane->lock);
    lane->busy = false;
    lane->done++;
    bool ours = lane->queues[index].ring && lane->queues[index].life == life;
    if (ours && outcome == HDV_ANSWERED)
        hdv_lane_give_back(lane, index, &lane->chain, written, false);
    else if (ours && !(outcome == HDV_WAITS && hdv_lane_give_job(lane, index, table, handler)))
        hdv_lane_hand_on(lane, index, &lane->chain, table);
    if (lane->asked && hdv_lane_settled(lane) >= lane->asked)
        hdv_lane_tell_settled(lane);
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
            hdv_lane_report(lane, index, queue->ring->error);
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
    if (lane->socket >= 0 && hdv_now() - lane->listened >= LISTEN_EVERY) {
        lane->listened = hdv_now();
        hdv_lane_listen_for_kicks(lane);
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
            hdv_lane_report(lane, index, (hdv_error){HDV_ANNOUNCED_NOTHING, EMPTY_LOOKS, 0});
        else
            more = true;
    }
    return more;
}

/* Let some time pass, without the lock. Alone on a processor we would keep the guest from what we wait for: it runs
 * meanwhile. If others keep the processor for long, a kick would have brought it back sooner: then sleep, for a while. */
static void pass_time(hdv_lane *lane) {
    uint64_t began = hdv_now();
    pthread_mutex_unlock(&lane->lock);
    for (int spin = 0; spin < (lane->alone ? 0 : 32); spin++)
        hdv_pause();
    if (lane->alone)
        sched_yield();
    pthread_mutex_lock(&lane->lock);
    uint64_t ended = hdv_now();
    if (lane->alone && ended - began > YIELDED_MOST) {
        lane->alone_from = ended + ASLEEP;
        lane->poll_now = 0;
    }
}

/* Look for a while, with kicks disarmed; whether something came. Alone on a processor, a disk that a helper waits for
 * needs it too, and goes first. */
static bool poll_rings(hdv_lane *lane) {
    uint64_t began = hdv_now();
    while (hdv_now() - began < lane->poll_now && !(lane->alone && lane->jobs)) {
        if (lane->stopping || waiting(lane))
            return true;
        pass_time(lane);
    }
    return lane->stopping || waiting(lane);
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
            hdv_lane_sleep(lane);
    }
    hdv_lane_end_helpers(lane);
    pthread_mutex_unlock(&lane->lock);
}
