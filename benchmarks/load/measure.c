#define _POSIX_C_SOURCE 200809L
#include "measure.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static clockid_t cpu_clock;
static uint64_t wall_began, cpu_began;

static uint64_t cpu_time(void)
{
    struct timespec time;
    if (clock_gettime(cpu_clock, &time))
        fail("the server is gone");
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

void measure_process(pid_t process)
{
    const int error = clock_getcpuclockid(process, &cpu_clock);
    if (error)
        fail("the server's CPU clock cannot be read: %s", strerror(error));
}

void measure_begin(void)
{
    cpu_began = cpu_time();
    wall_began = now();
}

void measure_end(struct measure *measure)
{
    measure->wall += now() - wall_began;
    measure->cpu += cpu_time() - cpu_began;
}

static unsigned place_of(uint64_t nanoseconds)
{
    const unsigned highest = 63 - (unsigned)__builtin_clzll(nanoseconds | 1);
    const unsigned shift = highest < FINE ? 0 : highest - FINE;
    return (shift << FINE) + (unsigned)(nanoseconds >> shift);
}

static uint64_t lowest_at(unsigned place)
{
    const unsigned shift = place < 2u << FINE ? 0 : (place >> FINE) - 1;
    return (uint64_t)(place - (shift << FINE)) << shift;
}

void measure_operation(struct measure *measure, uint64_t nanoseconds)
{
    measure->operations++;
    measure->latencies[place_of(nanoseconds)]++;
}

/* The latency that so many of a hundred operations stay below, in microseconds. */
static double percentile(const struct measure *measure, unsigned of_hundred)
{
    const uint64_t wanted = measure->operations * of_hundred / 100;
    uint64_t seen = 0;
    for (unsigned place = 0; place < PLACES; place++)
        if ((seen += measure->latencies[place]) > wanted)
            return (double)lowest_at(place) / 1e3;
    return 0;
}

void measure_print(const struct measure *measure, const char *workload, unsigned depth, const char *unit)
{
    printf("{\"workload\": \"%s\", \"depth\": %u, \"operations\": %llu, \"seconds\": %.6f", workload, depth,
           (unsigned long long)measure->operations, (double)measure->wall / 1e9);
    printf(", \"p50_us\": %.3f, \"p99_us\": %.3f, \"cpu_us\": %.4f", percentile(measure, 50), percentile(measure, 99),
           (double)measure->cpu / 1e3 / (double)measure->operations);
    if (unit)
        printf(", \"unit\": \"%s\", \"units\": %llu", unit, (unsigned long long)measure->units);
    puts("}");
    fflush(stdout);
}
