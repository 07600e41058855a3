// Device hosts: the proxied kind with its handshake, the plain kind, and their end.
#include "double.h"

static const GUID IID_IMARSHAL = {3, 0, 0, {0xC0, 0, 0, 0, 0, 0, 0, 0x46}};

struct host hosts[MAX_HOSTS];
static int overlapping;
static uint32_t host_count;

static const IVmDeviceHostSupportVtbl *support_table(void *support) {
    return *(const IVmDeviceHostSupportVtbl *const *)support;
}

static struct host *host_of(void *handle, const char *where) {
    uint32_t index = handle_index(HOST, handle);
    if (index >= host_count || !hosts[index].used || hosts[index].dead) {
        fatal("%s: %#llx is no device host, or one that was torn down", where, SHOWN(handle));
    }
    return &hosts[index];
}

// The host that serves slots of this kind, with the mutex held.
struct host *host_for(struct system *system, enum hosting hosting) {
    for (uint32_t at = 0; at < host_count; at++) {
        struct host *host = &hosts[at];
        if (host->used && !host->dead && host->system == system && host->hosting == hosting) {
            return host;
        }
    }
    return NULL;
}

static struct host *new_host(enum hosting hosting) {
    lock();
    if (host_count == MAX_HOSTS) {
        fatal("more than %d device hosts", MAX_HOSTS);
    }
    struct host *host = &hosts[host_count++];
    *host = (struct host){.used = true, .hosting = hosting, .thread = os_thread_id()};
    unlock();
    return host;
}

// -- the plain kind -------------------------------------------------------------------------------

HRESULT HdvInitializeDeviceHostEx(void *handle, int32_t flags, void **result) {
    static const char name[] = "HdvInitializeDeviceHostEx";
    HRESULT code;
    if (result == NULL) {
        fatal("%s: nowhere to put the host", name);
    }
    *result = NULL;
    if (ordered(name, 0, &code)) {
        return code;
    }
    struct system *system = system_of(handle, name);
    if ((flags & 1) && switched(SWITCH_com_security_set)) {
        return E_RPC_TOO_LATE;
    }
    lock();
    bool taken = host_for(system, EXTERNAL) != NULL || host_for(system, RESTRICTED) != NULL, died = system->died;
    unlock();
    if (taken || died) {
        return taken ? E_VID_PROCESS_ALREADY_SET : HCS_TERMINATED;
    }
    struct host *host = new_host(EXTERNAL);
    host->system = system;
    host->proxied = true;
    *result = make_handle(HOST, (uint32_t)(host - hosts));
    add(COUNT_hosts_live, 1);
    return S_OK;
}

HRESULT HdvInitializeDeviceHost(void *handle, void **result) {
    HRESULT code;
    return ordered("HdvInitializeDeviceHost", SILENT, &code) ? code : HdvInitializeDeviceHostEx(handle, 0, result);
}

// -- the proxied kind -----------------------------------------------------------------------------

HRESULT HdvProxyDeviceHost(void *handle, void *object, DWORD process, uint64_t *ipc) {
    static const char name[] = "HdvProxyDeviceHost";
    HRESULT code;
    int32_t owner;
    if (ordered(name, 0, &code)) {
        return code;
    }
    struct system *system = system_of(handle, name);
    if (object == NULL || !com_is_device_host(object, &owner)) {
        fatal("%s: %#llx is no IVmDeviceHost", name, SHOWN(object));
    }
    struct host *host = &hosts[owner];
    if (process != os_process_id()) {
        warn("%s: process %u is not the one that hosts the device", name, process);
        return E_INVALIDARG;
    }
    if (ipc != &host->ipc) {
        warn("%s: the section handle is not to be written where HDV asked for it", name);
        if (ipc == NULL) {
            return E_POINTER;
        }
    }
    if (!same_guid(&host->context, &system->runtime)) {
        warn("%s: the GUID given to HdvInitializeDeviceHostForProxy is not the RuntimeId", name);
    }
    lock();
    bool taken = host_for(system, RESTRICTED) != NULL || host_for(system, EXTERNAL) != NULL;
    code = system->died ? HCS_TERMINATED : taken ? E_VID_PROCESS_ALREADY_SET : S_OK;
    if (code >= 0) {
        host->system = system;
        host->proxied = true;
        *ipc = 0x1234;
    }
    unlock();
    if (code >= 0) {
        const IVmDeviceHostVtbl *table = *(const IVmDeviceHostVtbl *const *)object;
        void *kept = NULL;
        if (table->QueryInterface(object, &IID_DEVICE_HOST, &kept) < 0) {
            fatal("%s: lost its own object", name);
        }
    }
    return code;
}

// References are counted one by one, and strangers' interfaces are refused.
static HRESULT examine_support(void *support) {
    const IVmDeviceHostSupportVtbl *table = support_table(support);
    void *found = NULL, *other = support;
    if (table == NULL || table->QueryInterface == NULL || table->AddRef == NULL || table->Release == NULL ||
        table->RegisterDeviceHost == NULL) {
        fatal("the support object has no table of four methods");
    }
    uint32_t first = table->AddRef(support);
    HRESULT code = table->QueryInterface(support, &IID_SUPPORT, &found);
    if (code < 0 || found == NULL) {
        table->Release(support);
        return code < 0 ? code : E_NOINTERFACE;
    }
    if (found != support) {
        warn("the support object answers QueryInterface with another address");
    }
    uint32_t second = table->AddRef(support);
    if (first < 2 || second != first + 2 || table->Release(support) != first + 1) {
        warn("the support object does not count its references");
    }
    if (table->QueryInterface(support, &IID_IMARSHAL, &other) != E_NOINTERFACE || other != NULL) {
        warn("the support object answers for an interface that it is not");
    }
    if (table->QueryInterface(support, &IID_UNKNOWN, &other) < 0 || other != support) {
        warn("the support object is no IUnknown");
    } else {
        table->Release(support);
    }
    return S_OK;
}

