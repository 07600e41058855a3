// Virtual machines: RAM, slots that are declared, life. What the service's documents say is in service.c.
#include "double.h"

#include <stdio.h>
#include <stdlib.h>

enum { BAR_WINDOW_LOW = 0xF8000000u };
#define BAR_WINDOW ((uint64_t)64 << 30)

struct system systems[MAX_SYSTEMS];

struct system *system_number(int32_t number) {
    if (number < 0 || number >= MAX_SYSTEMS || !systems[number].used) {
        fatal("there is no system %d", number);
    }
    return &systems[number];
}

HRESULT system_create(const char *id, const GUID *runtime, uint32_t memory_mb, struct system **result) {
    struct system *system = NULL;
    lock();
    for (int at = MAX_SYSTEMS - 1; at >= 0; at--) {
        if (!systems[at].used) {
            system = &systems[at];
        } else if (strcmp(systems[at].id, id) == 0) {
            unlock();
            return HCS_ALREADY_EXISTS;
        }
    }
    if (system == NULL || memory_mb == 0 || strlen(id) >= TEXT) {
        unlock();
        return E_INVALIDARG;
    }
    uint64_t bytes = memory_mb * MIB;
    *system = (struct system){.used = true, .number = (int)(system - systems), .runtime = *runtime};
    snprintf(system->id, sizeof system->id, "%s", id);
    system->low = bytes < LOW_RAM ? bytes : LOW_RAM;
    system->high = bytes - system->low;
    system->ram = os_ram_create(bytes);
    system->backed = calloc(bytes / PAGE / 8 + 1, 1);
    if (system->ram == NULL || system->backed == NULL) {
        abort();
    }
    system->next_low_bar = BAR_WINDOW_LOW;
    system->next_bar = HIGH_RAM + system->high < BAR_WINDOW ? BAR_WINDOW : 2 * (HIGH_RAM + system->high);
    unlock();
    *result = system;
    return S_OK;
}

// RAM stands in the file as low, then high.
bool ram_range(const struct system *system, uint64_t address, uint64_t size, uint64_t *offset) {
    if (size == 0 || address + size < address) {
        return false;
    }
    if (address + size <= system->low) {
        *offset = address;
        return true;
    }
    *offset = system->low + (address - HIGH_RAM);
    return address >= HIGH_RAM && address + size <= HIGH_RAM + system->high;
}

// -- slots ----------------------------------------------------------------------------------------

struct slot *slot_of(struct system *system, const GUID *instance) {
    for (int at = 0; at < MAX_SLOTS; at++) {
        if (system->slots[at].used && same_guid(&system->slots[at].instance_id, instance)) {
            return &system->slots[at];
        }
    }
    return NULL;
}

// With the mutex held. The instance id stays taken for the life of the machine, whatever becomes of the slot.
HRESULT slot_declare(struct system *system, const GUID *instance, const GUID *class_id, enum hosting hosting,
                     char **strings, uint32_t count, struct slot **result) {
    char text[37];
    if (slot_of(system, instance) != NULL) {
        warn("slot %s is declared twice", guid_text(instance, text));
        return E_INVALIDARG;
    }
    if (hosting == EXTERNAL && !switched(SWITCH_external)) {
        return E_INVALIDARG;
    }
    for (int at = 0; at < MAX_SLOTS; at++) {
        struct slot *slot = &system->slots[at];
        if (!slot->used) {
            *slot = (struct slot){.used = true, .class_id = *class_id, .instance_id = *instance, .hosting = hosting};
            for (slot->string_count = 0; slot->string_count < count; slot->string_count++) {
                slot->strings[slot->string_count] = copy_text(strings[slot->string_count]);
            }
            *result = slot;
            return S_OK;
        }
    }
    return E_INVALIDARG;
}

// With the mutex held.
void slot_forget(struct slot *slot) {
    while (slot->beside > 0) {
        wait_change(-1);
    }
    doorbells_forget(slot);
    ranges_forget(slot);
    msix_forget(slot);
    for (uint32_t at = 0; at < slot->string_count; at++) {
        free(slot->strings[at]);
    }
    *slot = (struct slot){.used = false};
}

// -- life -----------------------------------------------------------------------------------------

char *error_document(HRESULT code, const char *message) {
    char text[TEXT * 2];
    snprintf(text, sizeof text,
             "{\"Error\":%d,\"ErrorMessage\":\"%s\","
             "\"ErrorEvents\":[{\"Message\":\"%s\",\"Provider\":\"double\"}]}",
             code, message, message);
    return copy_text(text);
}

