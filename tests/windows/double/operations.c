// Operations of the compute service: made, used once, waited for, closed.
#include "double.h"

#include <stdlib.h>

#include "operations.h"

enum stage { FRESH, REFUSED, STARTED, DONE };

struct operation {
    enum stage stage;
    bool closed;
    HRESULT code;
    char *document;
    HCS_OPERATION_COMPLETION callback;
    void *context;
    const char *name;
};

struct work {
    uint32_t index;
    const char *name;
    HRESULT (*run)(void *argument, char **document);
    void *argument;
    void (*discard)(void *argument);
};

static struct operation *operations;
static uint32_t used, room;

// With the mutex held.
static struct operation *operation_of(const void *handle, const char *where) {
    uint32_t index = handle_index(OPERATION, handle);
    if (index >= used || operations[index].closed) {
        fatal("%s: %#llx is no operation, or a closed one", where, SHOWN(handle));
    }
    return &operations[index];
}

void *HcsCreateOperation(const void *context, HCS_OPERATION_COMPLETION callback) {
    HRESULT code;
    if (ordered("HcsCreateOperation", QUICK | SILENT, &code)) {
        return NULL;
    }
    lock();
    if (used == room) {
        room = room == 0 ? 64 : room * 2;
        operations = realloc(operations, room * sizeof *operations);
        if (operations == NULL) {
            abort();
        }
    }
    operations[used] = (struct operation){.stage = FRESH, .callback = callback, .context = (void *)(uintptr_t)context};
    void *handle = make_handle(OPERATION, used++);
    unlock();
    add(COUNT_operations_live, 1);
    return handle;
}

void HcsCloseOperation(void *handle) {
    HRESULT code;
    if (handle == NULL || ordered("HcsCloseOperation", QUICK | SILENT, &code)) {
        return;
    }
    lock();
    operation_of(handle, "HcsCloseOperation")->closed = true;
    unlock();
    add(COUNT_operations_live, -1);
}

HRESULT HcsCancelOperation(void *handle) {
    HRESULT code;
    if (ordered("HcsCancelOperation", 0, &code)) {
        return code;
    }
    lock();
    operation_of(handle, "HcsCancelOperation");
    unlock();
    return E_NOTIMPL;
}

HRESULT HcsSetOperationCallback(void *handle, const void *context, HCS_OPERATION_COMPLETION callback) {
    HRESULT code;
    if (ordered("HcsSetOperationCallback", QUICK, &code)) {
        return code;
    }
    lock();
    struct operation *operation = operation_of(handle, "HcsSetOperationCallback");
    bool late = operation->stage != FRESH;
    if (!late) {
        operation->callback = callback;
        operation->context = (void *)(uintptr_t)context;
    }
    unlock();
    return late ? HCS_ALREADY_STARTED : S_OK;
}

// With the mutex held, on an operation that is done.
static HRESULT take_result(const struct operation *operation, WCHAR **document) {
    if (document != NULL) {
        *document = result_string(operation->document);
    }
    return operation->code;
}

HRESULT HcsGetOperationResult(void *handle, WCHAR **document) {
    HRESULT code;
    if (ordered("HcsGetOperationResult", QUICK, &code)) {
        return code;
    }
    lock();
    struct operation *operation = operation_of(handle, "HcsGetOperationResult");
    code = operation->stage == DONE      ? take_result(operation, document)
           : operation->stage == STARTED ? HCS_PENDING
                                         : HCS_NOT_STARTED;
    unlock();
    return code;
}

HRESULT HcsWaitForOperationResult(void *handle, DWORD milliseconds, WCHAR **document) {
    HRESULT code;
    if (document != NULL) {
        *document = NULL;
    }
    if (ordered("HcsWaitForOperationResult", SILENT, &code)) {
        return code;
    }
    if (callbacks_here) {
        warn("HcsWaitForOperationResult was called inside a callback");
    }
    int64_t deadline = milliseconds == UINT32_MAX ? -1 : os_now() + (int64_t)milliseconds * 1000;
    lock();
    struct operation *operation = operation_of(handle, "HcsWaitForOperationResult");
    if (operation->stage == REFUSED) {
        warn("HcsWaitForOperationResult: %s had failed, nothing was started", operation->name);
        unlock();
        return HCS_NOT_STARTED;
    }
    if (operation->stage == FRESH) {
        warn("HcsWaitForOperationResult: nothing was started");
        unlock();
        return HCS_NOT_STARTED;
    }
    while ((operation = operation_of(handle, "HcsWaitForOperationResult"))->stage != DONE) {
        if (!wait_change(deadline) && operations[handle_index(OPERATION, handle)].stage != DONE) {
            unlock();
            return HCS_TIMEOUT;
        }
    }
    code = take_result(operation, document);
    unlock();
    return code;
}

// -- used by systems.c ----------------------------------------------------------------------------

HRESULT operation_check(void *handle, const char *name) {
    if (handle == NULL) {
        warn("%s: without an operation", name);
        return E_POINTER;
    }
    lock();
    struct operation *operation = operation_of(handle, name);
    HRESULT code = operation->stage == FRESH ? S_OK : HCS_ALREADY_STARTED;
    unlock();
    if (code < 0) {
        warn("%s: the operation has been used before", name);
    }
    return code;
}

HRESULT operation_refuse(void *handle, const char *name, HRESULT code) {
    if (handle != NULL) {
        lock();
        struct operation *operation = operation_of(handle, name);
        if (operation->stage == FRESH) {
            operation->stage = REFUSED;
            operation->name = name;
        }
        unlock();
    }
    return code;
}

static void carry_out(void *argument) {
    struct work work = *(struct work *)argument;
    char *document = NULL, *another = NULL;
    HRESULT code, forced;
    free(argument);
    if (!ordered_result(work.name, "result", &code, &document)) {
        code = work.run(work.argument, &document);
    } else if (work.discard != NULL) {
        work.discard(work.argument);
    }
    if (ordered_result(work.name, "answer", &forced, &another)) {
        code = forced;
        free(document);
        document = another;
    }
    lock();
    struct operation *operation = &operations[work.index];
    operation->code = code;
    operation->document = document;
    operation->stage = DONE;
    HCS_OPERATION_COMPLETION callback = operation->closed ? NULL : operation->callback;
    void *context = operation->context;
    changed();
    unlock();
    if (callback != NULL) {
        callback(make_handle(OPERATION, work.index), context);
    }
}

HRESULT operation_run(void *handle, const char *name, HRESULT (*run)(void *, char **), void *argument,
                      void (*discard)(void *)) {
    struct work *work = malloc(sizeof *work);
    if (work == NULL) {
        abort();
    }
    lock();
    struct operation *operation = operation_of(handle, name);
    operation->stage = STARTED;
    operation->name = name;
    *work = (struct work){handle_index(OPERATION, handle), name, run, argument, discard};
    unlock();
    detach(carry_out, work);
    return S_OK;
}

void reset_operations(void) {
    lock();
    for (uint32_t at = 0; at < used; at++) {
        free(operations[at].document);
    }
    used = 0;
    unlock();
}
