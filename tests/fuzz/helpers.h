/* Threads that ask again about chains that have to wait, as a lane's helpers do, while other requests are answered. */
#ifndef FUZZ_HELPERS_H
#define FUZZ_HELPERS_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "../../devices/hdvkit_virtiofs/native/share.h"

#define HELPERS (HDV_CALLS - 1)

static struct {
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t changed;
    pthread_t threads[HELPERS];
    vf_share *share;
    hdv_chain *waiting[HELPERS];
    unsigned count, working;
    unsigned long long done;
    bool ending;
} helpers = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static inline void free_segments(hdv_chain *chain) {
    for (uint32_t at = 0; at < chain->readable + chain->writable; at++)
        free(chain->segments[at].base);
}

static inline void ask_again(hdv_chain *chain) {
    uint32_t written = 0;
    hdv_outcome outcome = vf_answer(helpers.share, true, chain, &written);
    if (outcome == HDV_WAITS || written > chain->writable_size)
        abort();
    free_segments(chain);
    free(chain);
}

static inline void *help(void *unused) {
    (void)unused;
    pthread_mutex_lock(&helpers.lock);
    while (!helpers.ending || helpers.count) {
        if (!helpers.count) {
            pthread_cond_wait(&helpers.changed, &helpers.lock);
            continue;
        }
        hdv_chain *chain = helpers.waiting[--helpers.count];
        helpers.working++;
        pthread_mutex_unlock(&helpers.lock);
        ask_again(chain);
        pthread_mutex_lock(&helpers.lock);
        helpers.working--;
        helpers.done++;
        pthread_cond_broadcast(&helpers.changed);
    }
    pthread_mutex_unlock(&helpers.lock);
    return NULL;
}

static inline void helpers_begin(vf_share *share) {
    helpers.share = share;
    for (int at = 0; at < HELPERS; at++)
        if (pthread_create(&helpers.threads[at], NULL, help, NULL))
            abort();
}

/* Have a chain answered, which is theirs with its segments then; false when all of them work. */
static inline bool helpers_take(const hdv_chain *chain) {
    pthread_mutex_lock(&helpers.lock);
    bool free_hands = helpers.count + helpers.working < HELPERS;
    if (free_hands) {
        hdv_chain *copy = malloc(sizeof *copy);
        if (!copy)
            abort();
        memcpy(copy, chain, sizeof *copy);
        helpers.waiting[helpers.count++] = copy;
        pthread_cond_broadcast(&helpers.changed);
    }
    pthread_mutex_unlock(&helpers.lock);
    return free_hands;
}

static inline void helpers_settle(void) {
    pthread_mutex_lock(&helpers.lock);
    while (helpers.count + helpers.working)
        pthread_cond_wait(&helpers.changed, &helpers.lock);
    pthread_mutex_unlock(&helpers.lock);
}

/* How many chains they have answered or declined. */
static inline unsigned long long helpers_end(void) {
    pthread_mutex_lock(&helpers.lock);
    helpers.ending = true;
    pthread_cond_broadcast(&helpers.changed);
    pthread_mutex_unlock(&helpers.lock);
    for (int at = 0; at < HELPERS; at++)
        pthread_join(helpers.threads[at], NULL);
    return helpers.done;
}

#endif
