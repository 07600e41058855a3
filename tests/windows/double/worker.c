// COM objects: the IVmDeviceHost that a broker is handed, and those of the VM worker process.
//
// Objects are never freed, so that calls after the last Release are found.
#include "double.h"

#include <stdlib.h>

const GUID IID_UNKNOWN = {0x00000000, 0x0000, 0x0000, {0xC0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x46}};
const GUID IID_SUPPORT = {0xE31AA49B, 0x0914, 0x465E, {0xB1, 0x45, 0x1B, 0x9B, 0xA1, 0x3E, 0xFB, 0x10}};
const GUID IID_DEVICE_HOST = {0x78523D62, 0xD919, 0x47CA, {0x9C, 0xD7, 0x08, 0x13, 0x91, 0x72, 0xD6, 0x85}};
const GUID IID_ACCESS = {0x3E57BD3C, 0x5A5D, 0x4BDC, {0xA0, 0xA6, 0x5B, 0x41, 0x93, 0xD4, 0xB7, 0x19}};
const GUID IID_NOTIFICATION = {0xF5DFBEC1, 0xB9F3, 0x4B26, {0xBF, 0x6F, 0xC2, 0x51, 0x44, 0x8B, 0xCF, 0x7A}};
const GUID IID_MAPPINGS = {0x9D416457, 0xABBC, 0x46CF, {0x8B, 0x93, 0x90, 0x1C, 0x68, 0xBE, 0xC6, 0x27}};
const GUID FLEXIO = {0xA8679153, 0x843F, 0x467F, {0xAD, 0x7E, 0xF4, 0x29, 0x32, 0x8F, 0x75, 0x68}};

enum { MAGIC = 0x434F4D21, NULL_WORKER = 1, NULL_DEVICE = 2, NULL_INTERFACE = 3 };

struct com {
    const void *table;
    uint32_t magic, references;
    enum com_kind kind;
    int32_t owner, slot;
    void *stamp;
};

static const char *const kind_names[] = {
    [COM_DEVICE_HOST] = "IVmDeviceHost",
    [COM_ACCESS] = "IVmVirtualDeviceAccess",
    [COM_DEVICE] = "the device of IVmVirtualDeviceAccess",
    [COM_NOTIFICATION] = "IVmFiovGuestMemoryFastNotification",
    [COM_MAPPINGS] = "IVmFiovGuestMmioMappings",
};

// -- IUnknown -------------------------------------------------------------------------------------

static struct com *com_of(void *self, const char *method) {
    struct com *com = self;
    if (com == NULL || com->magic != MAGIC) {
        fatal("%s of something that is no object of ours", method);
    }
    if (__atomic_load_n(&com->references, __ATOMIC_SEQ_CST) == 0) {
        fatal("%s of %s after its last Release", method, kind_names[com->kind]);
    }
    if (com->stamp != make_handle(HOST, 0)) {
        fatal("%s of %s from before dbl_reset", method, kind_names[com->kind]);
    }
    return com;
}

static uint32_t com_add_ref(void *self) {
    struct com *com = com_of(self, "AddRef");
    add(COUNT_com_live, 1);
    return __atomic_add_fetch(&com->references, 1, __ATOMIC_SEQ_CST);
}

static uint32_t com_release(void *self) {
    struct com *com = com_of(self, "Release");
    add(COUNT_com_live, -1);
    return __atomic_sub_fetch(&com->references, 1, __ATOMIC_SEQ_CST);
}

uint32_t com_drop(void *object) { return com_release(object); }

bool com_is_device_host(const void *object, int32_t *owner) {
    const struct com *com = object;
    if (com->magic != MAGIC || com->kind != COM_DEVICE_HOST || com->references == 0) {
        return false;
    }
    *owner = com->owner;
    return true;
}

static bool is_device(enum com_kind kind) { return kind >= COM_DEVICE; }

