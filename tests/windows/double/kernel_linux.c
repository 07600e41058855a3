// Events, waits, LocalFree and apartments, where no Windows has them. One mutex of their own, taken after the other.
#include "double.h"

#include <stdlib.h>

enum { ERROR_INVALID_HANDLE = 6, ERROR_IO_PENDING = 997, WAIT_TIMEOUT = 0x102, EXECUTE_ONLY_ONCE = 8 };
enum { MAX_EVENTS = 65536, MAX_WAITS = 65536, MAX_COOKIES = 1024 };
#define INVALID ((HANDLE)(intptr_t)-1)
#define WAIT_FAILED UINT32_MAX

struct event {
    bool manual, signalled, open;
    uint32_t references;
    os_cond cond;
};

struct wait {
    struct event *event;
    WAITORTIMERCALLBACK callback;
    void *context;
    uint32_t milliseconds;
    bool once, stop, in_callback, ended, registered;
    struct event *completion;
};

struct block {
    struct block *next;
    size_t size;
};

static os_mutex mutex;
static os_cond wait_ended;
static struct event *events[MAX_EVENTS];
static struct wait *waits[MAX_WAITS];
static uint32_t event_count, wait_count, cookies;
static bool cookie_live[MAX_COOKIES];
static struct block *blocks;
static _Thread_local DWORD last_error;
static _Thread_local const struct wait *waiting_here;

__attribute__((constructor)) static void initialise(void) {
    os_mutex_init(&mutex);
    os_cond_init(&wait_ended);
}

static void enter(void) { os_lock(&mutex); }
static void leave(void) { os_unlock(&mutex); }

DWORD GetLastError(void) { return last_error; }

// -- events ---------------------------------------------------------------------------------------

// With the mutex held; NULL and the error when it is no open event.
static struct event *event_of(const void *handle, const char *where) {
    uint32_t index = handle_index(EVENT, handle);
    if (index >= event_count || events[index] == NULL || !events[index]->open) {
        warn("%s: %#llx is no handle, or a closed one", where, SHOWN(handle));
        last_error = ERROR_INVALID_HANDLE;
        return NULL;
    }
    return events[index];
}

static void let_go(struct event *event) {
    if (--event->references == 0) {
        free(event);
    }
}

static void signal_event(struct event *event) {
    event->signalled = true;
    os_broadcast(&event->cond);
}

HANDLE CreateEventW(void *attributes, BOOL manual, BOOL initial, const WCHAR *name) {
    (void)attributes, (void)name;
    struct event *event = calloc(1, sizeof *event);
    enter();
    if (event == NULL || event_count == MAX_EVENTS) {
        fatal("more than %d events", MAX_EVENTS);
    }
    *event = (struct event){.manual = manual, .signalled = initial, .open = true, .references = 1};
    os_cond_init(&event->cond);
    events[event_count] = event;
    HANDLE handle = make_handle(EVENT, event_count++);
    leave();
    add(COUNT_events_live, 1);
    return handle;
}

BOOL SetEvent(HANDLE handle) {
    enter();
    struct event *event = event_of(handle, "SetEvent");
    if (event != NULL) {
        signal_event(event);
    }
    leave();
    return event != NULL;
}

BOOL ResetEvent(HANDLE handle) {
    enter();
    struct event *event = event_of(handle, "ResetEvent");
    if (event != NULL) {
        event->signalled = false;
    }
    leave();
    return event != NULL;
}

BOOL CloseHandle(HANDLE handle) {
    enter();
    struct event *event = event_of(handle, "CloseHandle");
    if (event != NULL) {
        for (uint32_t at = 0; at < wait_count; at++) {
            if (waits[at] != NULL && waits[at]->registered && waits[at]->event == event) {
                warn("CloseHandle: a wait is registered on this event");
            }
        }
        event->open = false;
        events[handle_index(EVENT, handle)] = NULL;
        let_go(event);
        add(COUNT_events_live, -1);
    }
    leave();
    return event != NULL;
}

