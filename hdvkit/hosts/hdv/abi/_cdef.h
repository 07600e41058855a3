/* Every type and function of Windows that the host kind "hdv" uses: parsed by cffi, nothing is compiled.
 *
 * x64 only. WCHAR has two bytes on every system, so that the same text serves a double of these libraries on Linux.
 * The words are those of the SDK (HyperVDeviceVirtualization.h, computecore.h) where it has them.
 */

typedef int32_t HRESULT;
typedef int32_t BOOL;
typedef uint8_t BOOLEAN;
typedef uint32_t DWORD;
typedef void *HANDLE;
typedef void *PVOID;
typedef uint16_t WCHAR;
typedef WCHAR *PWSTR;
typedef const WCHAR *PCWSTR;

typedef struct {
    uint32_t Data1;
    uint16_t Data2;
    uint16_t Data3;
    uint8_t Data4[8];
} GUID;

/* -- vmdevicehost.dll: devices -------------------------------------------------------------------------------- */

typedef void *HCS_SYSTEM;
typedef void *HCS_OPERATION;
typedef void *HDV_HOST;
typedef void *HDV_DEVICE;

typedef enum { HdvDeviceTypeUndefined = 0, HdvDeviceTypePCI = 1 } HDV_DEVICE_TYPE;

typedef enum {
    HdvDeviceHostFlagNone = 0,
    HdvDeviceHostFlagInitializeComSecurity = 1
} HDV_DEVICE_HOST_FLAGS;

typedef enum { HdvPciDeviceInterfaceVersionInvalid = 0, HdvPciDeviceInterfaceVersion1 = 1 } HDV_PCI_INTERFACE_VERSION;

typedef enum {
    HDV_PCI_BAR0 = 0,
    HDV_PCI_BAR1 = 1,
    HDV_PCI_BAR2 = 2,
    HDV_PCI_BAR3 = 3,
    HDV_PCI_BAR4 = 4,
    HDV_PCI_BAR5 = 5
} HDV_PCI_BAR_SELECTOR;

typedef enum {
    HdvMmioMappingFlagNone = 0,
    HdvMmioMappingFlagWriteable = 1,
    HdvMmioMappingFlagExecutable = 2
} HDV_MMIO_MAPPING_FLAGS;

typedef struct {
    uint16_t VendorID;
    uint16_t DeviceID;
    uint8_t RevisionID;
    uint8_t ProgIf;
    uint8_t SubClass;
    uint8_t BaseClass;
    uint16_t SubVendorID;
    uint16_t SubSystemID;
} HDV_PCI_PNP_ID;

typedef HRESULT (*HDV_PCI_DEVICE_INITIALIZE)(PVOID ctx);
typedef void (*HDV_PCI_DEVICE_TEARDOWN)(PVOID ctx);
typedef HRESULT (*HDV_PCI_DEVICE_SET_CONFIGURATION)(PVOID ctx, uint32_t count, const PCWSTR *values);
typedef HRESULT (*HDV_PCI_DEVICE_GET_DETAILS)(PVOID ctx, HDV_PCI_PNP_ID *pnp, uint32_t barCount, uint32_t *bars);
typedef HRESULT (*HDV_PCI_DEVICE_START)(PVOID ctx);
typedef void (*HDV_PCI_DEVICE_STOP)(PVOID ctx);
typedef HRESULT (*HDV_PCI_READ_CONFIG_SPACE)(PVOID ctx, uint32_t offset, uint32_t *value);
typedef HRESULT (*HDV_PCI_WRITE_CONFIG_SPACE)(PVOID ctx, uint32_t offset, uint32_t value);
typedef HRESULT (*HDV_PCI_READ_INTERCEPTED_MEMORY)(
    PVOID ctx, HDV_PCI_BAR_SELECTOR bar, uint64_t offset, uint64_t length, uint8_t *value);
typedef HRESULT (*HDV_PCI_WRITE_INTERCEPTED_MEMORY)(
    PVOID ctx, HDV_PCI_BAR_SELECTOR bar, uint64_t offset, uint64_t length, const uint8_t *value);