static HRESULT com_query(void *self, const GUID *iid, void **object) {
    struct com *com = com_of(self, "QueryInterface");
    static const GUID *const own[] = {
        [COM_DEVICE_HOST] = &IID_DEVICE_HOST,
        [COM_ACCESS] = &IID_ACCESS,
        [COM_DEVICE] = &IID_UNKNOWN,
        [COM_NOTIFICATION] = &IID_NOTIFICATION,
        [COM_MAPPINGS] = &IID_MAPPINGS,
    };
    if (object == NULL || iid == NULL) {
        return E_POINTER;
    }
    *object = NULL;
    if (same_guid(iid, own[com->kind]) || same_guid(iid, &IID_UNKNOWN)) {
        com_add_ref(self);
        *object = self;
        return S_OK;
    }
    bool notification = same_guid(iid, &IID_NOTIFICATION);
    if (!is_device(com->kind) || (!notification && !same_guid(iid, &IID_MAPPINGS))) {
        return E_NOINTERFACE;
    }
    if (systems[com->owner].died) {
        return E_RPC_UNAVAILABLE;
    }
    if (switched(SWITCH_worker_null) != NULL_INTERFACE) {
        *object = com_create(notification ? COM_NOTIFICATION : COM_MAPPINGS, com->owner, com->slot);
    }
    return S_OK;
}

// -- methods --------------------------------------------------------------------------------------

// A proxy's call reaches the worker as long as there is one, from threads in an apartment.
static HRESULT reach(struct com *com, const char *name, struct system **system, struct slot **slot) {
    HRESULT code;
    if (ordered(name, QUICK, &code)) {
        return code;
    }
    if (!os_mta_lives()) {
        warn("%s: no multithreaded apartment lives, see CoIncrementMTAUsage", name);
        return E_CO_NOT_INITIALIZED;
    }
    *system = &systems[com->owner];
    *slot = com->slot < 0 ? NULL : &(*system)->slots[com->slot];
    return (*system)->died || (*system)->life == STOPPED ? E_RPC_UNAVAILABLE : S_OK;
}

static HRESULT get_device_instance(void *self, const GUID *class_id, const GUID *instance, void **device) {
    com_of(self, "GetDeviceInstance");
    (void)class_id, (void)instance;
    if (device != NULL) {
        *device = NULL;
    }
    warn("IVmDeviceHost.GetDeviceInstance is for the VID");
    return E_ACCESSDENIED;
}

static HRESULT reserved(void *self) {
    (void)self;
    fatal("slot 3 of IVmVirtualDeviceAccess was called");
}

static HRESULT get_device(void *self, const GUID *category, const GUID *instance, void **device) {
    static const char name[] = "IVmVirtualDeviceAccess.GetDevice";
    struct system *system;
    struct slot *slot;
    struct com *com = com_of(self, name);
    if (category == NULL || instance == NULL || device == NULL) {
        fatal("%s: a NULL argument", name);
    }
    *device = NULL;
    HRESULT code = reach(com, name, &system, &slot);
    if (code < 0) {
        return code;
    }
    if (!same_guid(category, &FLEXIO) && switched(SWITCH_check_category)) {
        warn("%s: the category is not FLEXIO", name);
        return E_INVALIDARG;
    }
    lock();
    slot = slot_of(system, instance);
    bool there = slot != NULL && slot->device != NULL && !slot->removed;
    unlock();
    if (there && switched(SWITCH_worker_null) != NULL_DEVICE) {
        *device = com_create(COM_DEVICE, system->number, (int32_t)(slot - system->slots));
    }
    return there ? S_OK : E_NOT_FOUND;
}

static HRESULT register_doorbell(void *self, int32_t bar, uint64_t offset, uint64_t value, uint64_t flags,
                                 HANDLE event) {
    static const char name[] = "IVmFiovGuestMemoryFastNotification.RegisterDoorbell";
    struct system *system;
    struct slot *slot;
    HRESULT code = reach(com_of(self, name), name, &system, &slot);
    if (code >= 0) {
        lock();
        code = slot->removed ? E_NOT_FOUND : doorbell_add(slot, bar, offset, value, flags, event);
        unlock();
    }
    return code;
}

