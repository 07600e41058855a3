// The pieces of kernel32.dll and ole32.dll that go with platform.h where there is no Windows. cffi reads it.

typedef void (*WAITORTIMERCALLBACK)(void *context, uint8_t timedOut);

void *LocalFree(void *memory);
DWORD GetLastError(void);
HANDLE CreateEventW(void *attributes, BOOL manualReset, BOOL initialState, const WCHAR *name);
BOOL SetEvent(HANDLE event);
BOOL ResetEvent(HANDLE event);
BOOL CloseHandle(HANDLE handle);
DWORD WaitForSingleObject(HANDLE handle, DWORD milliseconds);
BOOL RegisterWaitForSingleObject(HANDLE *wait, HANDLE object, WAITORTIMERCALLBACK callback, void *context,
                                 uint32_t milliseconds, uint32_t flags);
BOOL UnregisterWaitEx(HANDLE wait, HANDLE completionEvent);
HRESULT CoIncrementMTAUsage(void **cookie);
HRESULT CoDecrementMTAUsage(void *cookie);