typedef struct {
    HDV_PCI_INTERFACE_VERSION Version;
    HDV_PCI_DEVICE_INITIALIZE Initialize;
    HDV_PCI_DEVICE_TEARDOWN Teardown;
    HDV_PCI_DEVICE_SET_CONFIGURATION SetConfiguration;
    HDV_PCI_DEVICE_GET_DETAILS GetDetails;
    HDV_PCI_DEVICE_START Start;
    HDV_PCI_DEVICE_STOP Stop;
    HDV_PCI_READ_CONFIG_SPACE ReadConfigSpace;
    HDV_PCI_WRITE_CONFIG_SPACE WriteConfigSpace;
    HDV_PCI_READ_INTERCEPTED_MEMORY ReadInterceptedMemory;
    HDV_PCI_WRITE_INTERCEPTED_MEMORY WriteInterceptedMemory;
} HDV_PCI_DEVICE_INTERFACE;

HRESULT HdvInitializeDeviceHost(HCS_SYSTEM computeSystem, HDV_HOST *deviceHost);
HRESULT HdvInitializeDeviceHostEx(HCS_SYSTEM computeSystem, HDV_DEVICE_HOST_FLAGS flags, HDV_HOST *deviceHost);
HRESULT HdvTeardownDeviceHost(HDV_HOST deviceHost);
HRESULT HdvCreateDeviceInstance(
    HDV_HOST deviceHost, HDV_DEVICE_TYPE type, const GUID *classId, const GUID *instanceId,
    const void *deviceInterface, PVOID deviceContext, HDV_DEVICE *device);
HRESULT HdvReadGuestMemory(HDV_DEVICE requestor, uint64_t gpa, uint32_t byteCount, uint8_t *buffer);
HRESULT HdvWriteGuestMemory(HDV_DEVICE requestor, uint64_t gpa, uint32_t byteCount, const uint8_t *buffer);
HRESULT HdvCreateGuestMemoryAperture(
    HDV_DEVICE requestor, uint64_t gpa, uint32_t byteCount, BOOL writeProtected, PVOID *mappedAddress);
HRESULT HdvDestroyGuestMemoryAperture(HDV_DEVICE requestor, PVOID mappedAddress);
HRESULT HdvDeliverGuestInterrupt(HDV_DEVICE requestor, uint64_t msiAddress, uint32_t msiData);
HRESULT HdvRegisterDoorbell(
    HDV_DEVICE requestor, HDV_PCI_BAR_SELECTOR bar, uint64_t barOffset, uint64_t triggerValue, uint64_t flags,
    HANDLE doorbellEvent);
HRESULT HdvUnregisterDoorbell(
    HDV_DEVICE requestor, HDV_PCI_BAR_SELECTOR bar, uint64_t barOffset, uint64_t triggerValue, uint64_t flags);
HRESULT HdvCreateSectionBackedMmioRange(
    HDV_DEVICE requestor, HDV_PCI_BAR_SELECTOR bar, uint64_t offsetInPages, uint64_t lengthInPages,
    HDV_MMIO_MAPPING_FLAGS flags, HANDLE section, uint64_t sectionOffsetInPages);
HRESULT HdvDestroySectionBackedMmioRange(HDV_DEVICE requestor, HDV_PCI_BAR_SELECTOR bar, uint64_t offsetInPages);

/* Exported and on Microsoft Learn, but in no header: the two halves of an ExternalRestricted host. */
HRESULT HdvInitializeDeviceHostForProxy(const GUID *vmId, PVOID proxyIUnknown, HDV_HOST *deviceHost);
HRESULT HdvProxyDeviceHost(
    HCS_SYSTEM computeSystem, PVOID deviceHostIUnknown, DWORD targetProcessId, uint64_t *ipcSectionHandle);

/* -- computecore.dll: compute systems ------------------------------------------------------------------------- */

typedef void (*HCS_OPERATION_COMPLETION)(HCS_OPERATION operation, void *context);

HCS_OPERATION HcsCreateOperation(const void *context, HCS_OPERATION_COMPLETION callback);
void HcsCloseOperation(HCS_OPERATION operation);
HRESULT HcsWaitForOperationResult(HCS_OPERATION operation, DWORD timeoutMs, PWSTR *resultDocument);
HRESULT HcsOpenComputeSystem(PCWSTR id, DWORD requestedAccess, HCS_SYSTEM *computeSystem);
void HcsCloseComputeSystem(HCS_SYSTEM computeSystem);
HRESULT HcsModifyComputeSystem(
    HCS_SYSTEM computeSystem, HCS_OPERATION operation, PCWSTR configuration, HANDLE identity);