static void release_support(struct host *host) {
    const IVmDeviceHostSupportVtbl *table = support_table(host->support);
    uint32_t now = table->AddRef(host->support);
    if (now < 4) {
        warn("the support object was released before the device host ended");
    }
    for (uint32_t left = 3; left > 0; left--) {
        if (table->Release(host->support) != --now) {
            warn("the support object does not count its references");
        }
    }
}

static HRESULT for_proxy(const char *name, const GUID *context, void *support, void **result) {
    HRESULT code = examine_support(support);
    if (code < 0) {
        return code;
    }
    struct host *host = new_host(RESTRICTED);
    host->context = *context;
    host->support = support;
    host->object = com_create(COM_DEVICE_HOST, (int32_t)(host - hosts), -1);
    code = support_table(support)->RegisterDeviceHost(support, host->object, os_process_id(), &host->ipc);
    if (code < 0) {
        release_support(host);
        if (host->proxied) {
            com_drop(host->object);
        }
        com_drop(host->object);
        host->dead = true;
        return code;
    }
    if (!host->proxied) {
        warn("%s: RegisterDeviceHost did not call HdvProxyDeviceHost; no slot will find this host", name);
    }
    *result = make_handle(HOST, (uint32_t)(host - hosts));
    add(COUNT_hosts_live, 1);
    return S_OK;
}

static bool refused_beside_others(const GUID *context) {
    bool refused = overlapping > 1 && switched(SWITCH_overlap_denied);
    for (uint32_t at = 0; at < host_count && switched(SWITCH_one_host); at++) {
        refused |= !hosts[at].dead && !same_guid(&hosts[at].context, context);
    }
    return refused;
}

HRESULT HdvInitializeDeviceHostForProxyEx(const GUID *context, void *support, uint32_t flags, void **result) {
    static const char name[] = "HdvInitializeDeviceHostForProxy";
    HRESULT code;
    (void)flags;
    if (context == NULL || support == NULL || result == NULL) {
        fatal("%s: a NULL argument", name);
    }
    if (callbacks_here) {
        warn("%s was called inside a callback", name);
    }
    *result = NULL;
    lock();
    overlapping++;
    bool refused = refused_beside_others(context);
    unlock();
    if (!ordered(name, 0, &code)) {
        code = refused ? E_ACCESSDENIED : for_proxy(name, context, support, result);
    }
    lock();
    overlapping--;
    unlock();
    return code;
}

HRESULT HdvInitializeDeviceHostForProxy(const GUID *context, void *support, void **result) {
    return HdvInitializeDeviceHostForProxyEx(context, support, 0, result);
}

// -- the end --------------------------------------------------------------------------------------

// The handles of devices are good for as long as a Teardown runs, and for nothing afterwards.
static void teardown_devices(struct host *host) {
    for (int at = 0; at < MAX_DEVICES; at++) {
        if (devices[at].used && devices[at].host == host) {
            device_teardown(&devices[at]);
        }
    }
    for (int at = 0; at < MAX_DEVICES; at++) {
        if (devices[at].used && devices[at].host == host) {
            devices[at].dead = true;
            apertures_of_device_end(&devices[at]);
        }
    }
}

static void teardown_late(void *argument) {
    os_sleep((uint32_t)switched(SWITCH_late_teardown_ms));
    teardown_devices(argument);
}

static void look_for_doorbells(const struct host *host) {
    char text[37];
    for (int at = 0; at < MAX_SLOTS && host->system != NULL; at++) {
        const struct slot *slot = &host->system->slots[at];
        uint32_t live = doorbells_live(slot);
        if (slot->used && slot->device != NULL && slot->device->host == host && live > 0) {
            warn("%u doorbells of slot %s are registered after the device host", live,
                 guid_text(&slot->instance_id, text));
        }
    }
}

HRESULT HdvTeardownDeviceHost(void *handle) {
    static const char name[] = "HdvTeardownDeviceHost";
    HRESULT code;
    if (callbacks_here) {
        fatal("%s was called inside a callback", name);
    }
    if (ordered(name, 0, &code)) {
        return code;
    }
    lock();
    struct host *host = host_of(handle, name);
    unlock();
    if (host->thread != os_thread_id()) {
        warn("%s: not on the thread that made the host", name);
    }
    bool late = switched(SWITCH_late_teardown_ms) > 0;
    if (late) {
        detach(teardown_late, host);
    } else {
        teardown_devices(host);
    }
    lock();
    look_for_doorbells(host);
    host->dead = true;
    unlock();
    if (host->support != NULL) {
        if (host->proxied) {
            com_drop(host->object);
        }
        if (com_drop(host->object) != 0) {
            warn("%s: somebody still has a reference to the IVmDeviceHost", name);
        }
        release_support(host);
    }
    add(COUNT_hosts_live, -1);
    return S_OK;
}

void reset_hosts(void) {
    lock();
    memset(hosts, 0, sizeof hosts);
    memset(devices, 0, sizeof devices);
    host_count = 0;
    unlock();
}
