// What the VID takes from a guest's writes before a device sees them: doorbells and ranges backed by sections.
#include "double.h"

#define ANY_VALUE ((uint64_t)0x80000000)
enum { SIZE_MASK = 7, LAST_SIZE = 4, LAST_RANGE_FLAG = 3 };

// With the mutex held, all of it.

static bool same(const struct doorbell *doorbell, int32_t bar, uint64_t offset, uint64_t value, uint64_t flags) {
    return doorbell->used && doorbell->bar == bar && doorbell->offset == offset && doorbell->value == value &&
           doorbell->flags == flags;
}

uint32_t doorbells_live(const struct slot *slot) {
    uint32_t live = 0;
    for (int at = 0; at < MAX_DOORBELLS; at++) {
        live += slot->doorbells[at].used;
    }
    return live;
}

static bool inside(const struct slot *slot, int32_t bar, uint64_t offset, uint64_t size) {
    return bar >= 0 && bar < BARS && size <= slot->bars[bar].size && offset <= slot->bars[bar].size - size;
}

HRESULT doorbell_add(struct slot *slot, int32_t bar, uint64_t offset, uint64_t value, uint64_t flags, void *event) {
    struct doorbell *place = NULL;
    char text[37];
    if (!inside(slot, bar, offset, 1) || (flags & ~ANY_VALUE) > LAST_SIZE || ((flags & ANY_VALUE) && value != 0)) {
        warn("a doorbell cannot be at BAR %d + %#llx with value %#llx and flags %#llx", bar, (unsigned long long)offset,
             (unsigned long long)value, (unsigned long long)flags);
        return E_INVALIDARG;
    }
    for (int at = MAX_DOORBELLS - 1; at >= 0; at--) {
        if (same(&slot->doorbells[at], bar, offset, value, flags)) {
            return E_ALREADY_EXISTS;
        }
        place = slot->doorbells[at].used ? place : &slot->doorbells[at];
    }
    if (doorbells_live(slot) >= DOORBELLS_PER_DEVICE) {
        warn("slot %s has more than %d doorbells", guid_text(&slot->instance_id, text), DOORBELLS_PER_DEVICE);
        if (switched(SWITCH_refuse_ninth) || place == NULL) {
            return E_ACCESSDENIED;
        }
    }
    void *duplicate = os_event_duplicate(event);
    if (duplicate == NULL) {
        warn("a doorbell was given %#llx, which is no event", SHOWN(event));
        return E_HANDLE;
    }
    *place = (struct doorbell){true, bar, offset, value, flags, event, duplicate};
    add(COUNT_doorbells_live, 1);
    return S_OK;
}

static void drop(struct doorbell *doorbell) {
    if (!os_event_is_open(doorbell->theirs)) {
        warn("the event of the doorbell at BAR %d + %#llx was closed before it was unregistered", doorbell->bar,
             (unsigned long long)doorbell->offset);
    }
    os_event_close(doorbell->event);
    doorbell->used = false;
    add(COUNT_doorbells_live, -1);
}

HRESULT doorbell_remove(struct slot *slot, int32_t bar, uint64_t offset, uint64_t value, uint64_t flags) {
    for (int at = 0; at < MAX_DOORBELLS; at++) {
        if (same(&slot->doorbells[at], bar, offset, value, flags)) {
            drop(&slot->doorbells[at]);
            return S_OK;
        }
    }
    warn("no doorbell is at BAR %d + %#llx with value %#llx and flags %#llx", bar, (unsigned long long)offset,
         (unsigned long long)value, (unsigned long long)flags);
    return E_NOT_FOUND;
}

void doorbells_forget(struct slot *slot) {
    for (int at = 0; at < MAX_DOORBELLS; at++) {
        if (slot->doorbells[at].used) {
            drop(&slot->doorbells[at]);
        }
    }
}

bool doorbell_rings(struct slot *slot, int32_t bar, uint64_t offset, uint32_t size, uint64_t value) {
    value &= UINT64_MAX >> (64 - 8 * size);
    for (int at = 0; at < MAX_DOORBELLS; at++) {
        const struct doorbell *doorbell = &slot->doorbells[at];
        uint64_t wanted = doorbell->flags & SIZE_MASK;
        bool size_fits = wanted == 0 || 1u << (wanted - 1) == size;
        bool value_fits = (doorbell->flags & ANY_VALUE) || doorbell->value == value;
        if (doorbell->used && doorbell->bar == bar && doorbell->offset == offset && size_fits && value_fits) {
            os_event_set(doorbell->event);
            add(COUNT_doorbells, 1);
            return true;
        }
    }
    return false;
}

// -- sections -------------------------------------------------------------------------------------

