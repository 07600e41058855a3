// The guest's accesses: configuration space as the VID answers it, BARs as they are decoded, on threads of vCPUs.
#include "double.h"

#include <stdlib.h>

enum { COMMAND = 0x04, BAR0 = 0x10, BAR_END = 0x28, ROM = 0x30, LINE = 0x3C, HEADER_END = 0x40, COMMAND_MEMORY = 2 };
enum { GUARD = 16, CANARY = 0x5A, FILL = 0xA5 };

struct access {
    struct system *system;
    struct slot *slot;
    uint64_t address;
    uint32_t size;
    uint64_t value;
    bool write, decoded;
};

static uint64_t ones(uint32_t size) { return UINT64_MAX >> (64 - 8 * size); }

// A slot that the guest sees, with the mutex held.
static bool visible(const struct system *system, const struct slot *slot) {
    return system->life == RUNNING && slot->used && slot->powered && !slot->removed;
}

// -- configuration space --------------------------------------------------------------------------

static bool forwards(const struct slot *slot) {
    return slot->hosting == EXTERNAL && switched(SWITCH_external_forwards);
}

static uint32_t forward_read(struct slot *slot, uint32_t offset) {
    struct call call = {.which = READ_CONFIG, .offset = offset, .value = 0xCCCCCCCC};
    return call_device(slot->device, &call) && call.code >= 0 ? call.value : UINT32_MAX;
}

static void forward_write(struct slot *slot, uint32_t offset, uint32_t value) {
    struct call call = {.which = WRITE_CONFIG, .offset = offset, .value = value};
    bool control = slot->msix.capability != 0 && offset == slot->msix.capability;
    if (control) {
        msix_control(slot, value, true);
    }
    call_device(slot->device, &call);
    if (control) {
        msix_control(slot, value, false);
    }
}

// Identity, status and capabilities are the device's; BARs and the command register are the VID's.
static uint32_t read_dword(struct slot *slot, uint32_t offset) {
    if (offset == COMMAND) {
        return (forward_read(slot, offset) & 0xFFFF0000) | slot->command;
    }
    if (offset == LINE) {
        return (forward_read(slot, offset) & 0xFFFFFF00) | slot->line;
    }
    if (offset >= BAR0 && offset < BAR_END && !forwards(slot)) {
        uint32_t index = (offset - BAR0) / 4;
        bool upper = index > 0 && slot->bars[index - 1].wide;
        return slot->registers[index] | (upper ? 0 : slot->words[index] & 0xF);
    }
    if (offset == ROM && !forwards(slot)) {
        return 0;
    }
    return forward_read(slot, offset);
}

static void write_bar(struct slot *slot, uint32_t index, uint32_t value) {
    bool upper = index > 0 && slot->bars[index - 1].wide;
    uint32_t low = upper ? index - 1 : index;
    lock();
    slot->registers[index] = value & slot->words[index] & (upper ? UINT32_MAX : ~0xFu);
    struct bar *bar = &slot->bars[low];
    bar->address = slot->registers[low] | (bar->wide ? (uint64_t)slot->registers[low + 1] << 32 : 0);
    unlock();
}

static void write_dword(struct slot *slot, uint32_t offset, uint32_t value) {
    if (offset == COMMAND) {
        slot->command = (uint16_t)(value & 0x0547);  // what a PCI Express function lets one write
    } else if (offset == LINE) {
        slot->line = (uint8_t)value;
    } else if (offset >= BAR0 && offset < BAR_END) {
        write_bar(slot, (offset - BAR0) / 4, value);
    }
    if (offset >= HEADER_END || (forwards(slot) && (offset == COMMAND || (offset >= BAR0 && offset < BAR_END)))) {
        forward_write(slot, offset, value);
    }
}

// Accesses of less than a dword reach a device as whole ones: read, changed, written.
static void run_config(void *argument) {
    struct access *access = argument;
    uint32_t offset = (uint32_t)access->address & ~3u, shift = 8 * ((uint32_t)access->address & 3);
    uint32_t mask = (uint32_t)ones(access->size) << shift;
    if (!access->write) {
        access->value = (read_dword(access->slot, offset) & mask) >> shift;
        return;
    }
    uint32_t value = (uint32_t)access->value << shift & mask;
    if (access->size < 4) {
        uint32_t kept = read_dword(access->slot, offset);
        value |= (offset == COMMAND ? kept & 0xFFFF : kept) & ~mask;
    }
    write_dword(access->slot, offset, value);
}

static int32_t config_access(int32_t number, int32_t index, uint32_t offset, uint32_t size, uint32_t *value,
                             bool write) {
    struct system *system = system_number(number);
    if ((size != 1 && size != 2 && size != 4) || offset % size != 0 || offset >= PAGE) {
        fatal("no guest accesses %u bytes at %#x of configuration space", size, offset);
    }
    lock();
    struct access access = {.system = system, .address = offset, .size = size, .value = *value, .write = write};
    access.slot = index >= 0 && index < MAX_SLOTS ? &system->slots[index] : NULL;
    bool there = access.slot != NULL && visible(system, access.slot);
    unlock();
    if (there) {
        on_vcpu(run_config, &access, true);
    }
    *value = there ? (uint32_t)access.value : (uint32_t)ones(size);
    return !there;
}

int32_t dbl_config_read(int32_t system, int32_t slot, uint32_t offset, uint32_t size, uint32_t *value) {
    *value = 0;
    return config_access(system, slot, offset, size, value, false);
}