HRESULT system_start(struct system *system, char **document) {
    lock();
    bool fine = system->life == CREATED && !system->died;
    unlock();
    if (!fine) {
        return HCS_INVALID_STATE;
    }
    // Devices are powered on before the machine runs.
    for (int at = 0; at < MAX_SLOTS; at++) {
        struct slot *slot = &system->slots[at];
        HRESULT code = slot->used && !slot->powered ? slot_power_on(system, slot, document) : S_OK;
        if (code < 0) {
            for (int other = 0; other < MAX_SLOTS; other++) {
                slot_power_off(&system->slots[other]);
            }
            return code;
        }
    }
    lock();
    system->life = RUNNING;
    changed();
    unlock();
    trace("system started");
    return S_OK;
}

struct exit_event {
    HCS_EVENT_CALLBACK callback;
    void *context;
    const char *how;
};

static void tell_exit(void *argument) {
    struct exit_event exit = *(struct exit_event *)argument;
    char text[TEXT];
    free(argument);
    snprintf(text, sizeof text, "{\"Status\":0,\"ExitType\":\"%s\"}", exit.how);
    WCHAR *wide = to_wide(text);
    HCS_EVENT event = {.Type = 1, .EventData = wide};
    exit.callback(&event, exit.context);
    free(wide);
}

void system_exit(struct system *system, const char *how) {
    struct exit_event *event = malloc(sizeof *event);
    if (event == NULL) {
        abort();
    }
    lock();
    *event = (struct exit_event){system->event, system->event_context, how};
    system->life = STOPPED;
    changed();
    unlock();
    trace("system %s", how);
    if (event->callback != NULL) {
        detach(tell_exit, event);
    } else {
        free(event);
    }
}

HRESULT system_stop(struct system *system) {
    lock();
    bool stopped = system->life == STOPPED, powered = system->life == RUNNING;
    unlock();
    if (stopped) {
        return HCS_ALREADY_STOPPED;
    }
    for (int at = 0; at < MAX_SLOTS && powered; at++) {
        struct device *device = system->slots[at].device;
        slot_power_off(&system->slots[at]);
        if (device != NULL && switched(SWITCH_teardown_at_stop)) {
            device_teardown(device);
        }
    }
    system_exit(system, "GracefulExit");
    return S_OK;
}

// -- a test's hand --------------------------------------------------------------------------------

int32_t dbl_create_system(const char *id, const char *runtime_id, uint32_t memory_mb, int32_t running) {
    struct system *system;
    GUID runtime;
    char *document = NULL;
    if (!parse_guid(runtime_id, &runtime) || system_create(id, &runtime, memory_mb, &system) < 0) {
        return -1;
    }
    if (running && system_start(system, &document) < 0) {
        return -1;
    }
    free(document);
    return system->number;
}

int32_t dbl_find_system(const char *id) {
    for (int at = 0; at < MAX_SYSTEMS; at++) {
        if (systems[at].used && strcmp(systems[at].id, id) == 0) {
            return at;
        }
    }
    return -1;
}

int32_t dbl_cold_slot(int32_t number, const char *instance_id, const char *class_id, const char *hosting) {
    struct slot *slot;
    GUID instance, class;
    bool external = strcmp(hosting, "External") == 0;
    if (!parse_guid(instance_id, &instance) || !parse_guid(class_id, &class)) {
        return E_INVALIDARG;
    }
    lock();
    struct system *system = system_number(number);
    HRESULT code = system->life != CREATED ? HCS_INVALID_STATE
                                           : slot_declare(system, &instance, &class, external ? EXTERNAL : RESTRICTED,
                                                          NULL, 0, &slot);
    unlock();
    return code;
}

HRESULT dbl_start(int32_t number) {
    char *document = NULL;
    HRESULT code = system_start(system_number(number), &document);
    free(document);
    return code;
}

HRESULT dbl_stop(int32_t number) { return system_stop(system_number(number)); }

void dbl_kill(int32_t number) {
    struct system *system = system_number(number);
    lock();
    system->died = true;
    unlock();
    system_exit(system, "UnexpectedExit");
}

void dbl_properties(int32_t number, const char *document) {
    struct system *system = system_number(number);
    lock();
    free(system->properties);
    system->properties = copy_text(document);
    unlock();
}

void reset_systems(void) {
    lock();
    for (int at = 0; at < MAX_SYSTEMS; at++) {
        struct system *system = &systems[at];
        for (int slot = 0; slot < MAX_SLOTS && system->used; slot++) {
            slot_forget(&system->slots[slot]);
        }
        if (system->used) {
            os_ram_destroy(system->ram);
            free(system->backed);
            free(system->properties);
        }
        *system = (struct system){.used = false};
    }
    unlock();
}
