// The VID: what it asks of a device when its slot is powered on, and what it makes of the answers.
#include "double.h"

#include <stdlib.h>

static const GUID WELL_KNOWN[] = {
    {0x872270E1, 0xA899, 0x4AF6, {0xB4, 0x54, 0x71, 0x93, 0x63, 0x44, 0x35, 0xAD}},  // virtio-fs
    {0xF07010D0, 0x0EA9, 0x447F, {0x88, 0xEF, 0xBD, 0x95, 0x2A, 0x4D, 0x2F, 0x14}},  // virtio-net
    {0xEDBB24BB, 0x5E19, 0x40F4, {0x8A, 0x0F, 0x82, 0x24, 0x31, 0x30, 0x64, 0xFD}},  // virtio-pmem
    {0xFC36C5C6, 0x7A87, 0x4841, {0xA4, 0x7A, 0x1D, 0x35, 0x29, 0x87, 0x05, 0x5B}},  // virtio-9p
};
#define POISON 0xCCCCCCCCu
enum { BUS_MASTER = 4 };

struct errand {
    struct device *device;
    struct call call;
    bool answered;
};

static void run_errand(void *argument) {
    struct errand *errand = argument;
    errand->answered = call_device(errand->device, &errand->call);
}

// A call on some thread of the pool; what a device that takes no calls would have said is a failure.
static HRESULT ask(struct device *device, struct call *call) {
    struct errand errand = {device, *call, false};
    on_vcpu(run_errand, &errand, true);
    *call = errand.call;
    return errand.answered ? call->code : E_UNEXPECTED;
}

static HRESULT ask_simple(struct device *device, enum callback which) {
    struct call call = {.which = which};
    return ask(device, &call);
}

static uint32_t ask_config(struct device *device, uint32_t offset) {
    struct call call = {.which = READ_CONFIG, .offset = offset, .value = POISON};
    return ask(device, &call) < 0 ? UINT32_MAX : call.value;
}

// -- the steps ------------------------------------------------------------------------------------

static HRESULT set_configuration(struct device *device, const struct slot *slot) {
    const WCHAR *strings[MAX_STRINGS];
    struct call call = {.which = SET_CONFIGURATION, .string_count = slot->string_count};
    for (uint32_t at = 0; at < slot->string_count; at++) {
        strings[at] = to_wide(slot->strings[at]);
    }
    call.strings = slot->string_count == 0 ? NULL : strings;
    HRESULT code = ask(device, &call);
    // Valid during the call only: who looks later sees nonsense.
    for (uint32_t at = 0; at < slot->string_count; at++) {
        WCHAR *text = (WCHAR *)(uintptr_t)strings[at];
        for (WCHAR *unit = text; *unit != 0; unit++) {
            *unit = 0xDDDD;
        }
        free(text);
    }
    return code;
}

static HRESULT get_details(struct device *device, HDV_PCI_PNP_ID *pnp, uint32_t words[BARS]) {
    memset(pnp, 0xCC, sizeof *pnp);
    for (int at = 0; at < BARS; at++) {
        words[at] = POISON;
    }
    struct call call = {.which = GET_DETAILS, .pnp = pnp, .bars = words, .bar_count = BARS};
    return ask(device, &call);
}

// GetDetails may come at any time: nothing it does may show.
static void details_beside(void *argument) {
    struct slot *slot = argument;
    struct device *device = slot->device;
    HDV_PCI_PNP_ID pnp;
    uint32_t words[BARS];
    struct call call = {.which = GET_DETAILS, .quiet = true, .pnp = &pnp, .bars = words, .bar_count = BARS};
    if (device != NULL && call_device(device, &call) &&
        (memcmp(&pnp, &slot->pnp, sizeof pnp) != 0 || memcmp(words, slot->words, sizeof words) != 0)) {
        warn("GetDetails of device %d has another answer than before", device->number);
    }
    lock();
    slot->beside--;
    changed();
    unlock();
}

void vid_details_beside(struct slot *slot, bool wait) {
    lock();
    slot->beside++;
    unlock();
    on_vcpu(details_beside, slot, wait);
}

static void details_again(struct slot *slot) {
    vid_details_beside(slot, false);
    vid_details_beside(slot, true);
    if (switched(SWITCH_details_null)) {
        struct call call = {.which = GET_DETAILS};
        ask(slot->device, &call);
    }
}

