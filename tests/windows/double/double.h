// The double of Windows' Host Device Virtualization: virtual machines, their service, their VID and worker process.
//
// One mutex guards all state and one condition tells of every change; nobody holds the mutex while foreign code runs.
// What would crash or corrupt on Windows ends the process here, with one line on stderr that begins with "hdvdouble:".
// What is wrong but would pass becomes a line of the report.
#ifndef DOUBLE_H
#define DOUBLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "os.h"

// All else stays inside: libc has a warn of its own.
#ifndef _WIN32
#pragma GCC visibility push(default)
#endif
#include "platform.h"
#include "control.h"
#ifndef _WIN32
#include "kernel.h"
#pragma GCC visibility pop
#endif

// -- numbers --------------------------------------------------------------------------------------

#define HR(code) ((HRESULT)(uint32_t)(code))
#define S_OK HR(0)
#define E_NOTIMPL HR(0x80004001)
#define E_NOINTERFACE HR(0x80004002)
#define E_POINTER HR(0x80004003)
#define E_FAIL HR(0x80004005)
#define E_UNEXPECTED HR(0x8000FFFF)
#define E_ACCESSDENIED HR(0x80070005)
#define E_HANDLE HR(0x80070006)
#define E_NOT_SUPPORTED HR(0x80070032)
#define E_INVALIDARG HR(0x80070057)
#define E_MOD_NOT_FOUND HR(0x8007007E)
#define E_ALREADY_EXISTS HR(0x800700B7)
#define E_NOT_FOUND HR(0x80070490)
#define E_QUOTA HR(0x80070718)
#define E_INVALID_STATE HR(0x8007139F)
#define E_RPC_UNAVAILABLE HR(0x800706BA)
#define E_RPC_TOO_LATE HR(0x80010119)
#define E_CO_NOT_INITIALIZED HR(0x800401F0)
#define E_HV_INVALID_PARAMETER HR(0xC0350005)
#define E_VID_PROCESS_ALREADY_SET HR(0xC0370030)
#define HCS_INVALID_STATE HR(0x80370105)
#define HCS_TERMINATED HR(0x80370107)
#define HCS_INVALID_JSON HR(0x8037010D)
#define HCS_NOT_FOUND HR(0x8037010E)
#define HCS_ALREADY_EXISTS HR(0x8037010F)
#define HCS_ALREADY_STOPPED HR(0x80370110)
#define HCS_NOT_STARTED HR(0x80370115)
#define HCS_ALREADY_STARTED HR(0x80370116)
#define HCS_PENDING HR(0x80370117)
#define HCS_TIMEOUT HR(0x80370118)

enum {
    PAGE = 4096,
    BARS = 6,
    VCPUS = 8,
    MAX_SYSTEMS = 64,
    MAX_SLOTS = 64,
    MAX_HOSTS = 256,
    MAX_DEVICES = 1024,
    MAX_DOORBELLS = 64,
    MAX_RANGES = 16,
    MAX_STRINGS = 16,
    MAX_VECTORS = 2048,
    DOORBELLS_PER_DEVICE = 8,
    TEXT = 256,
};
// A pointer for %#llx: what %p prints differs.
#define SHOWN(pointer) ((unsigned long long)(uintptr_t)(pointer))
#define MIB ((uint64_t)1 << 20)
#define LOW_RAM (3840 * MIB)
#define HIGH_RAM ((uint64_t)1 << 32)

// What a test can switch: name and what it is after dbl_reset.
#define SWITCHES(X)                                                                                     \
    X(removal, 0)           /* Remove takes the device from the guest; else 0x80070032 */               \
    X(external, 1)          /* slots of HostingModel External are accepted */                           \
    X(external_grants, 1)   /* External hosts may register doorbells, copy memory, map sections */      \
    X(external_forwards, 1) /* External devices see the guest's writes of BARs and command */           \
    X(aperture_quota, 512)  /* apertures of one machine */                                              \
    X(stale_pages, 0)       /* pages that were not backed when they were mapped stay stale */           \
    X(lose_interrupts, 0)   /* every Nth interrupt is lost */                                           \
    X(mask_grace_ms, 1000)  /* so old may a mask be that an interrupt did not heed */                   \
    X(slow_ms, 2000)        /* callbacks that take longer are reported; 0: none */                      \
    X(details_every, 64)    /* so many accesses of the guest, and GetDetails is called beside one */    \
    X(details_null, 0)      /* GetDetails is also called with nothing to fill */                        \
    X(worker_missing, 0)    /* GetVmWorkerProcess fails as if vmwpctrl.dll were not there */            \
    X(worker_null, 0)       /* S_OK with NULL: 1 GetVmWorkerProcess, 2 GetDevice, 3 QueryInterface */   \
    X(check_category, 1)    /* GetDevice refuses categories other than FLEXIO */                        \
    X(refuse_ninth, 0)      /* the ninth doorbell of a device is refused, not only reported */          \
    X(overlap_denied, 0)    /* ForProxy that overlaps another of this process: 0x80070005 */            \
    X(one_host, 0)          /* ForProxy beside a live host of another machine: 0x80070005 */            \
    X(com_security_set, 0)  /* InitializeComSecurity: 0x80010119 */                                     \
    X(late_teardown_ms, 0)  /* Teardown callbacks come so long after HdvTeardownDeviceHost returned */  \
    X(teardown_at_stop, 0)  /* a machine that stops tears its devices down */