HRESULT range_add(struct system *system, struct slot *slot, int32_t bar, uint64_t page, uint64_t pages, int32_t flags,
                  void *section, uint64_t section_page) {
    struct range *place = NULL;
    if (system->life != RUNNING) {
        return E_INVALID_STATE;
    }
    if (pages == 0 || page > UINT32_MAX || pages > UINT32_MAX || !inside(slot, bar, page * PAGE, pages * PAGE) ||
        (flags & ~LAST_RANGE_FLAG) != 0) {
        return E_INVALIDARG;
    }
    for (int at = 0; at < MAX_RANGES; at++) {
        struct range *range = &slot->ranges[at];
        if (range->used && range->bar == bar && page < range->page + range->pages && range->page < page + pages) {
            return E_ALREADY_EXISTS;
        }
        place = range->used ? place : range;
    }
    bool writable = flags & 1;
    uint8_t *memory =
        place == NULL ? NULL : os_section_map(section, section_page * PAGE, (size_t)(pages * PAGE), !writable);
    if (memory == NULL) {
        return place == NULL ? E_QUOTA : E_HANDLE;
    }
    *place = (struct range){true, writable, bar, page, pages, memory};
    return S_OK;
}

static void unmap(struct range *range) {
    os_section_unmap(range->memory, (size_t)(range->pages * PAGE));
    range->used = false;
}

HRESULT range_remove(struct slot *slot, int32_t bar, uint64_t page) {
    for (int at = 0; at < MAX_RANGES; at++) {
        struct range *range = &slot->ranges[at];
        if (range->used && range->bar == bar && range->page == page) {
            unmap(range);
            return S_OK;
        }
    }
    return E_NOT_FOUND;
}

void ranges_forget(struct slot *slot) {
    for (int at = 0; at < MAX_RANGES; at++) {
        if (slot->ranges[at].used) {
            unmap(&slot->ranges[at]);
        }
    }
}

// Where the guest's access goes without an exit; NULL when the device answers it.
uint8_t *range_memory(struct slot *slot, int32_t bar, uint64_t offset, uint64_t size, bool write) {
    for (int at = 0; at < MAX_RANGES; at++) {
        struct range *range = &slot->ranges[at];
        uint64_t start = range->page * PAGE, length = range->pages * PAGE;
        if (range->used && range->bar == bar && offset >= start && offset + size <= start + length &&
            (!write || range->writable)) {
            return range->memory + (offset - start);
        }
    }
    return NULL;
}

// -- the host's own door: not for restricted hosts ------------------------------------------------

static HRESULT granted(struct device *device, const char *name, struct slot **slot) {
    HRESULT code;
    if (ordered(name, QUICK, &code)) {
        return code;
    }
    if (device->host->hosting == RESTRICTED || !switched(SWITCH_external_grants)) {
        return E_ACCESSDENIED;
    }
    *slot = slot_of_device(device);
    return *slot == NULL ? E_UNEXPECTED : device->host->system->died ? E_RPC_UNAVAILABLE : S_OK;
}

HRESULT HdvRegisterDoorbell(void *handle, int32_t bar, uint64_t offset, uint64_t value, uint64_t flags, HANDLE event) {
    struct slot *slot;
    HRESULT code = granted(device_of(handle, "HdvRegisterDoorbell"), "HdvRegisterDoorbell", &slot);
    if (code >= 0) {
        lock();
        code = doorbell_add(slot, bar, offset, value, flags, event);
        unlock();
    }
    return code;
}

HRESULT HdvUnregisterDoorbell(void *handle, int32_t bar, uint64_t offset, uint64_t value, uint64_t flags) {
    struct slot *slot;
    HRESULT code = granted(device_of(handle, "HdvUnregisterDoorbell"), "HdvUnregisterDoorbell", &slot);
    if (code >= 0) {
        lock();
        code = doorbell_remove(slot, bar, offset, value, flags);
        unlock();
    }
    return code;
}

HRESULT HdvRegisterDoorbellPage(void *handle, int32_t bar, uint64_t page, HANDLE event) {
    (void)bar, (void)page, (void)event;
    device_of(handle, "HdvRegisterDoorbellPage");
    return E_NOTIMPL;
}

HRESULT HdvUnregisterDoorbellPage(void *handle, int32_t bar, uint64_t page) {
    (void)bar, (void)page;
    device_of(handle, "HdvUnregisterDoorbellPage");
    return E_NOTIMPL;
}

HRESULT HdvCreateSectionBackedMmioRange(void *handle, int32_t bar, uint64_t page, uint64_t pages, int32_t flags,
                                        HANDLE section, uint64_t section_page) {
    static const char name[] = "HdvCreateSectionBackedMmioRange";
    struct slot *slot;
    struct device *device = device_of(handle, name);
    struct system *system = device->host->system;
    if (system != NULL && system->life == CREATED) {
        return E_INVALID_STATE;
    }
    HRESULT code = granted(device, name, &slot);
    if (code >= 0) {
        lock();
        code = range_add(system, slot, bar, page, pages, flags, section, section_page);
        unlock();
    }
    return code;
}

HRESULT HdvDestroySectionBackedMmioRange(void *handle, int32_t bar, uint64_t page) {
    static const char name[] = "HdvDestroySectionBackedMmioRange";
    struct slot *slot;
    HRESULT code = granted(device_of(handle, name), name, &slot);
    if (code >= 0) {
        lock();
        code = range_remove(slot, bar, page);
        unlock();
    }
    return code;
}
