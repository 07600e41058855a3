// The compute service's calls (computecore.dll): handles of systems, documents.
#include "double.h"

#include <stdio.h>
#include <stdlib.h>

#include "documents.h"
#include "operations.h"

enum { GENERIC_ALL = 0x10000000, MAX_HANDLES = 4096 };

static struct system *handles[MAX_HANDLES];
static uint32_t handle_count;

static void *open_handle(struct system *system) {
    lock();
    if (handle_count == MAX_HANDLES) {
        fatal("more than %d handles of systems", MAX_HANDLES);
    }
    handles[handle_count] = system;
    void *handle = make_handle(SYSTEM, handle_count++);
    system->handles++;
    unlock();
    add(COUNT_systems_live, 1);
    return handle;
}

struct system *system_of(void *handle, const char *where) {
    uint32_t index = handle_index(SYSTEM, handle);
    if (index >= MAX_HANDLES || handles[index] == NULL) {
        fatal("%s: %#llx is no system, or a closed one", where, SHOWN(handle));
    }
    return handles[index];
}

static HRESULT run_add(void *argument, char **document) {
    struct request *request = argument;
    struct system *system = request->system;
    struct slot *slot = NULL;
    lock();
    HRESULT code = system->died              ? HCS_TERMINATED
                   : system->life != RUNNING ? HCS_INVALID_STATE
                                             : slot_declare(system, &request->instance, &request->class_id,
                                                            request->hosting, request->strings, request->string_count,
                                                            &slot);
    unlock();
    if (code >= 0) {
        code = slot_power_on(system, slot, document);
        if (code < 0) {
            lock();
            slot_forget(slot);
            unlock();
        }
    }
    if (code < 0 && *document == NULL) {
        *document = error_document(code, "the device could not be added");
    }
    free_request(request);
    return code;
}

static HRESULT run_remove(void *argument, char **document) {
    struct request *request = argument;
    struct system *system = request->system;
    lock();
    struct slot *slot = slot_of(system, &request->instance);
    HRESULT code = !switched(SWITCH_removal)         ? E_NOT_SUPPORTED
                   : system->died                    ? HCS_TERMINATED
                   : slot == NULL || slot->removed ? E_NOT_FOUND
                                                     : S_OK;
    unlock();
    free_request(request);
    if (code < 0) {
        *document = error_document(code, "the device could not be removed");
        return code;
    }
    slot_power_off(slot);
    lock();
    slot->removed = true;
    unlock();
    return S_OK;
}

static void discard(void *argument) { free_request(argument); }

HRESULT HcsModifyComputeSystem(void *handle, void *operation, const WCHAR *document, HANDLE identity) {
    static const char name[] = "HcsModifyComputeSystem";
    HRESULT code;
    bool remove = false;
    (void)identity;
    if (ordered(name, 0, &code)) {
        return operation_refuse(operation, name, code);
    }
    if ((code = operation_check(operation, name)) < 0) {
        return code;
    }
    char *text = from_wide(document);
    struct json *root = json_parse(text);
    struct request *request = new_request(system_of(handle, name));
    code = read_modify(root, request, &remove);
    json_free(root);
    free(text);
    if (code < 0) {
        free_request(request);
        return operation_refuse(operation, name, code);
    }
    return operation_run(operation, name, remove ? run_remove : run_add, request, discard);
}

// -- calls ----------------------------------------------------------------------------------------

static HRESULT run_nothing(void *argument, char **document) {
    (void)argument, (void)document;
    return S_OK;
}

HRESULT HcsCreateComputeSystem(const WCHAR *id, const WCHAR *document, void *operation, const void *security,
                               void **handle) {
    static const char name[] = "HcsCreateComputeSystem";
    struct system *system = NULL;
    HRESULT code;
    (void)security;
    if (ordered(name, 0, &code)) {
        return operation_refuse(operation, name, code);
    }
    if ((code = operation_check(operation, name)) < 0) {
        return code;
    }
    char *id_text = from_wide(id), *text = from_wide(document);
    struct json *root = json_parse(text);
    code = handle == NULL ? E_POINTER : create_from(id_text, root, &system);
    json_free(root);
    free(id_text);
    free(text);
    if (code < 0) {
        return operation_refuse(operation, name, code);
    }
    *handle = open_handle(system);
    return operation_run(operation, name, run_nothing, NULL, NULL);
}

HRESULT HcsOpenComputeSystem(const WCHAR *id, DWORD access, void **handle) {
    static const char name[] = "HcsOpenComputeSystem";
    HRESULT code;
    if (handle == NULL) {
        fatal("%s: nowhere to put the handle", name);
    }
    *handle = NULL;
    if (ordered(name, 0, &code)) {
        return code;
    }
    if (access != GENERIC_ALL) {
        warn("%s: the access asked for is %#x, not GENERIC_ALL", name, access);
        return E_ACCESSDENIED;
    }
    char *text = from_wide(id);
    int32_t number = text == NULL ? -1 : dbl_find_system(text);
    free(text);
    if (number < 0) {
        return HCS_NOT_FOUND;
    }
    *handle = open_handle(&systems[number]);
    return S_OK;
}

void HcsCloseComputeSystem(void *handle) {
    static const char name[] = "HcsCloseComputeSystem";
    HRESULT code;
    if (handle == NULL || ordered(name, 0, &code)) {
        return;
    }
    struct system *system = system_of(handle, name);
    lock();
    handles[handle_index(SYSTEM, handle)] = NULL;
    bool last = --system->handles == 0;
    for (int at = 0; at < MAX_HOSTS && last; at++) {
        if (hosts[at].used && !hosts[at].dead && hosts[at].system == system) {
            warn("%s: the last handle is closed before HdvTeardownDeviceHost", name);
        }
    }
    unlock();
    add(COUNT_systems_live, -1);
    if (last && system->ends_with_handles) {
        system_stop(system);
    }
}

