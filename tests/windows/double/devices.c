// Devices: what CreateDeviceInstance accepts, calls of their tables, the threads those run on.
#include "double.h"

#include <stdlib.h>

struct job {
    void (*work)(void *);
    void *argument;
    struct job *next;
    bool waited_for, done;
};

struct device devices[MAX_DEVICES];
static uint32_t device_count;
static struct job *first_job, *last_job;
static bool pool_started;
static uint32_t pool_busy;

// -- threads --------------------------------------------------------------------------------------

static void vcpu(void *argument) {
    (void)argument;
    lock();
    for (;;) {
        while (first_job == NULL) {
            wait_job();
        }
        struct job *job = first_job;
        first_job = job->next;
        last_job = first_job == NULL ? NULL : last_job;
        pool_busy++;
        unlock();
        job->work(job->argument);
        lock();
        pool_busy--;
        job->done = true;
        if (!job->waited_for) {
            free(job);
        }
        changed();
    }
}

void on_vcpu(void (*work)(void *), void *argument, bool wait) {
    struct job *job = malloc(sizeof *job);
    if (job == NULL) {
        abort();
    }
    *job = (struct job){work, argument, NULL, wait, false};
    lock();
    for (int at = 0; at < VCPUS && !pool_started; at++) {
        os_thread(vcpu, NULL);
    }
    pool_started = true;
    if (last_job != NULL) {
        last_job->next = job;
    } else {
        first_job = job;
    }
    last_job = job;
    job_comes();
    while (wait && !job->done) {
        wait_change(-1);
    }
    unlock();
    if (wait) {
        free(job);
    }
}

void reset_pool(void) {
    int64_t deadline = os_now() + 20000000;
    lock();
    while (first_job != NULL || pool_busy > 0) {
        if (!wait_change(deadline)) {
            fatal("%u callbacks do not return", pool_busy);
        }
    }
    device_count = 0;
    unlock();
}

// -- calls ----------------------------------------------------------------------------------------

static const char *const callback_names[] = {
    [INITIALIZE] = "Initialize",
    [SET_CONFIGURATION] = "SetConfiguration",
    [GET_DETAILS] = "GetDetails",
    [START] = "Start",
    [STOP] = "Stop",
    [READ_CONFIG] = "ReadConfigSpace",
    [WRITE_CONFIG] = "WriteConfigSpace",
    [READ_MMIO] = "ReadInterceptedMemory",
    [WRITE_MMIO] = "WriteInterceptedMemory",
};

static HRESULT dispatch(const HDV_PCI_DEVICE_INTERFACE *table, void *context, struct call *call) {
    switch (call->which) {
    case INITIALIZE:
        return table->Initialize(context);
    case SET_CONFIGURATION:
        return table->SetConfiguration(context, call->string_count, call->strings);
    case GET_DETAILS:
        add(COUNT_get_details, 1);
        return table->GetDetails(context, call->pnp, call->bar_count, call->bars);
    case START:
        return table->Start(context);
    case STOP:
        table->Stop(context);
        return S_OK;
    case READ_CONFIG:
        add(COUNT_config_reads, 1);
        return table->ReadConfigSpace(context, call->offset, &call->value);
    case WRITE_CONFIG:
        add(COUNT_config_writes, 1);
        return table->WriteConfigSpace(context, call->offset, call->value);
    case READ_MMIO:
        add(COUNT_mmio_reads, 1);
        return table->ReadInterceptedMemory(context, call->bar, call->at, call->length, call->data);
    case WRITE_MMIO:
        add(COUNT_mmio_writes, 1);
        return table->WriteInterceptedMemory(context, call->bar, call->at, call->length, call->data);
    }
    return E_FAIL;
}

// HDV keeps the pointer to the table: it has to stay there, as it was.
static void look_at_table(const struct device *device) {
    if (memcmp(device->table, &device->seen, sizeof device->seen) != 0) {
        fatal("the table of device %d was changed or freed", device->number);
    }
}

static void watch(const struct device *device, const char *name, int64_t since) {
    int64_t slow = switched(SWITCH_slow_ms), took = (os_now() - since) / 1000;
    if (slow > 0 && took > slow) {
        add(COUNT_slow_callbacks, 1);
        warn("%s of device %d took longer than %lld ms", name, device->number, (long long)slow);
    }
}

bool call_device(struct device *device, struct call *call) {
    const char *name = callback_names[call->which];
    lock();
    if (device->closing) {
        unlock();
        return false;
    }
    look_at_table(device);
    device->busy++;
    unlock();
    if (call->which < READ_CONFIG && !call->quiet) {
        trace("%s of device %d", name, device->number);
    }
    callbacks_here++;
    int64_t since = os_now();
    call->code = dispatch(device->table, device->context, call);
    callbacks_here--;
    watch(device, name, since);
    if (call->code < 0) {
        warn("%s of device %d returned %#010x", name, device->number, (unsigned)call->code);
    }
    lock();
    device->busy--;
    changed();
    unlock();
    return true;
}

