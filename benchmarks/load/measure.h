/* What is measured of a workload, and how it is told: one JSON object a line. */
#ifndef MEASURE_H
#define MEASURE_H

#include <sys/types.h>

#include "common.h"

/* 64 places for each power of two: a latency is told to 1.6 %. */
enum { FINE = 6, PLACES = (64 - FINE + 1) << FINE };

struct measure {
    uint64_t operations;
    uint64_t units; /* of those that are handled many at once: entries, bytes */
    uint64_t wall;  /* nanoseconds */
    uint64_t cpu;   /* of the server */
    uint64_t latencies[PLACES];
};

/* Whose CPU clock counts. */
void measure_process(pid_t process);

/* Let the clocks run, and stop them. */
void measure_begin(void);
void measure_end(struct measure *measure);

/* One operation is over. */
void measure_operation(struct measure *measure, uint64_t nanoseconds);

/* Print it. `unit` is what its units are, or NULL. */
void measure_print(const struct measure *measure, const char *workload, unsigned depth, const char *unit);

#endif