static HRESULT run_start(void *argument, char **document) { return system_start(argument, document); }

static HRESULT run_stop(void *argument, char **document) {
    (void)document;
    return system_stop(argument);
}

static HRESULT simple(const char *name, void *handle, void *operation, HRESULT (*run)(void *, char **)) {
    HRESULT code;
    if (ordered(name, 0, &code)) {
        return operation_refuse(operation, name, code);
    }
    code = operation_check(operation, name);
    return code < 0 ? code : operation_run(operation, name, run, system_of(handle, name), NULL);
}

HRESULT HcsStartComputeSystem(void *handle, void *operation, const WCHAR *options) {
    (void)options;
    return simple("HcsStartComputeSystem", handle, operation, run_start);
}

HRESULT HcsShutDownComputeSystem(void *handle, void *operation, const WCHAR *options) {
    (void)options;
    return simple("HcsShutDownComputeSystem", handle, operation, run_stop);
}

HRESULT HcsTerminateComputeSystem(void *handle, void *operation, const WCHAR *options) {
    (void)options;
    return simple("HcsTerminateComputeSystem", handle, operation, run_stop);
}

static HRESULT run_properties(void *argument, char **document) {
    static const char *const states[] = {"Created", "Running", "Stopped"};
    struct system *system = argument;
    char text[TEXT * 2], runtime[37];
    lock();
    bool died = system->died;
    snprintf(text, sizeof text,
             "{\"Id\":\"%s\",\"SystemType\":\"VirtualMachine\",\"Owner\":\"double\","
             "\"RuntimeId\":\"%s\",\"State\":\"%s\"}",
             system->id, guid_text(&system->runtime, runtime), states[system->life]);
    *document = copy_text(system->properties != NULL ? system->properties : text);
    unlock();
    return died ? HCS_TERMINATED : S_OK;
}

HRESULT HcsGetComputeSystemProperties(void *handle, void *operation, const WCHAR *query) {
    (void)query;
    return simple("HcsGetComputeSystemProperties", handle, operation, run_properties);
}

HRESULT HcsSetComputeSystemCallback(void *handle, int32_t options, const void *context, HCS_EVENT_CALLBACK callback) {
    HRESULT code;
    (void)options;
    if (ordered("HcsSetComputeSystemCallback", 0, &code)) {
        return code;
    }
    struct system *system = system_of(handle, "HcsSetComputeSystemCallback");
    lock();
    system->event = callback;
    system->event_context = (void *)(uintptr_t)context;
    unlock();
    return S_OK;
}

HRESULT HcsWaitForComputeSystemExit(void *handle, DWORD milliseconds, WCHAR **result) {
    HRESULT code;
    if (ordered("HcsWaitForComputeSystemExit", 0, &code)) {
        return code;
    }
    struct system *system = system_of(handle, "HcsWaitForComputeSystemExit");
    int64_t deadline = milliseconds == UINT32_MAX ? -1 : os_now() + (int64_t)milliseconds * 1000;
    bool more = true;
    lock();
    while (system->life != STOPPED && more) {
        more = wait_change(deadline);
    }
    code = system->life == STOPPED ? S_OK : HCS_TIMEOUT;
    unlock();
    if (result != NULL) {
        *result = code < 0 ? NULL : result_string("{\"Status\":0}");
    }
    return code;
}

static HRESULT run_enumerate(void *argument, char **document) {
    char text[MAX_SYSTEMS * TEXT * 2] = "[", runtime[37];
    size_t end = 1;
    (void)argument;
    lock();
    for (int at = 0; at < MAX_SYSTEMS; at++) {
        if (systems[at].used) {
            end += (size_t)snprintf(text + end, sizeof text - end, "%s{\"Id\":\"%s\",\"RuntimeId\":\"%s\"}",
                                    end > 1 ? "," : "", systems[at].id, guid_text(&systems[at].runtime, runtime));
        }
    }
    unlock();
    snprintf(text + end, sizeof text - end, "]");
    *document = copy_text(text);
    return S_OK;
}

HRESULT HcsEnumerateComputeSystems(const WCHAR *query, void *operation) {
    static const char name[] = "HcsEnumerateComputeSystems";
    HRESULT code;
    (void)query;
    if (ordered(name, 0, &code)) {
        return operation_refuse(operation, name, code);
    }
    code = operation_check(operation, name);
    return code < 0 ? code : operation_run(operation, name, run_enumerate, NULL, NULL);
}

HRESULT HcsGetServiceProperties(const WCHAR *query, WCHAR **result) {
    HRESULT code;
    (void)query;
    if (result == NULL) {
        return E_POINTER;
    }
    *result = NULL;
    if (ordered("HcsGetServiceProperties", 0, &code)) {
        return code;
    }
    *result = result_string("{\"Properties\":[{\"SupportedSchemaVersions\":[{\"Major\":1,\"Minor\":0},"
                            "{\"Major\":2,\"Minor\":1},{\"Major\":2,\"Minor\":7}]}]}");
    return S_OK;
}

HRESULT HcsGrantVmAccess(const WCHAR *id, const WCHAR *path) {
    HRESULT code;
    (void)id, (void)path;
    return ordered("HcsGrantVmAccess", 0, &code) ? code : S_OK;
}

HRESULT HcsRevokeVmAccess(const WCHAR *id, const WCHAR *path) {
    HRESULT code;
    (void)id, (void)path;
    return ordered("HcsRevokeVmAccess", 0, &code) ? code : S_OK;
}

void reset_handles(void) {
    lock();
    memset(handles, 0, sizeof handles);
    handle_count = 0;
    unlock();
}
