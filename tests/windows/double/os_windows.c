// Threads, mappings, events and clocks of Windows.
#include "os.h"

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <stdlib.h>
#include <string.h>

enum { PAGE = 4096, GRANULARITY = 65536 };

_Static_assert(sizeof(SRWLOCK) <= sizeof(os_mutex), "the mutex fits");
_Static_assert(sizeof(CONDITION_VARIABLE) <= sizeof(os_cond), "the condition fits");

struct os_ram {
    HANDLE section;
    uint64_t size;
    uint8_t *base;
};

static SRWLOCK *mutex_of(os_mutex *mutex) { return (SRWLOCK *)(void *)mutex->bytes; }
static CONDITION_VARIABLE *cond_of(os_cond *cond) { return (CONDITION_VARIABLE *)(void *)cond->bytes; }

void os_mutex_init(os_mutex *mutex) { InitializeSRWLock(mutex_of(mutex)); }
void os_lock(os_mutex *mutex) { AcquireSRWLockExclusive(mutex_of(mutex)); }
void os_unlock(os_mutex *mutex) { ReleaseSRWLockExclusive(mutex_of(mutex)); }
void os_cond_init(os_cond *cond) { InitializeConditionVariable(cond_of(cond)); }
void os_signal(os_cond *cond) { WakeConditionVariable(cond_of(cond)); }
void os_broadcast(os_cond *cond) { WakeAllConditionVariable(cond_of(cond)); }

bool os_wait(os_cond *cond, os_mutex *mutex, int64_t deadline) {
    DWORD milliseconds = INFINITE;
    if (deadline >= 0) {
        int64_t left = (deadline - os_now() + 999) / 1000;
        milliseconds = left < 0 ? 0 : left > 0x7fffffff ? 0x7fffffff : (DWORD)left;
    }
    SleepConditionVariableSRW(cond_of(cond), mutex_of(mutex), milliseconds, 0);
    return deadline < 0 || os_now() < deadline;
}

struct start {
    void (*entry)(void *);
    void *argument;
};

static DWORD WINAPI run(void *argument) {
    struct start start = *(struct start *)argument;
    free(argument);
    start.entry(start.argument);
    return 0;
}

void os_thread(void (*entry)(void *), void *argument) {
    struct start *start = malloc(sizeof *start);
    if (start == NULL) {
        abort();
    }
    *start = (struct start){entry, argument};
    HANDLE thread = CreateThread(NULL, 0, run, start, 0, NULL);
    if (thread == NULL) {
        abort();
    }
    CloseHandle(thread);
}

uint64_t os_thread_id(void) { return GetCurrentThreadId(); }
uint32_t os_process_id(void) { return GetCurrentProcessId(); }

static BOOL CALLBACK first(INIT_ONCE *once, void *parameter, void **context) {
    (void)once, (void)context;
    (*(void (**)(void))parameter)();
    return TRUE;
}

void os_once(void (*initialise)(void)) {
    static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
    InitOnceExecuteOnce(&once, first, (void *)&initialise, NULL);
}

int64_t os_now(void) {
    LARGE_INTEGER ticks, rate;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&rate);
    return ticks.QuadPart / rate.QuadPart * 1000000 + ticks.QuadPart % rate.QuadPart * 1000000 / rate.QuadPart;
}

void os_sleep(uint32_t milliseconds) { Sleep(milliseconds); }

os_ram *os_ram_create(uint64_t size) {
    os_ram *ram = calloc(1, sizeof *ram);
    if (ram == NULL) {
        return NULL;
    }
    ram->size = size;
    // Reserved and not committed: a guest of 4 GiB shall not need 4 GiB of the host.
    ram->section = CreateFileMappingW(INVALID_HANDLE_VALUE, NULL, PAGE_READWRITE | SEC_RESERVE, (DWORD)(size >> 32),
                                      (DWORD)size, NULL);
    if (ram->section == NULL) {
        abort();
    }
    ram->base = MapViewOfFile(ram->section, FILE_MAP_WRITE, 0, 0, (SIZE_T)size);
    if (ram->base == NULL) {
        abort();
    }
    return ram;
}

void os_ram_destroy(os_ram *ram) {
    UnmapViewOfFile(ram->base);
    CloseHandle(ram->section);
    free(ram);
}

uint8_t *os_ram_base(os_ram *ram) { return ram->base; }