int32_t dbl_config_write(int32_t system, int32_t slot, uint32_t offset, uint32_t size, uint32_t value) {
    return config_access(system, slot, offset, size, &value, true);
}

// -- BARs -----------------------------------------------------------------------------------------

// With the mutex held: which slot and BAR decode an address.
static struct slot *decode(struct system *system, uint64_t address, uint32_t size, int32_t *bar) {
    for (int at = 0; at < MAX_SLOTS; at++) {
        struct slot *slot = &system->slots[at];
        if (!visible(system, slot) || !(slot->command & COMMAND_MEMORY)) {
            continue;
        }
        for (*bar = 0; *bar < BARS; ++*bar) {
            const struct bar *window = &slot->bars[*bar];
            if (window->size != 0 && address >= window->address && address - window->address <= window->size - size) {
                return slot;
            }
        }
    }
    return NULL;
}

// The bytes of an access stand alone: what is touched around them is found.
static uint64_t intercept(struct slot *slot, int32_t bar, uint64_t offset, uint32_t size, uint64_t value, bool write) {
    uint8_t bytes[GUARD + 8 + GUARD];
    memset(bytes, CANARY, sizeof bytes);
    uint8_t *data = bytes + GUARD;
    for (uint32_t at = 0; at < size; at++) {
        data[at] = (uint8_t)(write ? value >> 8 * at : FILL);
    }
    enum callback which = write ? WRITE_MMIO : READ_MMIO;
    struct call call = {.which = which, .bar = bar, .at = offset, .length = size, .data = data};
    bool answered = call_device(slot->device, &call);
    for (uint32_t at = 0; at < sizeof bytes; at++) {
        if ((at < GUARD || at >= GUARD + size) && bytes[at] != CANARY) {
            fatal("an access of %u bytes at BAR %d + %#llx was answered outside its buffer", size, bar,
                  (unsigned long long)offset);
        }
    }
    uint64_t result = 0;
    for (uint32_t at = 0; at < size; at++) {
        result |= (uint64_t)data[at] << 8 * at;
    }
    if (write && result != (value & ones(size))) {
        warn("WriteInterceptedMemory changed the buffer it was given");
    }
    return answered && call.code >= 0 ? result : ones(size);
}

static void run_mmio(void *argument) {
    struct access *access = argument;
    int32_t bar = 0;
    int64_t every = switched(SWITCH_details_every);
    lock();
    struct slot *slot = decode(access->system, access->address, access->size, &bar);
    uint64_t offset = slot == NULL ? 0 : access->address - slot->bars[bar].address;
    bool again = slot != NULL && every > 0 && access->system->accesses++ % (uint64_t)every == 0;
    uint8_t *memory = slot == NULL ? NULL : range_memory(slot, bar, offset, access->size, access->write);
    bool rung = slot != NULL && access->write && doorbell_rings(slot, bar, offset, access->size, access->value);
    if (memory != NULL && access->write) {
        memcpy(memory, &access->value, access->size);
    } else if (memory != NULL) {
        memcpy(&access->value, memory, access->size);
    }
    unlock();
    access->decoded = slot != NULL;
    if (again) {
        vid_details_beside(slot, false);
    }
    if (slot == NULL || memory != NULL || rung) {
        return;
    }
    if (access->write) {
        msix_write(slot, bar, offset, access->size, access->value, true);
    }
    access->value = intercept(slot, bar, offset, access->size, access->value, access->write);
    if (access->write) {
        msix_write(slot, bar, offset, access->size, access->value, false);
    }
}

static int32_t mmio_access(int32_t number, uint64_t address, uint32_t size, uint64_t *value, bool write) {
    if (size != 1 && size != 2 && size != 4 && size != 8) {
        fatal("no guest accesses %u bytes at once", size);
    }
    struct access access = {
        .system = system_number(number), .address = address, .size = size, .value = *value, .write = write};
    on_vcpu(run_mmio, &access, true);
    *value = access.decoded ? access.value : ones(size);
    return !access.decoded;
}

int32_t dbl_mmio_read(int32_t system, uint64_t address, uint32_t size, uint64_t *value) {
    *value = 0;
    return mmio_access(system, address, size, value, false);
}

int32_t dbl_mmio_write(int32_t system, uint64_t address, uint32_t size, uint64_t value) {
    return mmio_access(system, address, size, &value, true);
}

// -- where things are -----------------------------------------------------------------------------

int32_t dbl_slot(int32_t number, const char *instance_id) {
    struct system *system = system_number(number);
    GUID instance;
    if (!parse_guid(instance_id, &instance)) {
        return -1;
    }
    lock();
    struct slot *slot = slot_of(system, &instance);
    int32_t index = slot != NULL && visible(system, slot) ? (int32_t)(slot - system->slots) : -1;
    unlock();
    return index;
}

int32_t dbl_bar(int32_t number, int32_t index, int32_t bar, uint64_t *address, uint64_t *size) {
    struct system *system = system_number(number);
    if (index < 0 || index >= MAX_SLOTS || bar < 0 || bar >= BARS) {
        return 1;
    }
    lock();
    *address = system->slots[index].bars[bar].address;
    *size = system->slots[index].bars[bar].size;
    unlock();
    return *size == 0;
}

uint64_t dbl_allocate_bar(int32_t number, uint64_t size) {
    struct system *system = system_number(number);
    lock();
    uint64_t address = (system->next_bar + size - 1) / size * size;
    system->next_bar = address + size;
    unlock();
    return address;
}
