// What the compute service's calls do with the operation they are given.
#ifndef OPERATIONS_H
#define OPERATIONS_H

#include "double.h"

// Whether it can be used; then either refuse, which returns the code, or run. The argument is run's to free, or
// discard's when nothing is to be done.
HRESULT operation_check(void *handle, const char *name);
HRESULT operation_refuse(void *handle, const char *name, HRESULT code);
HRESULT operation_run(void *handle, const char *name, HRESULT (*run)(void *argument, char **document), void *argument,
                      void (*discard)(void *argument));

#endif
