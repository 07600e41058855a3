/* Helpers: threads that answer what may wait for a disk, so that the lane's own never does. There are none until there is
 * something to wait for, and a few at most: the disk does several things at a time, and they are for that. */
#define _GNU_SOURCE
#include "lane_internal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

static lane_job *next_job(const hdv_lane *lane) {
    lane_job *job = lane->jobs;
    while (job && job->begun)
        job = job->next;
    return job;
}

static void drop(hdv_lane *lane, lane_job *job) {
    lane_job **link = &lane->jobs;
    while (*link != job)
        link = &(*link)->next;
    *link = job->next;
    lane->job_count--;
    free(job);
}

uint64_t hdv_lane_settled(const hdv_lane *lane) {
    return lane->jobs ? lane->jobs->number - 1 : lane->done;
}

void hdv_lane_tell_settled(hdv_lane *lane) {
    if (lane->asked)
        hdv_write_event(lane->news); /* for this one, or for one that was asked for before it */
    if (hdv_lane_settled(lane) >= lane->asked)
        lane->asked = 0;
}

/* Answer, without the lock. The ring may be gone afterwards, and the guest's memory is what it was. */
static void answer(hdv_lane *lane, lane_job *job) {
    uint32_t written = 0;
    job->begun = true;
    pthread_mutex_unlock(&lane->lock);
    hdv_outcome outcome = job->handler.answer(job->handler.context, true, &job->chain, &written);
    pthread_mutex_lock(&lane->lock);
    bool ours = lane->queues[job->queue].ring && lane->queues[job->queue].life == job->life;
    if (ours && outcome == HDV_ANSWERED)
        hdv_lane_give_back(lane, job->queue, &job->chain, written, true);
    else if (ours)
        hdv_lane_hand_on(lane, job->queue, &job->chain, job->table);
    drop(lane, job);
    hdv_lane_tell_settled(lane);
}

static void *help(void *argument) {
    hdv_lane *lane = argument;
    pthread_mutex_lock(&lane->lock);
    while (!lane->stopping) {
        lane_job *job = next_job(lane);
        if (job) {
            answer(lane, job);
            continue;
        }
        lane->idle++;
        pthread_cond_wait(&lane->more, &lane->lock);
        lane->idle--;
    }
    pthread_mutex_unlock(&lane->lock);
    return NULL;
}

/* Signals are the program's, but for those that tell of a fault of the thread itself. */
static bool start(hdv_lane *lane, pthread_t *helper) {
    static const int FAULTS[] = {SIGBUS, SIGFPE, SIGILL, SIGSEGV};
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (size_t at = 0; at < sizeof FAULTS / sizeof *FAULTS; at++)
        sigdelset(&blocked, FAULTS[at]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before); /* which the new thread begins with */
    bool started = !pthread_create(helper, NULL, help, lane);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

/* The chain that the thread has, without the room that it does not need. */
static lane_job *new_job(const hdv_chain *chain) {
    uint32_t count = chain->readable + chain->writable;
    lane_job *job = malloc(sizeof *job); /* what is not written to takes no memory */
    if (!job)
        return NULL;
    memset(job, 0, offsetof(lane_job, chain));
    memcpy(&job->chain, chain, offsetof(hdv_chain, segments));
    memcpy(job->chain.segments, chain->segments, count * sizeof *chain->segments);
    memcpy(job->chain.regions, chain->regions, count * sizeof *chain->regions);
    return job;
}

/* Whether somebody does what waits: an idle helper or one more. */
static bool has_helper(hdv_lane *lane) {
    uint32_t waiting = 1;
    for (const lane_job *job = lane->jobs; job; job = job->next)
        waiting += !job->begun;
    bool wanted = waiting > lane->idle && lane->helper_count < LANE_HELPERS;
    if (wanted && start(lane, &lane->helpers[lane->helper_count]))
        lane->helper_count++;
    return lane->helper_count;
}

bool hdv_lane_give_job(hdv_lane *lane, uint32_t queue, uint64_t table, hdv_handler handler) {
    lane_job *job = lane->job_count < LANE_JOBS && has_helper(lane) ? new_job(&lane->chain) : NULL;
    if (!job)
        return false;
    job->number = lane->done;
    job->queue = queue;
    job->life = lane->queues[queue].life;
    job->table = table;
    job->handler = handler;
    lane_job **last = &lane->jobs;
    while (*last)
        last = &(*last)->next;
    *last = job;
    lane->job_count++;
    pthread_cond_signal(&lane->more);
    return true;
}

void hdv_lane_drop_jobs(hdv_lane *lane, uint32_t queue) {
    for (lane_job *job = lane->jobs, *next; job; job = next) {
        next = job->next;
        if (!job->begun && job->queue == queue)
            drop(lane, job);
    }
    hdv_lane_tell_settled(lane);
}

void hdv_lane_hand_on_jobs(hdv_lane *lane) {
    for (lane_job *job; (job = next_job(lane)); drop(lane, job))
        hdv_lane_hand_on(lane, job->queue, &job->chain, job->table); /* its ring is there: see hdv_lane_detach */
    hdv_lane_tell_settled(lane);
}

void hdv_lane_end_helpers(hdv_lane *lane) {
    pthread_cond_broadcast(&lane->more);
    pthread_mutex_unlock(&lane->lock);
    for (uint32_t index = 0; index < lane->helper_count; index++)
        pthread_join(lane->helpers[index], NULL);
    pthread_mutex_lock(&lane->lock);
    lane->helper_count = 0;
    while (lane->jobs)
        drop(lane, lane->jobs);
}
