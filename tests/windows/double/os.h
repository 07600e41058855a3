// What the double needs of an operating system. Knows nothing of devices.
#ifndef OS_H
#define OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    _Alignas(16) unsigned char bytes[64];
} os_mutex;

typedef struct {
    _Alignas(16) unsigned char bytes[64];
} os_cond;

void os_mutex_init(os_mutex *mutex);
void os_lock(os_mutex *mutex);
void os_unlock(os_mutex *mutex);
void os_cond_init(os_cond *cond);
// Waits until somebody broadcasts, at most until the deadline of os_now; negative is for ever. False: it has passed.
bool os_wait(os_cond *cond, os_mutex *mutex, int64_t deadline);
void os_broadcast(os_cond *cond);
void os_signal(os_cond *cond);

void os_thread(void (*entry)(void *), void *argument);
uint64_t os_thread_id(void);
uint32_t os_process_id(void);
void os_once(void (*initialise)(void));
// Microseconds of a clock that never steps.
int64_t os_now(void);
void os_sleep(uint32_t milliseconds);

// Memory with one identity and many mappings.
typedef struct os_ram os_ram;
os_ram *os_ram_create(uint64_t size);
void os_ram_destroy(os_ram *ram);
uint8_t *os_ram_base(os_ram *ram);
void os_ram_back(os_ram *ram, uint64_t offset, uint64_t size);

// A second mapping of some of it, with pages that fault on both sides.
typedef struct {
    uint8_t *base;
    size_t size;
    uint8_t *outer;
    size_t outer_size;
    bool mapped;
} os_window;
bool os_window_map(os_window *window, os_ram *ram, uint64_t offset, size_t size, bool read_only);
// These pages keep what they have now and are nobody else's. Windows: all of the window, at another address.
bool os_window_unshare(os_window *window, size_t offset, size_t size, bool read_only);
// From now on every access faults, until the addresses are given back.
void os_window_retire(os_window *window);
void os_window_free(os_window *window);

// Sections and events by the handles that callers have; NULL or false when it is none.
void *os_section_map(void *section, uint64_t offset, size_t size, bool read_only);
void os_section_unmap(void *address, size_t size);
void *os_event_duplicate(void *event);
void os_event_set(void *duplicate);
void os_event_close(void *duplicate);
bool os_event_is_open(void *event);

// Whether some multithreaded apartment lives; only Linux knows.
bool os_mta_lives(void);

// Forgets what tests left behind.
void os_reset(void);

// Memory that the caller gives to LocalFree.
void *os_local_alloc(size_t size);

#endif
