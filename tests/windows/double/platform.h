// What Windows exports for host-emulated PCI devices: vmdevicehost.dll, computecore.dll, vmwpctrl.dll.
// Written for the double alone, so that a wrong declaration elsewhere does not fit it. No preprocessor: cffi reads it.

typedef int32_t HRESULT;
typedef int32_t BOOL;
typedef uint32_t DWORD;
typedef void *HANDLE;
typedef uint16_t WCHAR;

typedef struct {
    uint32_t Data1;
    uint16_t Data2;
    uint16_t Data3;
    uint8_t Data4[8];
} GUID;

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

typedef struct {
    int32_t Version;
    HRESULT (*Initialize)(void *context);
    void (*Teardown)(void *context);
    HRESULT (*SetConfiguration)(void *context, uint32_t count, const WCHAR *const *values);
    HRESULT (*GetDetails)(void *context, HDV_PCI_PNP_ID *pnp, uint32_t barCount, uint32_t *bars);
    HRESULT (*Start)(void *context);
    void (*Stop)(void *context);
    HRESULT (*ReadConfigSpace)(void *context, uint32_t offset, uint32_t *value);
    HRESULT (*WriteConfigSpace)(void *context, uint32_t offset, uint32_t value);
    HRESULT (*ReadInterceptedMemory)(void *context, int32_t bar, uint64_t offset, uint64_t length, uint8_t *value);
    HRESULT (*WriteInterceptedMemory)(void *context, int32_t bar, uint64_t offset, uint64_t length,
                                      const uint8_t *value);
} HDV_PCI_DEVICE_INTERFACE;

typedef void (*HCS_OPERATION_COMPLETION)(void *operation, void *context);

typedef struct {
    int32_t Type;
    const WCHAR *EventData;
    void *Operation;
} HCS_EVENT;

typedef void (*HCS_EVENT_CALLBACK)(HCS_EVENT *event, void *context);

typedef struct {
    HRESULT (*QueryInterface)(void *self, const GUID *iid, void **object);
    uint32_t (*AddRef)(void *self);
    uint32_t (*Release)(void *self);
} IUnknownVtbl;

typedef struct {
    HRESULT (*QueryInterface)(void *self, const GUID *iid, void **object);
    uint32_t (*AddRef)(void *self);
    uint32_t (*Release)(void *self);
    HRESULT (*RegisterDeviceHost)(void *self, void *deviceHost, DWORD processId, uint64_t *ipcSectionHandle);
} IVmDeviceHostSupportVtbl;

typedef struct {
    HRESULT (*QueryInterface)(void *self, const GUID *iid, void **object);
    uint32_t (*AddRef)(void *self);
    uint32_t (*Release)(void *self);
    HRESULT (*GetDeviceInstance)(void *self, const GUID *classId, const GUID *instanceId, void **device);
} IVmDeviceHostVtbl;

typedef struct {
    HRESULT (*QueryInterface)(void *self, const GUID *iid, void **object);
    uint32_t (*AddRef)(void *self);
    uint32_t (*Release)(void *self);
    HRESULT (*Reserved)(void *self);
    HRESULT (*GetDevice)(void *self, const GUID *category, const GUID *instanceId, void **device);
} IVmVirtualDeviceAccessVtbl;

typedef struct {
    HRESULT (*QueryInterface)(void *self, const GUID *iid, void **object);
    uint32_t (*AddRef)(void *self);
    uint32_t (*Release)(void *self);
    HRESULT (*RegisterDoorbell)(void *self, int32_t bar, uint64_t offset, uint64_t value, uint64_t flags, HANDLE event);
    HRESULT (*UnregisterDoorbell)(void *self, int32_t bar, uint64_t offset, uint64_t value, uint64_t flags);
} IVmFiovGuestMemoryFastNotificationVtbl;

typedef struct {
    HRESULT (*QueryInterface)(void *self, const GUID *iid, void **object);
    uint32_t (*AddRef)(void *self);
    uint32_t (*Release)(void *self);
    HRESULT (*CreateSectionBackedMmioRange)(void *self, int32_t bar, uint64_t page, uint64_t pages, int32_t flags,
                                            HANDLE section, uint64_t sectionPage);
    HRESULT (*DestroySectionBackedMmioRange)(void *self, int32_t bar, uint64_t page);
} IVmFiovGuestMmioMappingsVtbl;