// What is counted, by the name a test asks for.
#define COUNTERS(X)                                                                                          \
    X(interrupts) X(interrupts_lost) X(interrupts_strange) X(doorbells) X(doorbells_live) X(mmio_reads)      \
    X(mmio_writes) X(config_reads) X(config_writes) X(apertures) X(apertures_live) X(apertures_peak)         \
    X(apertures_stale) X(get_details) X(slow_callbacks) X(operations_live) X(strings_live) X(com_live)       \
    X(systems_live) X(hosts_live) X(events_live) X(waits_live) X(mta_live)

#define ENUMERATE(name, ...) SWITCH_##name,
enum switch_number { SWITCHES(ENUMERATE) SWITCH_COUNT };
#undef ENUMERATE
#define ENUMERATE(name) COUNT_##name,
enum counter { COUNTERS(ENUMERATE) COUNTER_COUNT };
#undef ENUMERATE

// -- state ----------------------------------------------------------------------------------------

enum hosting { RESTRICTED, EXTERNAL };
enum life { CREATED, RUNNING, STOPPED };

struct bar {
    uint64_t address, size;
    bool wide;
};

struct vector {
    uint64_t address, old_address;
    uint32_t data, old_data;
    bool masked;
    int64_t changed_at, masked_at;
};

struct msix {
    uint32_t capability, count;
    int bar;
    uint64_t table;
    bool on;
    int64_t off_at;
    struct vector *vectors;
};

struct doorbell {
    bool used;
    int32_t bar;
    uint64_t offset, value, flags;
    void *theirs, *event;
};

struct range {
    bool used, writable;
    int32_t bar;
    uint64_t page, pages;
    uint8_t *memory;
};

struct device;

struct slot {
    bool used, removed, powered;
    GUID class_id, instance_id;
    enum hosting hosting;
    struct device *device;
    char *strings[MAX_STRINGS];
    uint32_t string_count;
    uint32_t words[BARS], registers[BARS];
    struct bar bars[BARS];
    HDV_PCI_PNP_ID pnp;
    uint16_t command;
    uint8_t line;
    uint32_t beside;  // calls of GetDetails that nobody waits for
    struct msix msix;
    struct doorbell doorbells[MAX_DOORBELLS];
    struct range ranges[MAX_RANGES];
};

struct system {
    bool used, died, ends_with_handles;
    int number;
    char id[TEXT];
    GUID runtime;
    enum life life;
    uint64_t low, high;
    os_ram *ram;
    uint8_t *backed;
    struct slot slots[MAX_SLOTS];
    bool custom_seen;
    GUID custom_instance;
    uint64_t next_bar, next_low_bar, apertures, accesses;
    uint32_t messages;
    dbl_interrupt interrupt;
    void *interrupt_context;
    HCS_EVENT_CALLBACK event;
    void *event_context;
    char *properties;
    uint32_t handles;
};

struct host {
    bool used, dead, proxied;
    enum hosting hosting;
    struct system *system;
    GUID context;
    void *support;
    uint32_t support_count;
    void *object;
    uint64_t thread, ipc;
};

struct device {
    bool used, closing, torn, dead, powered, started;
    int number;
    struct host *host;
    GUID class_id, instance_id;
    void *context;
    const HDV_PCI_DEVICE_INTERFACE *table;
    HDV_PCI_DEVICE_INTERFACE seen;
    uint32_t busy;
};

extern struct system systems[MAX_SYSTEMS];
extern struct host hosts[MAX_HOSTS];
extern struct device devices[MAX_DEVICES];

// -- state.c: the mutex, the report, switches, failures, handles ----------------------------------

void lock(void);
void unlock(void);
void changed(void);
// With the mutex held; false when the deadline of os_now has passed, negative is for ever.
bool wait_change(int64_t deadline);
// For the threads of the pool alone, so that not every change wakes all of them.
void job_comes(void);
void wait_job(void);

_Noreturn void fatal(const char *format, ...) __attribute__((format(printf, 1, 2)));
void warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
void info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void trace(const char *format, ...) __attribute__((format(printf, 1, 2)));

int64_t switched(enum switch_number number);
void add(enum counter counter, int64_t difference);
int64_t counted(enum counter counter);

// Every export begins with this: true when the call ends at once with what a test has ordered.
enum { QUICK = 1, SILENT = 2 };
bool ordered(const char *name, unsigned flags, HRESULT *code);
// The same for what an operation ends with.
bool ordered_result(const char *name, const char *what, HRESULT *code, char **document);

enum kind { SYSTEM = 1, OPERATION, HOST, DEVICE, EVENT, WAIT };
void *make_handle(enum kind kind, uint32_t index);
// The index, or UINT32_MAX for what is no such handle of this life of the double.
uint32_t handle_index(enum kind kind, const void *handle);

