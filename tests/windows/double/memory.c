// Guest memory: RAM as the guest has it, and apertures, which are other mappings of the same pages.
#include "double.h"

#include <stdlib.h>

enum { QUARANTINE = 1024 };

struct aperture {
    struct device *device;
    os_window window;
};

static struct aperture **apertures;
static size_t aperture_count, aperture_room;
// Addresses of apertures that are gone stay inaccessible for a while, so that who still uses them is found.
static os_window quarantine[QUARANTINE];
static size_t quarantined;

// -- the guest ------------------------------------------------------------------------------------

static bool is_backed(const struct system *system, uint64_t page) { return system->backed[page / 8] >> page % 8 & 1; }

static void back(struct system *system, uint64_t offset, uint64_t size) {
    bool all = true;
    for (uint64_t page = offset / PAGE; page <= (offset + size - 1) / PAGE; page++) {
        all = all && is_backed(system, page);
        system->backed[page / 8] |= (uint8_t)(1 << page % 8);
    }
    if (!all) {
        os_ram_back(system->ram, offset, size);
    }
}

uint8_t *dbl_ram(int32_t number, uint64_t address, uint64_t size) {
    struct system *system = system_number(number);
    uint64_t offset;
    if (!ram_range(system, address, size, &offset)) {
        return NULL;
    }
    lock();
    back(system, offset, size);
    unlock();
    return os_ram_base(system->ram) + offset;
}

void dbl_ram_sizes(int32_t number, uint64_t *low, uint64_t *high) {
    struct system *system = system_number(number);
    *low = system->low;
    *high = system->high;
}

int32_t dbl_backed(int32_t number, uint64_t address) {
    struct system *system = system_number(number);
    uint64_t offset;
    if (!ram_range(system, address, 1, &offset)) {
        return 0;
    }
    lock();
    bool backed = is_backed(system, offset / PAGE);
    unlock();
    return backed;
}

// -- copies ---------------------------------------------------------------------------------------

static HRESULT copy(void *handle, uint64_t address, uint32_t count, uint8_t *to, const uint8_t *from,
                    const char *name) {
    HRESULT code;
    uint64_t offset;
    struct device *device = device_of(handle, name);
    struct system *system = device->host->system;
    if (ordered(name, QUICK | SILENT, &code)) {
        return code;
    }
    if (device->host->hosting == RESTRICTED || !switched(SWITCH_external_grants)) {
        return E_ACCESSDENIED;
    }
    if (!ram_range(system, address, count, &offset)) {
        return E_INVALIDARG;
    }
    lock();
    back(system, offset, count);
    unlock();
    uint8_t *ram = os_ram_base(system->ram) + offset;
    memcpy(to == NULL ? ram : to, from == NULL ? ram : from, count);
    return S_OK;
}

HRESULT HdvReadGuestMemory(void *device, uint64_t address, uint32_t count, uint8_t *buffer) {
    return copy(device, address, count, buffer, NULL, "HdvReadGuestMemory");
}

HRESULT HdvWriteGuestMemory(void *device, uint64_t address, uint32_t count, const uint8_t *buffer) {
    return copy(device, address, count, NULL, buffer, "HdvWriteGuestMemory");
}

// -- apertures ------------------------------------------------------------------------------------

static HRESULT look_at_request(const struct device *device, uint64_t address, uint32_t count, const char *name) {
    if (address % PAGE != 0 || count == 0) {
        warn("%s: %u bytes at %#llx are no pages", name, count, (unsigned long long)address);
        return E_INVALIDARG;
    }
    if (count % PAGE != 0) {
        warn("%s: %u bytes are no whole pages", name, count);
    }
    return device->host->system == NULL ? E_UNEXPECTED : S_OK;
}

