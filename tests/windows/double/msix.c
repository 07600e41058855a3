// Interrupts: which messages the guest has programmed into a device's MSI-X table, and what the device delivers.
//
// The table is the device's; the guest's writes to it pass by here. A mask counts from when its write was answered,
// an unmask from when it was sent, so that a device that answers them in order is never blamed for a race.
#include "double.h"

#include <stdio.h>
#include <stdlib.h>

enum { STATUS = 0x04, POINTER = 0x34, CAPABILITIES = 1 << 4, MSIX = 0x11, ENTRY = 16, MOST_CAPABILITIES = 48 };
enum { MSI_DATA = 0x4020, RECORDS = 4096 };
#define MSI_ADDRESS ((uint64_t)0xFEE00000)

struct reading {
    struct device *device;
    struct call call;
};

static void run_reading(void *argument) {
    struct reading *reading = argument;
    if (!call_device(reading->device, &reading->call) || reading->call.code < 0) {
        reading->call.value = 0;
    }
}

static uint32_t read_config(struct slot *slot, uint32_t offset) {
    struct reading reading = {slot->device, {.which = READ_CONFIG, .offset = offset}};
    on_vcpu(run_reading, &reading, true);
    return reading.call.value;
}

void msix_find(struct slot *slot) {
    if (!(read_config(slot, STATUS) >> 16 & CAPABILITIES)) {
        return;
    }
    uint32_t at = read_config(slot, POINTER) & 0xFC;
    for (int left = MOST_CAPABILITIES; left > 0 && at >= 0x40; left--) {
        uint32_t header = read_config(slot, at);
        if ((header & 0xFF) == MSIX) {
            uint32_t where = read_config(slot, at + 4), count = (header >> 16 & 0x7FF) + 1;
            struct vector *vectors = calloc(count, sizeof *vectors);
            if (vectors == NULL) {
                abort();
            }
            for (uint32_t vector = 0; vector < count; vector++) {
                vectors[vector].masked = true;
            }
            lock();
            slot->msix = (struct msix){
                .capability = at, .count = count, .bar = (int)(where & 7), .table = where & ~7u, .vectors = vectors};
            unlock();
            return;
        }
        at = header >> 8 & 0xFC;
    }
}

void msix_forget(struct slot *slot) {
    free(slot->msix.vectors);
    slot->msix = (struct msix){.capability = 0};
}

void msix_control(struct slot *slot, uint32_t dword, bool before) {
    bool on = (dword >> 30) == 2;  // enabled and the function is not masked
    lock();
    if (on == before && slot->msix.on != on) {
        slot->msix.on = on;
        slot->msix.off_at = os_now();
    }
    unlock();
}

static void write_entry(struct vector *vector, uint32_t field, uint32_t value, bool before) {
    if (field == 3) {
        bool masked = value & 1;
        if (masked != before && vector->masked != masked) {
            vector->masked = masked;
            vector->masked_at = os_now();
        }
        return;
    }
    if (!before) {
        return;
    }
    if (vector->changed_at == 0 || !vector->masked) {
        vector->old_address = vector->address;
        vector->old_data = vector->data;
    }
    vector->changed_at = os_now();
    if (field == 0) {
        vector->address = (vector->address & ~(uint64_t)UINT32_MAX) | value;
    } else if (field == 1) {
        vector->address = (vector->address & UINT32_MAX) | (uint64_t)value << 32;
    } else {
        vector->data = value;
    }
}

void msix_write(struct slot *slot, int32_t bar, uint64_t offset, uint32_t size, uint64_t value, bool before) {
    struct msix *msix = &slot->msix;
    if (msix->capability == 0 || bar != msix->bar || offset < msix->table ||
        offset - msix->table >= (uint64_t)msix->count * ENTRY || size < 4) {
        return;
    }
    uint64_t at = offset - msix->table;
    lock();
    for (uint32_t done = 0; done < size; done += 4) {
        uint64_t dword = (at + done) / 4;
        if (dword / 4 < msix->count) {
            write_entry(&msix->vectors[dword / 4], (uint32_t)(dword % 4), (uint32_t)(value >> 8 * done), before);
        }
    }
    unlock();
}

// -- records --------------------------------------------------------------------------------------

