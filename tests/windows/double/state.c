// The double's own affairs: its mutex, its report, what a test has switched or ordered, handles.
#include "double.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_LINES = 2000, MAX_TRACE = 20000, MAX_ORDERS = 64, MAX_DELAYS = 64, LINE = 400 };

struct line {
    char text[LINE];
    uint64_t times;
};

struct order {
    char name[TEXT];
    HRESULT code;
    uint32_t times;
    char *document;
};

struct delay {
    char name[TEXT];
    uint32_t milliseconds;
};

static os_mutex state_mutex, text_mutex;
static os_cond state_changed, job_came;
static struct line report[MAX_LINES];
static size_t report_lines;
static char *log_lines[MAX_TRACE];
static size_t log_count;
static struct order orders[MAX_ORDERS];
static struct delay delays[MAX_DELAYS];
static int64_t counters[COUNTER_COUNT];
static uint32_t generation;
static uint32_t detached;

#define NAME(name, ...) #name,
static const char *const switch_names[] = {SWITCHES(NAME)};
static const char *const counter_names[] = {COUNTERS(NAME)};
#undef NAME
#define VALUE(name, value) value,
static const int64_t switch_defaults[] = {SWITCHES(VALUE)};
static int64_t switch_values[] = {SWITCHES(VALUE)};
#undef VALUE

_Thread_local int callbacks_here;
_Thread_local bool loop_here;

static void initialise(void) {
    os_mutex_init(&state_mutex);
    os_mutex_init(&text_mutex);
    os_cond_init(&state_changed);
    os_cond_init(&job_came);
}

void lock(void) {
    os_once(initialise);
    os_lock(&state_mutex);
}

void unlock(void) { os_unlock(&state_mutex); }
void job_comes(void) { os_signal(&job_came); }
void wait_job(void) { os_wait(&job_came, &state_mutex, -1); }
void changed(void) { os_broadcast(&state_changed); }
bool wait_change(int64_t deadline) { return os_wait(&state_changed, &state_mutex, deadline); }

// -- words ----------------------------------------------------------------------------------------