// With the mutex held: whether the event was signalled before the deadline, and nobody said stop.
static bool wait_for(struct event *event, int64_t deadline, const bool *stop) {
    bool more = true;
    while (!event->signalled && !*stop && more) {
        more = os_wait(&event->cond, &mutex, deadline);
    }
    if (!event->signalled || *stop) {
        return false;
    }
    event->signalled = event->manual;
    return true;
}

static int64_t deadline_of(uint32_t milliseconds) {
    return milliseconds == UINT32_MAX ? -1 : os_now() + (int64_t)milliseconds * 1000;
}

DWORD WaitForSingleObject(HANDLE handle, DWORD milliseconds) {
    static const bool never = false;
    if (loop_here && milliseconds > 0) {
        warn("WaitForSingleObject was called on the thread of an event loop");
    }
    enter();
    struct event *event = event_of(handle, "WaitForSingleObject");
    DWORD result = WAIT_FAILED;
    if (event != NULL) {
        event->references++;
        result = wait_for(event, deadline_of(milliseconds), &never) ? 0 : WAIT_TIMEOUT;
        let_go(event);
    }
    leave();
    return result;
}

void *os_event_duplicate(void *handle) {
    enter();
    struct event *event = event_of(handle, "DuplicateHandle");
    if (event != NULL) {
        event->references++;
    }
    leave();
    return event;
}

void os_event_set(void *duplicate) {
    enter();
    signal_event(duplicate);
    leave();
}

void os_event_close(void *duplicate) {
    enter();
    let_go(duplicate);
    leave();
}

bool os_event_is_open(void *handle) {
    enter();
    uint32_t index = handle_index(EVENT, handle);
    bool open = index < event_count && events[index] != NULL;
    leave();
    return open;
}

// -- waits ----------------------------------------------------------------------------------------

static void run_wait(void *argument) {
    struct wait *wait = argument;
    enter();
    while (!wait->stop) {
        bool signalled = wait_for(wait->event, deadline_of(wait->milliseconds), &wait->stop);
        if (wait->stop) {
            break;
        }
        wait->in_callback = true;
        leave();
        waiting_here = wait;
        wait->callback(wait->context, !signalled);
        waiting_here = NULL;
        enter();
        wait->in_callback = false;
        if (wait->once) {
            break;
        }
    }
    wait->ended = true;
    let_go(wait->event);
    if (wait->completion != NULL) {
        signal_event(wait->completion);
        let_go(wait->completion);
    }
    os_broadcast(&wait_ended);
    leave();
}

BOOL RegisterWaitForSingleObject(HANDLE *result, HANDLE object, WAITORTIMERCALLBACK callback, void *context,
                                 uint32_t milliseconds, uint32_t flags) {
    enter();
    struct event *event = event_of(object, "RegisterWaitForSingleObject");
    struct wait *wait = event == NULL ? NULL : calloc(1, sizeof *wait);
    if (wait != NULL) {
        if (wait_count == MAX_WAITS) {
            fatal("more than %d waits", MAX_WAITS);
        }
        *wait = (struct wait){.event = event, .callback = callback, .context = context, .milliseconds = milliseconds};
        wait->once = flags & EXECUTE_ONLY_ONCE;
        wait->registered = true;
        event->references++;
        waits[wait_count] = wait;
        *result = make_handle(WAIT, wait_count++);
        add(COUNT_waits_live, 1);
    }
    leave();
    if (wait != NULL) {
        os_thread(run_wait, wait);
    }
    return wait != NULL;
}

static void stop_wait(struct wait *wait) {
    wait->stop = true;
    if (!wait->ended) {
        os_broadcast(&wait->event->cond);
    }
}