HRESULT HdvInitializeDeviceHost(void *system, void **host);
HRESULT HdvInitializeDeviceHostEx(void *system, int32_t flags, void **host);
HRESULT HdvInitializeDeviceHostForProxy(const GUID *vmId, void *support, void **host);
HRESULT HdvInitializeDeviceHostForProxyEx(const GUID *vmId, void *support, uint32_t flags, void **host);
HRESULT HdvProxyDeviceHost(void *system, void *deviceHost, DWORD processId, uint64_t *ipcSectionHandle);
HRESULT HdvTeardownDeviceHost(void *host);
HRESULT HdvCreateDeviceInstance(void *host, int32_t type, const GUID *classId, const GUID *instanceId,
                                const void *deviceInterface, void *context, void **device);
HRESULT HdvReadGuestMemory(void *device, uint64_t address, uint32_t count, uint8_t *buffer);
HRESULT HdvWriteGuestMemory(void *device, uint64_t address, uint32_t count, const uint8_t *buffer);
HRESULT HdvCreateGuestMemoryAperture(void *device, uint64_t address, uint32_t count, BOOL writeProtected,
                                     void **mapped);
HRESULT HdvDestroyGuestMemoryAperture(void *device, void *mapped);
HRESULT HdvDeliverGuestInterrupt(void *device, uint64_t address, uint32_t data);
HRESULT HdvRegisterDoorbell(void *device, int32_t bar, uint64_t offset, uint64_t value, uint64_t flags, HANDLE event);
HRESULT HdvUnregisterDoorbell(void *device, int32_t bar, uint64_t offset, uint64_t value, uint64_t flags);
HRESULT HdvRegisterDoorbellPage(void *device, int32_t bar, uint64_t page, HANDLE event);
HRESULT HdvUnregisterDoorbellPage(void *device, int32_t bar, uint64_t page);
HRESULT HdvCreateSectionBackedMmioRange(void *device, int32_t bar, uint64_t page, uint64_t pages, int32_t flags,
                                        HANDLE section, uint64_t sectionPage);
HRESULT HdvDestroySectionBackedMmioRange(void *device, int32_t bar, uint64_t page);

HRESULT GetVmWorkerProcess(const GUID *vmId, const GUID *iid, void **object);

void *HcsCreateOperation(const void *context, HCS_OPERATION_COMPLETION callback);
void HcsCloseOperation(void *operation);
HRESULT HcsCancelOperation(void *operation);
HRESULT HcsGetOperationResult(void *operation, WCHAR **document);
HRESULT HcsSetOperationCallback(void *operation, const void *context, HCS_OPERATION_COMPLETION callback);
HRESULT HcsWaitForOperationResult(void *operation, DWORD milliseconds, WCHAR **document);
HRESULT HcsCreateComputeSystem(const WCHAR *id, const WCHAR *document, void *operation, const void *security,
                               void **system);
HRESULT HcsOpenComputeSystem(const WCHAR *id, DWORD access, void **system);
void HcsCloseComputeSystem(void *system);
HRESULT HcsStartComputeSystem(void *system, void *operation, const WCHAR *options);
HRESULT HcsShutDownComputeSystem(void *system, void *operation, const WCHAR *options);
HRESULT HcsTerminateComputeSystem(void *system, void *operation, const WCHAR *options);
HRESULT HcsModifyComputeSystem(void *system, void *operation, const WCHAR *document, HANDLE identity);
HRESULT HcsGetComputeSystemProperties(void *system, void *operation, const WCHAR *query);
HRESULT HcsSetComputeSystemCallback(void *system, int32_t options, const void *context, HCS_EVENT_CALLBACK callback);
HRESULT HcsWaitForComputeSystemExit(void *system, DWORD milliseconds, WCHAR **result);
HRESULT HcsEnumerateComputeSystems(const WCHAR *query, void *operation);
HRESULT HcsGetServiceProperties(const WCHAR *query, WCHAR **result);
HRESULT HcsGrantVmAccess(const WCHAR *id, const WCHAR *path);
HRESULT HcsRevokeVmAccess(const WCHAR *id, const WCHAR *path);
