#include "common.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { TOLD = 5 };

static unsigned long wrongs;

uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

uint64_t scramble(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void say(const char *head, const char *format, va_list arguments)
{
    fprintf(stderr, "%s: ", head);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
}

noreturn void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say("load", format, arguments);
    va_end(arguments);
    exit(2);
}

void wrong(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (wrongs++ < TOLD)
        say("wrong answer", format, arguments);
    va_end(arguments);
}

unsigned long wrong_answers(void)
{
    return wrongs;
}