void os_ram_back(os_ram *ram, uint64_t offset, uint64_t size) {
    if (VirtualAlloc(ram->base + offset, (SIZE_T)size, MEM_COMMIT, PAGE_READWRITE) == NULL) {
        abort();
    }
}

// Views begin at multiples of 64 KiB of the section: the pages around the wanted ones are made to fault.
bool os_window_map(os_window *window, os_ram *ram, uint64_t offset, size_t size, bool read_only) {
    uint64_t start = offset / GRANULARITY * GRANULARITY;
    uint64_t end = (offset + size + GRANULARITY - 1) / GRANULARITY * GRANULARITY;
    end = end < ram->size ? end : ram->size;
    size_t before = (size_t)(offset - start);
    DWORD old;
    *window = (os_window){.size = size, .outer_size = (size_t)(end - start), .mapped = true};
    os_ram_back(ram, start, end - start);
    DWORD access = read_only ? FILE_MAP_READ : FILE_MAP_WRITE;
    window->outer = MapViewOfFile(ram->section, access, (DWORD)(start >> 32), (DWORD)start, window->outer_size);
    if (window->outer == NULL) {
        return false;
    }
    window->base = window->outer + before;
    size_t after = window->outer_size - before - size;
    if ((before && !VirtualProtect(window->outer, before, PAGE_NOACCESS, &old)) ||
        (after && !VirtualProtect(window->base + size, after, PAGE_NOACCESS, &old))) {
        UnmapViewOfFile(window->outer);
        return false;
    }
    return true;
}

bool os_window_unshare(os_window *window, size_t offset, size_t size, bool read_only) {
    (void)offset, (void)size;
    DWORD old;
    uint8_t *copy = VirtualAlloc(NULL, window->size + 2 * PAGE, MEM_RESERVE, PAGE_NOACCESS);
    if (copy == NULL || VirtualAlloc(copy + PAGE, window->size, MEM_COMMIT, PAGE_READWRITE) == NULL) {
        return false;
    }
    memcpy(copy + PAGE, window->base, window->size);
    UnmapViewOfFile(window->outer);
    window->mapped = false;
    window->outer = copy;
    window->outer_size = window->size + 2 * PAGE;
    window->base = copy + PAGE;
    return !read_only || VirtualProtect(window->base, window->size, PAGE_READONLY, &old);
}

void os_window_retire(os_window *window) {
    if (window->mapped) {
        UnmapViewOfFile(window->outer);
        // Somebody else may be quicker; then the addresses are theirs, and not ours to give back.
        if (VirtualAlloc(window->outer, window->outer_size, MEM_RESERVE, PAGE_NOACCESS) == NULL) {
            window->outer = NULL;
        }
    } else {
        VirtualFree(window->base, window->size, MEM_DECOMMIT);
    }
    window->mapped = false;
}

void os_window_free(os_window *window) {
    if (window->outer != NULL) {
        VirtualFree(window->outer, 0, MEM_RELEASE);
    }
    window->outer = NULL;
}

// Views begin at multiples of 64 KiB here too, so the section is mapped from its start.
void *os_section_map(void *section, uint64_t offset, size_t size, bool read_only) {
    DWORD access = read_only ? FILE_MAP_READ : FILE_MAP_WRITE;
    uint8_t *base = MapViewOfFile(section, access, 0, 0, (SIZE_T)offset + size);
    return base == NULL ? NULL : base + offset;
}

void os_section_unmap(void *address, size_t size) {
    MEMORY_BASIC_INFORMATION region;
    (void)size;
    if (VirtualQuery(address, &region, sizeof region) != 0) {
        UnmapViewOfFile(region.AllocationBase);
    }
}

void *os_event_duplicate(void *event) {
    HANDLE duplicate = NULL;
    HANDLE process = GetCurrentProcess();
    return DuplicateHandle(process, event, process, &duplicate, 0, FALSE, DUPLICATE_SAME_ACCESS) ? duplicate : NULL;
}

void os_event_set(void *duplicate) { SetEvent(duplicate); }
void os_event_close(void *duplicate) { CloseHandle(duplicate); }

bool os_event_is_open(void *event) {
    DWORD flags;
    return GetHandleInformation(event, &flags);
}

void *os_local_alloc(size_t size) { return LocalAlloc(LMEM_FIXED, size); }
bool os_mta_lives(void) { return true; }
void os_reset(void) {}
