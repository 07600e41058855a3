/* What every part of the load generator needs: time, numbers nobody guesses, and complaints. */
#ifndef COMMON_H
#define COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdnoreturn.h>

#define PAGE 4096u
#define MIB (1u << 20)

/* Nanoseconds of a clock that only goes forward. */
uint64_t now(void);

/* A number that has nothing to do with `x` to the eye: splitmix64. */
uint64_t scramble(uint64_t x);

/* The run cannot go on: say why, and exit with code 2. */
noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* An answer is wrong: say so. The run goes on, prints no more than a few of these, and ends with exit code 1. */
void wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* How many answers were wrong. */
unsigned long wrong_answers(void);

#endif