extern _Thread_local int callbacks_here;
extern _Thread_local bool loop_here;

// Threads of the double that run for dbl_reset to wait for.
void detach(void (*entry)(void *), void *argument);

// -- text.c: UTF-16, GUIDs, JSON ------------------------------------------------------------------

struct json;
char *from_wide(const WCHAR *text);
WCHAR *to_wide(const char *text);
WCHAR *result_string(const char *text);
bool parse_guid(const char *text, GUID *guid);
const char *guid_text(const GUID *guid, char text[37]);
bool same_guid(const GUID *one, const GUID *other);
char *copy_text(const char *text);

struct json *json_parse(const char *text);
void json_free(struct json *value);
const struct json *json_get(const struct json *value, const char *key);
const char *json_text(const struct json *value);
bool json_number(const struct json *value, int64_t *number);
bool json_truth(const struct json *value);
size_t json_count(const struct json *value);
const struct json *json_item(const struct json *value, size_t index);
const char *json_key(const struct json *value, size_t index);

// -- the others -----------------------------------------------------------------------------------

struct system *system_of(void *handle, const char *where);
struct system *system_number(int32_t number);
HRESULT system_create(const char *id, const GUID *runtime, uint32_t memory_mb, struct system **system);
HRESULT system_start(struct system *system, char **document);
HRESULT system_stop(struct system *system);
void system_exit(struct system *system, const char *how);
HRESULT slot_declare(struct system *system, const GUID *instance, const GUID *class_id, enum hosting hosting,
                     char **strings, uint32_t count, struct slot **slot);
char *error_document(HRESULT code, const char *message);

HRESULT slot_power_on(struct system *system, struct slot *slot, char **document);
void slot_power_off(struct slot *slot);
// GetDetails once more, on some thread, whatever else the device does.
void vid_details_beside(struct slot *slot, bool wait);
void slot_forget(struct slot *slot);
struct slot *slot_of(struct system *system, const GUID *instance);
struct slot *slot_of_device(struct device *device);

struct device *device_of(void *handle, const char *where);
void device_teardown(struct device *device);
struct host *host_for(struct system *system, enum hosting hosting);
struct device *device_for(struct system *system, enum hosting hosting, const GUID *class_id, const GUID *instance);

// One call of a device's table, on this thread; false when the device takes no calls any more.
enum callback {
    INITIALIZE,
    SET_CONFIGURATION,
    GET_DETAILS,
    START,
    STOP,
    READ_CONFIG,
    WRITE_CONFIG,
    READ_MMIO,
    WRITE_MMIO,
};
struct call {
    enum callback which;
    HRESULT code;
    bool quiet;  // not worth a line of the log
    uint32_t offset, value;
    int32_t bar;
    uint64_t at, length;
    uint8_t *data;
    HDV_PCI_PNP_ID *pnp;
    uint32_t *bars, bar_count, string_count;
    const WCHAR **strings;
};
bool call_device(struct device *device, struct call *call);

// Runs something on a thread of the pool; waits for its end unless it is told not to.
void on_vcpu(void (*work)(void *), void *argument, bool wait);

bool doorbell_rings(struct slot *slot, int32_t bar, uint64_t offset, uint32_t size, uint64_t value);
HRESULT doorbell_add(struct slot *slot, int32_t bar, uint64_t offset, uint64_t value, uint64_t flags, void *event);
HRESULT doorbell_remove(struct slot *slot, int32_t bar, uint64_t offset, uint64_t value, uint64_t flags);
void doorbells_forget(struct slot *slot);
uint32_t doorbells_live(const struct slot *slot);
HRESULT range_add(struct system *system, struct slot *slot, int32_t bar, uint64_t page, uint64_t pages, int32_t flags,
                  void *section, uint64_t section_page);
HRESULT range_remove(struct slot *slot, int32_t bar, uint64_t page);
void ranges_forget(struct slot *slot);
uint8_t *range_memory(struct slot *slot, int32_t bar, uint64_t offset, uint64_t size, bool write);

void msix_find(struct slot *slot);
void msix_forget(struct slot *slot);
void msix_control(struct slot *slot, uint32_t dword, bool before);
void msix_write(struct slot *slot, int32_t bar, uint64_t offset, uint32_t size, uint64_t value, bool before);

enum com_kind { COM_DEVICE_HOST, COM_ACCESS, COM_DEVICE, COM_NOTIFICATION, COM_MAPPINGS };
void *com_create(enum com_kind kind, int32_t owner, int32_t slot);
uint32_t com_drop(void *object);
bool com_is_device_host(const void *object, int32_t *owner);
extern const GUID IID_UNKNOWN, IID_SUPPORT, IID_DEVICE_HOST, IID_ACCESS, IID_NOTIFICATION, IID_MAPPINGS, FLEXIO;

void apertures_of_device_end(struct device *device);
bool ram_range(const struct system *system, uint64_t address, uint64_t size, uint64_t *offset);

void reset_memory(void);
void reset_operations(void);
void reset_hosts(void);
void reset_systems(void);
void reset_handles(void);
void reset_pool(void);
void reset_records(void);

#endif