struct record {
    struct system *system;
    int64_t at;
    uint64_t address;
    uint32_t data;
};

static struct record records[RECORDS];
static uint64_t record_count;

uint64_t dbl_interrupts(int32_t number, char *text, uint64_t size) {
    struct system *system = system_number(number);
    char line[TEXT];
    uint64_t used = 0;
    if (size > 0) {
        text[0] = 0;
    }
    lock();
    uint64_t start = record_count > RECORDS ? record_count - RECORDS : 0;
    for (uint64_t at = start; at < record_count; at++) {
        const struct record *record = &records[at % RECORDS];
        if (record->system != system) {
            continue;
        }
        uint64_t length = (uint64_t)snprintf(line, sizeof line, "%lld %llu %u\n", (long long)record->at,
                                             (unsigned long long)record->address, record->data);
        if (used + length < size) {
            memcpy(text + used, line, length + 1);
        }
        used += length;
    }
    unlock();
    return used + 1;
}

void reset_records(void) {
    lock();
    record_count = 0;
    unlock();
}

// -- delivery -------------------------------------------------------------------------------------

enum verdict { FINE, UNKNOWN, MASKED };

// With the mutex held. What a driver has changed this very moment may still be on its way.
static enum verdict judge(const struct slot *slot, uint64_t address, uint32_t data) {
    int64_t grace = os_now() - switched(SWITCH_mask_grace_ms) * 1000;
    enum verdict verdict = UNKNOWN;
    for (uint32_t at = 0; at < slot->msix.count; at++) {
        const struct vector *vector = &slot->msix.vectors[at];
        bool now = vector->address == address && vector->data == data;
        bool just = vector->old_address == address && vector->old_data == data && vector->changed_at > grace;
        if (!now && !just) {
            continue;
        }
        bool on = slot->msix.on || slot->msix.off_at > grace;
        if (on && (!vector->masked || vector->masked_at > grace)) {
            return FINE;
        }
        verdict = MASKED;
    }
    return verdict;
}

HRESULT HdvDeliverGuestInterrupt(void *handle, uint64_t address, uint32_t data) {
    static const char name[] = "HdvDeliverGuestInterrupt";
    HRESULT code;
    struct device *device = device_of(handle, name);
    if (ordered(name, QUICK | SILENT, &code)) {
        return code;
    }
    struct system *system = device->host->system;
    lock();
    struct slot *slot = slot_of_device(device);
    if (slot == NULL || system->died || system->life == STOPPED) {
        unlock();
        return slot == NULL ? E_UNEXPECTED : E_RPC_UNAVAILABLE;
    }
    records[record_count++ % RECORDS] = (struct record){system, os_now(), address, data};
    bool taken = address == MSI_ADDRESS && data >= MSI_DATA && data - MSI_DATA < system->messages;
    enum verdict verdict = judge(slot, address, data);
    dbl_interrupt interrupt = system->interrupt;
    void *context = system->interrupt_context;
    unlock();
    add(COUNT_interrupts, 1);
    if (!taken || verdict == UNKNOWN) {
        add(COUNT_interrupts_strange, 1);
        warn("%s: the guest programmed no message (%#llx, %#x)", name, (unsigned long long)address, data);
        return E_INVALIDARG;
    }
    if (verdict == MASKED) {
        add(COUNT_interrupts_strange, 1);
        warn("%s: the guest has masked (%#llx, %#x)", name, (unsigned long long)address, data);
        return S_OK;
    }
    int64_t every = switched(SWITCH_lose_interrupts);
    if (every > 0 && counted(COUNT_interrupts) % every == 0) {
        add(COUNT_interrupts_lost, 1);
    } else if (interrupt != NULL) {
        interrupt(context, address, data);
    }
    return S_OK;
}

void dbl_allocate_msi(int32_t number, uint64_t *address, uint32_t *data) {
    struct system *system = system_number(number);
    lock();
    *address = MSI_ADDRESS;
    *data = MSI_DATA + system->messages++;
    unlock();
}

void dbl_on_interrupt(int32_t number, dbl_interrupt callback, void *context) {
    struct system *system = system_number(number);
    lock();
    system->interrupt = callback;
    system->interrupt_context = context;
    unlock();
}