static HRESULT unregister_doorbell(void *self, int32_t bar, uint64_t offset, uint64_t value, uint64_t flags) {
    static const char name[] = "IVmFiovGuestMemoryFastNotification.UnregisterDoorbell";
    struct system *system;
    struct slot *slot;
    HRESULT code = reach(com_of(self, name), name, &system, &slot);
    if (code >= 0) {
        lock();
        code = doorbell_remove(slot, bar, offset, value, flags);
        unlock();
    }
    return code;
}

static HRESULT create_range(void *self, int32_t bar, uint64_t page, uint64_t pages, int32_t flags, HANDLE section,
                            uint64_t section_page) {
    static const char name[] = "IVmFiovGuestMmioMappings.CreateSectionBackedMmioRange";
    struct system *system;
    struct slot *slot;
    HRESULT code = reach(com_of(self, name), name, &system, &slot);
    if (code >= 0) {
        lock();
        code = range_add(system, slot, bar, page, pages, flags, section, section_page);
        unlock();
    }
    return code;
}

static HRESULT destroy_range(void *self, int32_t bar, uint64_t page) {
    static const char name[] = "IVmFiovGuestMmioMappings.DestroySectionBackedMmioRange";
    struct system *system;
    struct slot *slot;
    HRESULT code = reach(com_of(self, name), name, &system, &slot);
    if (code >= 0) {
        lock();
        code = range_remove(slot, bar, page);
        unlock();
    }
    return code;
}

static const IUnknownVtbl device_table = {com_query, com_add_ref, com_release};
static const IVmDeviceHostVtbl host_table = {com_query, com_add_ref, com_release, get_device_instance};
static const IVmVirtualDeviceAccessVtbl access_table = {com_query, com_add_ref, com_release, reserved, get_device};
static const IVmFiovGuestMemoryFastNotificationVtbl notification_table = {com_query, com_add_ref, com_release,
                                                                          register_doorbell, unregister_doorbell};
static const IVmFiovGuestMmioMappingsVtbl mappings_table = {com_query, com_add_ref, com_release, create_range,
                                                            destroy_range};

void *com_create(enum com_kind kind, int32_t owner, int32_t slot) {
    static const void *const tables[] = {
        [COM_DEVICE_HOST] = &host_table,          [COM_ACCESS] = &access_table,     [COM_DEVICE] = &device_table,
        [COM_NOTIFICATION] = &notification_table, [COM_MAPPINGS] = &mappings_table,
    };
    struct com *com = malloc(sizeof *com);
    if (com == NULL) {
        abort();
    }
    *com = (struct com){tables[kind], MAGIC, 1, kind, owner, slot, make_handle(HOST, 0)};
    add(COUNT_com_live, 1);
    return com;
}

HRESULT GetVmWorkerProcess(const GUID *vm, const GUID *iid, void **object) {
    static const char name[] = "GetVmWorkerProcess";
    HRESULT code;
    struct system *system = NULL;
    if (vm == NULL || iid == NULL || object == NULL) {
        fatal("%s: a NULL argument", name);
    }
    *object = NULL;
    if (ordered(name, 0, &code)) {
        return code;
    }
    if (switched(SWITCH_worker_missing)) {
        return E_MOD_NOT_FOUND;
    }
    if (!os_mta_lives()) {
        warn("%s: no multithreaded apartment lives, see CoIncrementMTAUsage", name);
        return E_CO_NOT_INITIALIZED;
    }
    for (int at = 0; at < MAX_SYSTEMS; at++) {
        if (systems[at].used && same_guid(&systems[at].runtime, vm)) {
            system = &systems[at];
        }
    }
    if (system == NULL || system->died || system->life == STOPPED) {
        return system == NULL ? HCS_NOT_FOUND : E_RPC_UNAVAILABLE;
    }
    if (!same_guid(iid, &IID_ACCESS)) {
        return E_NOINTERFACE;
    }
    if (switched(SWITCH_worker_null) != NULL_WORKER) {
        *object = com_create(COM_ACCESS, system->number, -1);
    }
    return S_OK;
}