static void call_teardown(void *argument) {
    struct device *device = argument;
    trace("Teardown of device %d", device->number);
    look_at_table(device);
    callbacks_here++;
    int64_t since = os_now();
    device->table->Teardown(device->context);
    callbacks_here--;
    watch(device, "Teardown", since);
}

// Teardown is the last call, once for each device, when no other runs any more.
void device_teardown(struct device *device) {
    int64_t deadline = os_now() + 30000000;
    lock();
    if (device->closing) {
        unlock();
        return;
    }
    device->closing = true;
    while (device->busy > 0) {
        if (!wait_change(deadline)) {
            fatal("a callback of device %d does not return, so the device cannot be torn down", device->number);
        }
    }
    unlock();
    on_vcpu(call_teardown, device, true);
    lock();
    device->torn = true;
    changed();
    unlock();
}

// -- devices --------------------------------------------------------------------------------------

struct device *device_of(void *handle, const char *where) {
    uint32_t index = handle_index(DEVICE, handle);
    lock();
    if (index >= device_count || devices[index].dead) {
        fatal("%s: %#llx is no device, or one whose host was torn down", where, SHOWN(handle));
    }
    unlock();
    return &devices[index];
}

// With the mutex held.
struct device *device_for(struct system *system, enum hosting hosting, const GUID *class_id, const GUID *instance) {
    struct host *host = host_for(system, hosting);
    for (uint32_t at = 0; at < device_count && host != NULL; at++) {
        struct device *device = &devices[at];
        if (device->host == host && !device->closing && same_guid(&device->instance_id, instance) &&
            same_guid(&device->class_id, class_id)) {
            return device;
        }
    }
    return NULL;
}

struct slot *slot_of_device(struct device *device) {
    struct system *system = device->host->system;
    struct slot *slot = system == NULL ? NULL : slot_of(system, &device->instance_id);
    return slot != NULL && slot->device == device ? slot : NULL;
}

static HRESULT look_at_interface(const HDV_PCI_DEVICE_INTERFACE *table) {
    void *const *entries = (void *const *)(const void *)((const uint8_t *)table + 8);
    if (table->Version != 1) {
        warn("HdvCreateDeviceInstance: the interface has version %d", table->Version);
        return E_INVALIDARG;
    }
    for (int at = 0; at < 10; at++) {
        if (entries[at] == NULL) {
            warn("HdvCreateDeviceInstance: callback %d of the interface is missing", at);
            return E_INVALIDARG;
        }
    }
    return S_OK;
}

HRESULT HdvCreateDeviceInstance(void *handle, int32_t type, const GUID *class_id, const GUID *instance,
                                const void *interface, void *context, void **result) {
    static const char name[] = "HdvCreateDeviceInstance";
    HRESULT code;
    char text[37];
    uint32_t index = handle_index(HOST, handle);
    if (class_id == NULL || instance == NULL || interface == NULL || result == NULL) {
        fatal("%s: a NULL argument", name);
    }
    *result = NULL;
    if (ordered(name, QUICK, &code)) {
        return code;
    }
    if (index >= MAX_HOSTS || !hosts[index].used || hosts[index].dead) {
        fatal("%s: %#llx is no device host, or one that was torn down", name, SHOWN(handle));
    }
    if (type != 1) {
        warn("%s: type %d is not PCI", name, type);
        return E_INVALIDARG;
    }
    if ((code = look_at_interface(interface)) < 0) {
        return code;
    }
    struct host *host = &hosts[index];
    lock();
    for (uint32_t at = 0; at < device_count; at++) {
        struct device *other = &devices[at];
        if (!other->dead && same_guid(&other->instance_id, instance) &&
            (other->host == host || (host->system != NULL && other->host->system == host->system))) {
            unlock();
            warn("%s: there is a device %s already", name, guid_text(instance, text));
            return E_ALREADY_EXISTS;
        }
    }
    if (device_count == MAX_DEVICES) {
        fatal("more than %d devices", MAX_DEVICES);
    }
    struct device *device = &devices[device_count++];
    *device = (struct device){.used = true,
                              .number = (int)(device - devices),
                              .host = host,
                              .class_id = *class_id,
                              .instance_id = *instance,
                              .context = context,
                              .table = interface,
                              .seen = *(const HDV_PCI_DEVICE_INTERFACE *)interface};
    *result = make_handle(DEVICE, (uint32_t)device->number);
    unlock();
    return S_OK;
}
