// What the documents given to the compute service say; texts of error documents are in machines.c.
#include "documents.h"

#include <stdlib.h>

struct request *new_request(struct system *system) {
    struct request *request = calloc(1, sizeof *request);
    if (request == NULL) {
        abort();
    }
    request->system = system;
    return request;
}

void free_request(struct request *request) {
    for (uint32_t at = 0; at < request->string_count; at++) {
        free(request->strings[at]);
    }
    free(request);
}

static bool only_keys(const struct json *value, const char *where, const char *const *keys) {
    bool fine = true;
    for (size_t at = 0; at < json_count(value); at++) {
        const char *const *key = keys;
        while (*key != NULL && strcmp(*key, json_key(value, at)) != 0) {
            key++;
        }
        if (*key == NULL) {
            warn("%s: the document has an unknown key \"%s\"", where, json_key(value, at));
            fine = false;
        }
    }
    return fine;
}

// A slot's settings, in a modify document and in a create document.
static HRESULT read_settings(const struct json *settings, const char *where, struct request *request) {
    static const char *const keys[] = {"EmulatorId", "HostingModel", "Configuration", NULL};
    const char *hosting = json_text(json_get(settings, "HostingModel"));
    const struct json *strings = json_get(settings, "Configuration");
    if (!only_keys(settings, where, keys)) {
        return HCS_INVALID_JSON;
    }
    if (!parse_guid(json_text(json_get(settings, "EmulatorId")), &request->class_id)) {
        warn("%s: EmulatorId is no GUID in lowercase without braces", where);
        return E_INVALIDARG;
    }
    if (hosting == NULL || (strcmp(hosting, "ExternalRestricted") != 0 && strcmp(hosting, "External") != 0)) {
        warn("%s: HostingModel is %s", where, hosting == NULL ? "missing" : hosting);
        return E_INVALIDARG;
    }
    request->hosting = strcmp(hosting, "External") == 0 ? EXTERNAL : RESTRICTED;
    for (size_t at = 0; at < json_count(strings) && at < MAX_STRINGS; at++) {
        const char *text = json_text(json_item(strings, at));
        if (text == NULL) {
            return HCS_INVALID_JSON;
        }
        request->strings[request->string_count++] = copy_text(text);
    }
    return S_OK;
}

HRESULT read_modify(const struct json *root, struct request *request, bool *remove) {
    static const char where[] = "HcsModifyComputeSystem";
    static const char *const keys[] = {"ResourcePath", "RequestType", "Settings", NULL};
    static const char path[] = "VirtualMachine/Devices/FlexibleIov/";
    const char *resource = json_text(json_get(root, "ResourcePath"));
    const char *type = json_text(json_get(root, "RequestType"));
    if (!only_keys(root, where, keys)) {
        return HCS_INVALID_JSON;
    }
    if (resource == NULL || type == NULL) {
        warn("%s: the document lacks ResourcePath or RequestType, or is no JSON", where);
        return HCS_INVALID_JSON;
    }
    *remove = strcmp(type, "Remove") == 0;
    if ((strcmp(type, "Add") != 0 && !*remove) || strncmp(resource, path, sizeof path - 1) != 0) {
        warn("%s: %s of %s", where, type, resource);
        return E_INVALIDARG;
    }
    if (!parse_guid(resource + sizeof path - 1, &request->instance)) {
        warn("%s: the slot in ResourcePath is no GUID in lowercase without braces", where);
        return E_INVALIDARG;
    }
    const struct json *settings = json_get(root, "Settings");
    return settings == NULL && *remove ? S_OK : read_settings(settings, where, request);
}

static HRESULT declare_cold(struct system *system, const struct json *slots) {
    for (size_t at = 0; at < json_count(slots); at++) {
        struct request *request = new_request(system);
        HRESULT code = read_settings(json_item(slots, at), "HcsCreateComputeSystem", request);
        if (code >= 0 && !parse_guid(json_key(slots, at), &request->instance)) {
            warn("HcsCreateComputeSystem: a slot's name is no GUID in lowercase without braces");
            code = E_INVALIDARG;
        }
        if (code >= 0) {
            lock();
            code = slot_declare(system, &request->instance, &request->class_id, request->hosting, request->strings,
                                request->string_count, &request->slot);
            unlock();
        }
        free_request(request);
        if (code < 0) {
            return code;
        }
    }
    return S_OK;
}

HRESULT create_from(const char *id, const struct json *root, struct system **system) {
    const struct json *machine = json_get(root, "VirtualMachine");
    const struct json *memory = json_get(json_get(json_get(machine, "ComputeTopology"), "Memory"), "SizeInMB");
    int64_t size, major;
    GUID runtime = {.Data1 = 0x9a6f0000, .Data2 = 0x4d1c, .Data3 = 0x4000};
    if (id == NULL || !json_number(memory, &size) || json_text(json_get(root, "Owner")) == NULL ||
        !json_number(json_get(json_get(root, "SchemaVersion"), "Major"), &major)) {
        warn("HcsCreateComputeSystem: the document is no JSON, or lacks Owner, SchemaVersion or the memory's size");
        return HCS_INVALID_JSON;
    }
    if (size <= 0 || size % 2 != 0 || size > 1 << 20) {
        return E_INVALIDARG;
    }
    for (size_t at = 0; at < strlen(id); at++) {
        runtime.Data4[at % 8] = (uint8_t)(runtime.Data4[at % 8] * 31 + id[at]);
    }
    parse_guid(id, &runtime);  // an id that is a GUID is the runtime id too
    HRESULT code = system_create(id, &runtime, (uint32_t)size, system);
    if (code >= 0) {
        (*system)->ends_with_handles = json_truth(json_get(root, "ShouldTerminateOnLastHandleClosed"));
        code = declare_cold(*system, json_get(json_get(machine, "Devices"), "FlexibleIov"));
    }
    return code;
}