// With the mutex held.
static bool map(struct aperture *aperture, struct system *system, uint64_t offset, uint32_t count, bool read_only) {
    size_t size = (count + PAGE - 1) / PAGE * (size_t)PAGE;
    if (!os_window_map(&aperture->window, system->ram, offset, size, read_only)) {
        return false;
    }
    bool stale = false;
    for (size_t at = 0; at < size && switched(SWITCH_stale_pages); at += PAGE) {
        if (!is_backed(system, (offset + at) / PAGE)) {
            stale = true;
            if (!os_window_unshare(&aperture->window, at, PAGE, read_only)) {
                return false;
            }
        }
    }
    add(COUNT_apertures_stale, stale);
    return true;
}

HRESULT HdvCreateGuestMemoryAperture(void *handle, uint64_t address, uint32_t count, BOOL read_only, void **result) {
    static const char name[] = "HdvCreateGuestMemoryAperture";
    HRESULT code;
    uint64_t offset;
    struct device *device = device_of(handle, name);
    struct system *system = device->host->system;
    if (result == NULL) {
        fatal("%s: nowhere to put the address", name);
    }
    *result = NULL;
    if (ordered(name, QUICK | SILENT, &code)) {
        return code;
    }
    if ((code = look_at_request(device, address, count, name)) < 0) {
        return code;
    }
    uint64_t size = ((uint64_t)count + PAGE - 1) / PAGE * PAGE;
    lock();
    code = system->died || system->life == STOPPED                            ? E_RPC_UNAVAILABLE
           : !ram_range(system, address, size, &offset)                       ? E_INVALIDARG
           : system->apertures >= (uint64_t)switched(SWITCH_aperture_quota) ? E_QUOTA
                                                                              : S_OK;
    struct aperture *aperture = code < 0 ? NULL : calloc(1, sizeof *aperture);
    if (aperture != NULL && !map(aperture, system, offset, count, read_only)) {
        fatal("%s: the operating system has no more mappings", name);
    }
    if (aperture != NULL) {
        if (aperture_count == aperture_room) {
            aperture_room = aperture_room == 0 ? 64 : aperture_room * 2;
            apertures = realloc(apertures, aperture_room * sizeof(struct aperture *));
            if (apertures == NULL) {
                abort();
            }
        }
        aperture->device = device;
        apertures[aperture_count++] = aperture;
        *result = aperture->window.base;
        system->apertures++;
        add(COUNT_apertures, 1);
        add(COUNT_apertures_live, 1);
        add(COUNT_apertures_peak, counted(COUNT_apertures_live) > counted(COUNT_apertures_peak));
    }
    unlock();
    return code;
}

// With the mutex held.
static void retire(size_t at) {
    struct aperture *aperture = apertures[at];
    os_window *place = &quarantine[quarantined++ % QUARANTINE];
    if (place->outer != NULL) {
        os_window_free(place);
    }
    os_window_retire(&aperture->window);
    *place = aperture->window;
    aperture->device->host->system->apertures--;
    add(COUNT_apertures_live, -1);
    free(aperture);
    apertures[at] = apertures[--aperture_count];
}

HRESULT HdvDestroyGuestMemoryAperture(void *handle, void *mapped) {
    static const char name[] = "HdvDestroyGuestMemoryAperture";
    HRESULT code;
    struct device *device = device_of(handle, name);
    if (ordered(name, QUICK | SILENT, &code)) {
        return code;
    }
    lock();
    for (size_t at = 0; at < aperture_count; at++) {
        if (apertures[at]->window.base == mapped && apertures[at]->device == device) {
            retire(at);
            unlock();
            return S_OK;
        }
    }
    unlock();
    warn("%s: there is no aperture at this address", name);
    return E_INVALIDARG;
}

// The platform reclaims what is left.
void apertures_of_device_end(struct device *device) {
    uint32_t left = 0;
    lock();
    for (size_t at = aperture_count; at > 0; at--) {
        if (apertures[at - 1]->device == device) {
            retire(at - 1);
            left++;
        }
    }
    unlock();
    if (left > 0) {
        info("device %d left %u apertures to the platform", device->number, left);
    }
}

void reset_memory(void) {
    lock();
    while (aperture_count > 0) {
        retire(aperture_count - 1);
    }
    unlock();
}
