/* Random numbers that come again with the seed, for fuzzers: xorshift64*, which needs no state but a number. */
#ifndef FUZZ_RANDOM_H
#define FUZZ_RANDOM_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint64_t fuzz_state = 1;

static inline uint64_t fuzz_next(void) {
    fuzz_state ^= fuzz_state >> 12;
    fuzz_state ^= fuzz_state << 25;
    fuzz_state ^= fuzz_state >> 27;
    return fuzz_state * UINT64_C(2685821657736338717);
}

/* Less than `most`. */
static inline uint64_t fuzz_below(uint64_t most) {
    return fuzz_next() % most;
}

static inline int fuzz_one_in(uint64_t count) {
    return !fuzz_below(count);
}

/* Seconds and seed from the command line; what is printed brings a failure back. */
static inline double fuzz_begin(int count, char **arguments) {
    double seconds = count > 1 ? atof(arguments[1]) : 10;
    fuzz_state = count > 2 ? strtoull(arguments[2], NULL, 10) : (uint64_t)time(NULL) * 2654435761u;
    fuzz_state += !fuzz_state;
    printf("%s: %.0f s, seed %llu\n", arguments[0], seconds, (unsigned long long)fuzz_state);
    fflush(stdout);
    return seconds;
}

static inline double fuzz_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

#endif
