/* Every type and function of Windows that sharing a directory uses: parsed by cffi, nothing is compiled.
 *
 * x64 only. The words are those of the Windows driver kit (ntifs.h); structures that travel in buffers are read and
 * written by Python.
 */

typedef int32_t NTSTATUS;
typedef uint8_t BOOLEAN;
typedef uint32_t ULONG;
typedef uint32_t UINT;
typedef void *HANDLE;
typedef void *PVOID;
typedef uint16_t WCHAR;

typedef struct {
    uint16_t Length;
    uint16_t MaximumLength;
    WCHAR *Buffer;
} UNICODE_STRING;

typedef struct {
    ULONG Length;
    HANDLE RootDirectory;
    UNICODE_STRING *ObjectName;
    ULONG Attributes;
    PVOID SecurityDescriptor;
    PVOID SecurityQualityOfService;
} OBJECT_ATTRIBUTES;

typedef struct {
    intptr_t Status;
    uintptr_t Information;
} IO_STATUS_BLOCK;

/* -- kernel32.dll ---------------------------------------------------------------------------------------------- */

typedef struct {
    uintptr_t Internal;
    uintptr_t InternalHigh;
    ULONG Offset;
    ULONG OffsetHigh;
    HANDLE hEvent;
} OVERLAPPED;

UINT GetSystemDirectoryW(WCHAR *buffer, UINT size);
int32_t LockFileEx(HANDLE file, ULONG flags, ULONG reserved, ULONG length, ULONG length_high, OVERLAPPED *place);
int32_t UnlockFileEx(HANDLE file, ULONG reserved, ULONG length, ULONG length_high, OVERLAPPED *place);

/* -- ntdll.dll ------------------------------------------------------------------------------------------------- */

NTSTATUS NtCreateFile(HANDLE *file, ULONG access, OBJECT_ATTRIBUTES *attributes, IO_STATUS_BLOCK *iosb,
                      int64_t *allocation, ULONG file_attributes, ULONG share, ULONG disposition, ULONG options,
                      PVOID ea, ULONG ea_length);
NTSTATUS NtClose(HANDLE handle);
NTSTATUS NtQueryInformationFile(HANDLE file, IO_STATUS_BLOCK *iosb, PVOID buffer, ULONG length, ULONG klass);
NTSTATUS NtSetInformationFile(HANDLE file, IO_STATUS_BLOCK *iosb, PVOID buffer, ULONG length, ULONG klass);
NTSTATUS NtQueryVolumeInformationFile(HANDLE file, IO_STATUS_BLOCK *iosb, PVOID buffer, ULONG length, ULONG klass);
NTSTATUS NtQueryDirectoryFile(HANDLE file, HANDLE event, PVOID apc, PVOID context, IO_STATUS_BLOCK *iosb,
                              PVOID buffer, ULONG length, ULONG klass, BOOLEAN single, UNICODE_STRING *name,
                              BOOLEAN restart);
NTSTATUS NtReadFile(HANDLE file, HANDLE event, PVOID apc, PVOID context, IO_STATUS_BLOCK *iosb, PVOID buffer,
                    ULONG length, int64_t *offset, ULONG *key);
NTSTATUS NtWriteFile(HANDLE file, HANDLE event, PVOID apc, PVOID context, IO_STATUS_BLOCK *iosb, PVOID buffer,
                     ULONG length, int64_t *offset, ULONG *key);
NTSTATUS NtFlushBuffersFile(HANDLE file, IO_STATUS_BLOCK *iosb);
NTSTATUS NtFsControlFile(HANDLE file, HANDLE event, PVOID apc, PVOID context, IO_STATUS_BLOCK *iosb, ULONG code,
                         PVOID input, ULONG input_length, PVOID output, ULONG output_length);
NTSTATUS NtQueryEaFile(HANDLE file, IO_STATUS_BLOCK *iosb, PVOID buffer, ULONG length, BOOLEAN single, PVOID list,
                       ULONG list_length, ULONG *index, BOOLEAN restart);
NTSTATUS NtSetEaFile(HANDLE file, IO_STATUS_BLOCK *iosb, PVOID buffer, ULONG length);
