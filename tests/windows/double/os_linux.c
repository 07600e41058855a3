// Threads, mappings and clocks of Linux. Events and LocalFree are in kernel_linux.c.
#define _GNU_SOURCE
#include "os.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096 };

_Static_assert(sizeof(pthread_mutex_t) <= sizeof(os_mutex), "the mutex fits");
_Static_assert(sizeof(pthread_cond_t) <= sizeof(os_cond), "the condition fits");

struct os_ram {
    int fd;
    uint64_t size;
    uint8_t *base;
};

static pthread_mutex_t *mutex_of(os_mutex *mutex) { return (pthread_mutex_t *)(void *)mutex->bytes; }
static pthread_cond_t *cond_of(os_cond *cond) { return (pthread_cond_t *)(void *)cond->bytes; }

void os_mutex_init(os_mutex *mutex) { pthread_mutex_init(mutex_of(mutex), NULL); }
void os_lock(os_mutex *mutex) { pthread_mutex_lock(mutex_of(mutex)); }
void os_unlock(os_mutex *mutex) { pthread_mutex_unlock(mutex_of(mutex)); }
void os_signal(os_cond *cond) { pthread_cond_signal(cond_of(cond)); }
void os_broadcast(os_cond *cond) { pthread_cond_broadcast(cond_of(cond)); }

void os_cond_init(os_cond *cond) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(cond_of(cond), &attributes);
    pthread_condattr_destroy(&attributes);
}

bool os_wait(os_cond *cond, os_mutex *mutex, int64_t deadline) {
    if (deadline < 0) {
        pthread_cond_wait(cond_of(cond), mutex_of(mutex));
        return true;
    }
    struct timespec until = {.tv_sec = deadline / 1000000, .tv_nsec = deadline % 1000000 * 1000};
    return pthread_cond_timedwait(cond_of(cond), mutex_of(mutex), &until) != ETIMEDOUT;
}

struct start {
    void (*entry)(void *);
    void *argument;
};

static void *run(void *argument) {
    struct start start = *(struct start *)argument;
    free(argument);
    start.entry(start.argument);
    return NULL;
}

void os_thread(void (*entry)(void *), void *argument) {
    struct start *start = malloc(sizeof *start);
    pthread_t thread;
    if (start == NULL) {
        abort();
    }
    *start = (struct start){entry, argument};
    if (pthread_create(&thread, NULL, run, start) != 0) {
        abort();
    }
    pthread_detach(thread);
}

uint64_t os_thread_id(void) { return (uint64_t)syscall(SYS_gettid); }
uint32_t os_process_id(void) { return (uint32_t)getpid(); }

void os_once(void (*initialise)(void)) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, initialise);
}

int64_t os_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void os_sleep(uint32_t milliseconds) {
    struct timespec span = {.tv_sec = milliseconds / 1000, .tv_nsec = (long)(milliseconds % 1000) * 1000000};
    while (nanosleep(&span, &span) != 0 && errno == EINTR) {
    }
}

os_ram *os_ram_create(uint64_t size) {
    os_ram *ram = calloc(1, sizeof *ram);
    if (ram == NULL) {
        return NULL;
    }
    ram->size = size;
    ram->fd = memfd_create("guest", MFD_CLOEXEC);
    if (ram->fd < 0 || ftruncate(ram->fd, (off_t)size) != 0) {
        abort();
    }
    ram->base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, ram->fd, 0);
    if (ram->base == MAP_FAILED) {
        abort();
    }
    return ram;
}

void os_ram_destroy(os_ram *ram) {
    munmap(ram->base, ram->size);
    close(ram->fd);
    free(ram);
}

uint8_t *os_ram_base(os_ram *ram) { return ram->base; }

void os_ram_back(os_ram *ram, uint64_t offset, uint64_t size) {
    // A sparse file needs no help.
    (void)ram, (void)offset, (void)size;
}

bool os_window_map(os_window *window, os_ram *ram, uint64_t offset, size_t size, bool read_only) {
    *window = (os_window){.size = size, .outer_size = size + 2 * PAGE, .mapped = true};
    window->outer = mmap(NULL, window->outer_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (window->outer == MAP_FAILED) {
        return false;
    }
    window->base = window->outer + PAGE;
    int protection = read_only ? PROT_READ : PROT_READ | PROT_WRITE;
    if (mmap(window->base, size, protection, MAP_SHARED | MAP_FIXED, ram->fd, (off_t)offset) == MAP_FAILED) {
        munmap(window->outer, window->outer_size);
        return false;
    }
    return true;
}

bool os_window_unshare(os_window *window, size_t offset, size_t size, bool read_only) {
    uint8_t *copy = malloc(size);
    if (copy == NULL) {
        return false;
    }
    uint8_t *at = window->base + offset;
    memcpy(copy, at, size);
    if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
        abort();
    }
    memcpy(at, copy, size);
    free(copy);
    return !read_only || mprotect(at, size, PROT_READ) == 0;
}

void os_window_retire(os_window *window) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    if (window->mapped && mmap(window->outer, window->outer_size, PROT_NONE, flags, -1, 0) == MAP_FAILED) {
        abort();
    }
    window->mapped = false;
}

void os_window_free(os_window *window) {
    munmap(window->outer, window->outer_size);
    window->outer = NULL;
}

// A section is a file descriptor here.
void *os_section_map(void *section, uint64_t offset, size_t size, bool read_only) {
    int protection = read_only ? PROT_READ : PROT_READ | PROT_WRITE;
    void *address = mmap(NULL, size, protection, MAP_SHARED, (int)(intptr_t)section, (off_t)offset);
    return address == MAP_FAILED ? NULL : address;
}

void os_section_unmap(void *address, size_t size) { munmap(address, size); }