BOOL UnregisterWaitEx(HANDLE handle, HANDLE completion) {
    uint32_t index = handle_index(WAIT, handle);
    enter();
    if (index >= wait_count || !waits[index]->registered) {
        fatal("UnregisterWaitEx: %#llx is no wait, or one that was unregistered", SHOWN(handle));
    }
    struct wait *wait = waits[index];
    if (completion == INVALID && waiting_here == wait) {
        fatal("UnregisterWaitEx: a callback waits for its own end");
    }
    wait->registered = false;
    stop_wait(wait);
    add(COUNT_waits_live, -1);
    bool pending = false;
    if (completion == INVALID) {
        while (!wait->ended) {
            os_wait(&wait_ended, &mutex, -1);
        }
    } else if (!wait->ended && completion != NULL) {
        wait->completion = event_of(completion, "UnregisterWaitEx");
        if (wait->completion != NULL) {
            wait->completion->references++;
        }
        pending = wait->in_callback;
    } else if (completion != NULL) {
        struct event *event = event_of(completion, "UnregisterWaitEx");
        if (event != NULL) {
            signal_event(event);
        }
    } else {
        pending = wait->in_callback;
    }
    leave();
    last_error = pending ? ERROR_IO_PENDING : 0;
    return !pending;
}

// -- memory and apartments ------------------------------------------------------------------------

void *os_local_alloc(size_t size) {
    struct block *block = malloc(sizeof *block + size);
    if (block == NULL) {
        return NULL;
    }
    enter();
    *block = (struct block){blocks, size};
    blocks = block;
    leave();
    add(COUNT_strings_live, 1);
    return block + 1;
}

void *LocalFree(void *memory) {
    if (memory == NULL) {
        return NULL;
    }
    enter();
    struct block **at = &blocks;
    while (*at != NULL && *at + 1 != memory) {
        at = &(*at)->next;
    }
    struct block *block = *at;
    if (block == NULL) {
        fatal("LocalFree: %#llx is no result string, or one that was freed", SHOWN(memory));
    }
    *at = block->next;
    memset(block, 0xDD, sizeof *block + block->size);
    free(block);
    leave();
    add(COUNT_strings_live, -1);
    return NULL;
}

HRESULT CoIncrementMTAUsage(void **cookie) {
    HRESULT code;
    if (ordered("CoIncrementMTAUsage", QUICK, &code)) {
        return code;
    }
    enter();
    if (cookies == MAX_COOKIES) {
        fatal("CoIncrementMTAUsage was called %d times", MAX_COOKIES);
    }
    cookie_live[cookies] = true;
    *cookie = (void *)(uintptr_t)(0xC00C1E00 + cookies++);
    leave();
    add(COUNT_mta_live, 1);
    return S_OK;
}

HRESULT CoDecrementMTAUsage(void *cookie) {
    uintptr_t index = (uintptr_t)cookie - 0xC00C1E00;
    enter();
    if (index >= cookies || !cookie_live[index]) {
        fatal("CoDecrementMTAUsage: %#llx is no cookie, or a used one", SHOWN(cookie));
    }
    cookie_live[index] = false;
    leave();
    add(COUNT_mta_live, -1);
    return S_OK;
}

bool os_mta_lives(void) {
    bool lives = false;
    enter();
    for (uint32_t at = 0; at < cookies; at++) {
        lives |= cookie_live[at];
    }
    leave();
    return lives;
}

// Apartments live as long as the process, whatever a test forgets.
void os_reset(void) {
    int64_t deadline = os_now() + 20000000;
    enter();
    for (uint32_t at = 0; at < wait_count; at++) {
        stop_wait(waits[at]);
        while (!waits[at]->ended) {
            if (!os_wait(&wait_ended, &mutex, deadline)) {
                fatal("the callback of a wait does not return");
            }
        }
        free(waits[at]);
    }
    for (uint32_t at = 0; at < event_count; at++) {
        if (events[at] != NULL) {
            let_go(events[at]);
            events[at] = NULL;
        }
    }
    while (blocks != NULL) {
        struct block *next = blocks->next;
        free(blocks);
        blocks = next;
    }
    event_count = wait_count = 0;
    leave();
}