static bool look_at_bars(const struct device *device, const uint32_t words[BARS], struct bar bars[BARS]) {
    memset(bars, 0, BARS * sizeof *bars);
    for (int at = 0; at < BARS; at++) {
        uint32_t word = words[at];
        if (word == 0) {
            continue;
        }
        bool wide = (word & 7) == 4;
        if ((word & 7) != 0 && (!wide || at == BARS - 1)) {
            warn("BAR %d of device %d has the type bits of %#010x", at, device->number, word);
            return false;
        }
        uint64_t high = wide ? words[at + 1] : UINT32_MAX;
        uint64_t size = ~(high << 32 | (word & ~0xFu)) + 1;
        if (size < PAGE || (size & (size - 1)) != 0) {
            warn("BAR %d of device %d is no power of two of at least a page: %#x %#010x", at, device->number,
                 (unsigned)high, word);
            return false;
        }
        bars[at] = (struct bar){.size = size, .wide = wide};
        at += wide;
    }
    return true;
}

static void look_at_identity(struct device *device, const HDV_PCI_PNP_ID *pnp) {
    uint32_t identity = (uint32_t)pnp->VendorID | (uint32_t)pnp->DeviceID << 16;
    uint32_t class = (uint32_t)pnp->RevisionID | (uint32_t)pnp->ProgIf << 8 | (uint32_t)pnp->SubClass << 16 |
                     (uint32_t)pnp->BaseClass << 24;
    uint32_t subsystem = (uint32_t)pnp->SubVendorID | (uint32_t)pnp->SubSystemID << 16;
    if (ask_config(device, 0x00) != identity || ask_config(device, 0x08) != class ||
        ask_config(device, 0x2C) != subsystem) {
        warn("GetDetails of device %d and its configuration space differ in identity", device->number);
    }
}

// The VID places BARs, high up where they are 64 bits wide.
static void place_bars(struct system *system, struct slot *slot) {
    for (int at = 0; at < BARS; at++) {
        struct bar *bar = &slot->bars[at];
        if (bar->size == 0) {
            continue;
        }
        uint64_t *next = bar->wide ? &system->next_bar : &system->next_low_bar;
        bar->address = (*next + bar->size - 1) / bar->size * bar->size;
        *next = bar->address + bar->size;
        slot->registers[at] = (uint32_t)bar->address;
        if (bar->wide) {
            slot->registers[at + 1] = (uint32_t)(bar->address >> 32);
        }
    }
}

static HRESULT describe(struct system *system, struct slot *slot, const char **why) {
    struct device *device = slot->device;
    uint32_t command = ask_config(device, 4);
    if (command & BUS_MASTER) {
        warn("device %d is a bus master before a guest allowed it", device->number);
        *why = "the device is a bus master already";
        return E_INVALIDARG;
    }
    HRESULT code = get_details(device, &slot->pnp, slot->words);
    if (code < 0) {
        *why = "GetDetails failed";
        return code;
    }
    details_again(slot);
    if (ask_config(device, 4) != command) {
        warn("GetDetails of device %d changes its command register", device->number);
    }
    look_at_identity(device, &slot->pnp);
    if (!look_at_bars(device, slot->words, slot->bars)) {
        *why = "the BARs of the device cannot be";
        return E_INVALIDARG;
    }
    lock();
    place_bars(system, slot);
    unlock();
    msix_find(slot);
    return S_OK;
}

// -- power ----------------------------------------------------------------------------------------

static bool well_known(const GUID *class_id) {
    for (size_t at = 0; at < sizeof WELL_KNOWN / sizeof *WELL_KNOWN; at++) {
        if (same_guid(class_id, &WELL_KNOWN[at])) {
            return true;
        }
    }
    return false;
}

static HRESULT resolve(struct system *system, struct slot *slot, const char **why) {
    HRESULT code = S_OK;
    lock();
    struct device *device = device_for(system, slot->hosting, &slot->class_id, &slot->instance_id);
    if (device == NULL) {
        code = E_UNEXPECTED;
        *why = "FinishReservingResources: emulator 'Unknown'";
    } else if (!well_known(&slot->class_id) && system->custom_seen) {
        code = E_HV_INVALID_PARAMETER;
        *why = "a second device of a class that is not well known";
    } else {
        system->custom_seen |= !well_known(&slot->class_id);
        slot->device = device;
    }
    unlock();
    return code;
}

HRESULT slot_power_on(struct system *system, struct slot *slot, char **document) {
    const char *why = "a callback failed";
    HRESULT code = resolve(system, slot, &why);
    struct device *device = slot->device;
    if (code >= 0) {
        code = ask_simple(device, INITIALIZE);
    }
    if (code >= 0) {
        code = set_configuration(device, slot);
    }
    if (code >= 0) {
        code = describe(system, slot, &why);
    }
    if (code >= 0) {
        code = ask_simple(device, START);
    }
    if (code < 0) {
        free(*document);
        *document = error_document(code, why);
        return code;
    }
    lock();
    device->powered = device->started = slot->powered = true;
    unlock();
    return S_OK;
}

void slot_power_off(struct slot *slot) {
    lock();
    bool powered = slot->used && slot->powered;
    slot->powered = false;
    if (powered) {
        slot->device->started = false;
    }
    unlock();
    if (powered) {
        ask_simple(slot->device, STOP);
    }
}