HRESULT HcsGetComputeSystemProperties(HCS_SYSTEM computeSystem, HCS_OPERATION operation, PCWSTR propertyQuery);
HRESULT HcsEnumerateComputeSystems(PCWSTR query, HCS_OPERATION operation);

/* -- COM, spelled out: an object is a pointer to a table of functions ------------------------------------------- */

typedef struct {
    HRESULT (*QueryInterface)(void *self, const GUID *riid, void **object);
    uint32_t (*AddRef)(void *self);
    uint32_t (*Release)(void *self);
} IUnknownVtbl;

typedef struct {
    const IUnknownVtbl *lpVtbl;
} IUnknown;

/* Ours: HDV calls it. */
typedef struct {
    HRESULT (*QueryInterface)(void *self, const GUID *riid, void **object);
    uint32_t (*AddRef)(void *self);
    uint32_t (*Release)(void *self);
    HRESULT (*RegisterDeviceHost)(void *self, void *deviceHost, DWORD processId, uint64_t *ipcSectionHandle);
} IVmDeviceHostSupportVtbl;

typedef struct {
    const IVmDeviceHostSupportVtbl *lpVtbl;
} IVmDeviceHostSupport;

/* The VM worker process's: we call them. */
typedef struct {
    HRESULT (*QueryInterface)(void *self, const GUID *riid, void **object);
    uint32_t (*AddRef)(void *self);
    uint32_t (*Release)(void *self);
    void *Reserved; /* never to be called */
    HRESULT (*GetDevice)(void *self, const GUID *categoryId, const GUID *deviceId, void **device);
} IVmVirtualDeviceAccessVtbl;

typedef struct {
    const IVmVirtualDeviceAccessVtbl *lpVtbl;
} IVmVirtualDeviceAccess;

typedef struct {
    HRESULT (*QueryInterface)(void *self, const GUID *riid, void **object);
    uint32_t (*AddRef)(void *self);
    uint32_t (*Release)(void *self);
    HRESULT (*RegisterDoorbell)(
        void *self, int32_t bar, uint64_t barOffset, uint64_t triggerValue, uint64_t flags, HANDLE event);
    HRESULT (*UnregisterDoorbell)(void *self, int32_t bar, uint64_t barOffset, uint64_t triggerValue, uint64_t flags);
} IVmFiovGuestMemoryFastNotificationVtbl;

typedef struct {
    const IVmFiovGuestMemoryFastNotificationVtbl *lpVtbl;
} IVmFiovGuestMemoryFastNotification;

typedef struct {
    HRESULT (*QueryInterface)(void *self, const GUID *riid, void **object);
    uint32_t (*AddRef)(void *self);
    uint32_t (*Release)(void *self);
    HRESULT (*CreateSectionBackedMmioRange)(
        void *self, int32_t bar, uint64_t barOffsetInPages, uint64_t pageCount, int32_t flags, HANDLE section,
        uint64_t sectionOffsetInPages);
    HRESULT (*DestroySectionBackedMmioRange)(void *self, int32_t bar, uint64_t barOffsetInPages);
} IVmFiovGuestMmioMappingsVtbl;

typedef struct {
    const IVmFiovGuestMmioMappingsVtbl *lpVtbl;
} IVmFiovGuestMmioMappings;

/* vmwpctrl.dll, without an import library */
HRESULT GetVmWorkerProcess(const GUID *virtualMachineId, const GUID *interfaceId, void **object);

/* ole32.dll */
HRESULT CoIncrementMTAUsage(void **cookie);

/* -- kernel32.dll: events ------------------------------------------------------------------------------------- */

typedef void (*WAITORTIMERCALLBACK)(PVOID context, BOOLEAN timerOrWaitFired);

HANDLE CreateEventW(void *attributes, BOOL manualReset, BOOL initialState, PCWSTR name);
BOOL SetEvent(HANDLE event);
BOOL CloseHandle(HANDLE handle);
BOOL RegisterWaitForSingleObject(
    HANDLE *newWaitObject, HANDLE object, WAITORTIMERCALLBACK callback, PVOID context, DWORD milliseconds, DWORD flags);
BOOL UnregisterWaitEx(HANDLE waitHandle, HANDLE completionEvent);
DWORD GetLastError(void);
DWORD GetSystemDirectoryW(PWSTR buffer, DWORD size);
void *LocalFree(void *memory);