void fatal(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("hdvdouble: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("\n", stderr);
    va_end(arguments);
    fflush(stderr);
    abort();
}

static void write_line(const char *kind, const char *format, va_list arguments) {
    char text[LINE];
    size_t used = (size_t)snprintf(text, sizeof text, "%s", kind);
    vsnprintf(text + used, sizeof text - used, format, arguments);
    os_once(initialise);
    os_lock(&text_mutex);
    for (size_t at = 0; at < report_lines; at++) {
        if (strcmp(report[at].text, text) == 0) {
            report[at].times++;
            os_unlock(&text_mutex);
            return;
        }
    }
    if (report_lines < MAX_LINES) {
        memcpy(report[report_lines].text, text, sizeof text);
        report[report_lines++].times = 1;
    }
    os_unlock(&text_mutex);
}

void warn(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_line("warning: ", format, arguments);
    va_end(arguments);
}

void info(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_line("info: ", format, arguments);
    va_end(arguments);
}

void trace(const char *format, ...) {
    char text[LINE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    os_once(initialise);
    os_lock(&text_mutex);
    if (log_count < MAX_TRACE) {
        log_lines[log_count++] = copy_text(text);
    }
    os_unlock(&text_mutex);
}

struct writer {
    char *text;
    uint64_t size, used;
};

static struct writer begin(char *text, uint64_t size) {
    if (size > 0) {
        text[0] = 0;
    }
    return (struct writer){text, size, 0};
}

static void put(struct writer *writer, const char *text) {
    uint64_t length = strlen(text);
    if (writer->used + length < writer->size) {
        memcpy(writer->text + writer->used, text, length + 1);
    }
    writer->used += length;
}

static void put_leak(struct writer *writer, const char *what, enum counter counter) {
    char text[LINE];
    if (counted(counter) != 0) {
        snprintf(text, sizeof text, "leak: %lld %s\n", (long long)counted(counter), what);
        put(writer, text);
    }
}

uint64_t dbl_report(char *text, uint64_t size) {
    struct writer writer = begin(text, size);
    char times[32];
    os_once(initialise);
    os_lock(&text_mutex);
    for (size_t at = 0; at < report_lines; at++) {
        put(&writer, report[at].text);
        snprintf(times, sizeof times, " (%llu times)", (unsigned long long)report[at].times);
        put(&writer, report[at].times > 1 ? times : "");
        put(&writer, "\n");
    }
    os_unlock(&text_mutex);
    put_leak(&writer, "operations", COUNT_operations_live);
    put_leak(&writer, "result strings", COUNT_strings_live);
    put_leak(&writer, "system handles", COUNT_systems_live);
    put_leak(&writer, "device hosts", COUNT_hosts_live);
    put_leak(&writer, "COM references", COUNT_com_live);
    put_leak(&writer, "doorbells", COUNT_doorbells_live);
    put_leak(&writer, "apertures", COUNT_apertures_live);
    put_leak(&writer, "events", COUNT_events_live);
    put_leak(&writer, "waits", COUNT_waits_live);
    return writer.used + 1;
}

uint64_t dbl_log(char *text, uint64_t size) {
    struct writer writer = begin(text, size);
    os_once(initialise);
    os_lock(&text_mutex);
    for (size_t at = 0; at < log_count; at++) {
        put(&writer, log_lines[at]);
        put(&writer, "\n");
    }
    os_unlock(&text_mutex);
    return writer.used + 1;
}

// -- switches, counters, orders -------------------------------------------------------------------

static int find(const char *name, const char *const *names, int count) {
    for (int at = 0; at < count; at++) {
        if (strcmp(name, names[at]) == 0) {
            return at;
        }
    }
    return -1;
}

int32_t dbl_set(const char *name, int64_t value) {
    int at = find(name, switch_names, SWITCH_COUNT);
    lock();
    if (at >= 0) {
        switch_values[at] = value;
    }
    unlock();
    return at < 0;
}

int64_t dbl_get(const char *name) {
    int at = find(name, switch_names, SWITCH_COUNT);
    return at < 0 ? INT64_MIN : __atomic_load_n(&switch_values[at], __ATOMIC_RELAXED);
}

int64_t dbl_count(const char *name) {
    int at = find(name, counter_names, COUNTER_COUNT);
    return at < 0 ? INT64_MIN : counted((enum counter)at);
}

int64_t switched(enum switch_number number) { return __atomic_load_n(&switch_values[number], __ATOMIC_RELAXED); }
int64_t counted(enum counter counter) { return __atomic_load_n(&counters[counter], __ATOMIC_RELAXED); }

void add(enum counter counter, int64_t difference) {
    __atomic_add_fetch(&counters[counter], difference, __ATOMIC_RELAXED);
}

int32_t dbl_fail_next(const char *name, HRESULT code, uint32_t times, const char *document) {
    lock();
    for (int at = 0; at < MAX_ORDERS; at++) {
        struct order *order = &orders[at];
        if (order->times == 0) {
            free(order->document);
            *order = (struct order){.code = code, .times = times, .document = copy_text(document)};
            snprintf(order->name, sizeof order->name, "%s", name);
            unlock();
            return 0;
        }
    }
    unlock();
    return 1;
}

int32_t dbl_delay(const char *name, uint32_t milliseconds) {
    lock();
    for (int at = 0; at < MAX_DELAYS; at++) {
        struct delay *delay = &delays[at];
        if (delay->name[0] == 0 || strcmp(delay->name, name) == 0) {
            snprintf(delay->name, sizeof delay->name, "%s", name);
            delay->milliseconds = milliseconds;
            unlock();
            return 0;
        }
    }
    unlock();
    return 1;
}

static void take_time(const char *name) {
    uint32_t milliseconds = 0;
    lock();
    for (int at = 0; at < MAX_DELAYS; at++) {
        if (strcmp(delays[at].name, name) == 0) {
            milliseconds = delays[at].milliseconds;
        }
    }
    unlock();
    if (milliseconds) {
        os_sleep(milliseconds);
    }
}

static bool take_order(const char *name, HRESULT *code, char **document) {
    bool found = false;
    lock();
    for (int at = 0; at < MAX_ORDERS && !found; at++) {
        struct order *order = &orders[at];
        if (order->times > 0 && strcmp(order->name, name) == 0) {
            order->times--;
            *code = order->code;
            if (document != NULL) {
                *document = copy_text(order->document);
            }
            found = true;
        }
    }
    unlock();
    return found;
}

bool ordered(const char *name, unsigned flags, HRESULT *code) {
    if (!(flags & SILENT)) {
        trace("%s", name);
    }
    if (loop_here && !(flags & QUICK)) {
        warn("%s was called on the thread of an event loop", name);
    }
    take_time(name);
    return take_order(name, code, NULL);
}

bool ordered_result(const char *name, const char *what, HRESULT *code, char **document) {
    char full[TEXT];
    snprintf(full, sizeof full, "%s.%s", name, what);
    take_time(full);
    return take_order(full, code, document);
}

void dbl_loop_thread(void) { loop_here = true; }

// -- handles and threads --------------------------------------------------------------------------

// No address: whoever looks behind a handle faults.
void *make_handle(enum kind kind, uint32_t index) {
    return (void *)(uintptr_t)((uint64_t)0x7d << 56 | (uint64_t)kind << 48 | (uint64_t)(generation & 0xFFFF) << 32 |
                               ((uint64_t)index + 1) << 4);
}

uint32_t handle_index(enum kind kind, const void *handle) {
    uint32_t index = (uint32_t)((uintptr_t)handle >> 4 & 0x0FFFFFFF) - 1;
    return make_handle(kind, index) == handle ? index : UINT32_MAX;
}

struct detachment {
    void (*entry)(void *);
    void *argument;
};

static void detached_run(void *argument) {
    struct detachment detachment = *(struct detachment *)argument;
    free(argument);
    detachment.entry(detachment.argument);
    lock();
    detached--;
    changed();
    unlock();
}

void detach(void (*entry)(void *), void *argument) {
    struct detachment *detachment = malloc(sizeof *detachment);
    if (detachment == NULL) {
        abort();
    }
    *detachment = (struct detachment){entry, argument};
    lock();
    detached++;
    unlock();
    os_thread(detached_run, detachment);
}

void dbl_reset(void) {
    int64_t deadline = os_now() + 20000000;
    lock();
    while (detached > 0) {
        if (!wait_change(deadline)) {
            fatal("%u threads do not end: callbacks hang", detached);
        }
    }
    unlock();
    reset_pool();
    reset_memory();
    reset_handles();
    reset_records();
    reset_hosts();
    reset_systems();
    reset_operations();
    os_reset();
    lock();
    generation++;
    for (int at = 0; at < MAX_ORDERS; at++) {
        free(orders[at].document);
        orders[at] = (struct order){.times = 0};
    }
    memset(delays, 0, sizeof delays);
    memcpy(switch_values, switch_defaults, sizeof switch_values);
    memset(counters, 0, sizeof counters);
    unlock();
    os_lock(&text_mutex);
    for (size_t at = 0; at < log_count; at++) {
        free(log_lines[at]);
    }
    log_count = report_lines = 0;
    os_unlock(&text_mutex);
    loop_here = false;
}
