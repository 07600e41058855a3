// The sizes and offsets that Windows has on x64.
#include "double.h"

#define SIZE(type, size) _Static_assert(sizeof(type) == (size), #type)
#define AT(type, member, offset) _Static_assert(offsetof(type, member) == (offset), #type "." #member)

SIZE(void *, 8);
SIZE(GUID, 16);
_Static_assert(_Alignof(GUID) == 4, "alignment of GUID");
AT(GUID, Data1, 0);
AT(GUID, Data2, 4);
AT(GUID, Data3, 6);
AT(GUID, Data4, 8);

SIZE(HDV_PCI_PNP_ID, 12);
_Static_assert(_Alignof(HDV_PCI_PNP_ID) == 2, "alignment of HDV_PCI_PNP_ID");
AT(HDV_PCI_PNP_ID, VendorID, 0);
AT(HDV_PCI_PNP_ID, DeviceID, 2);
AT(HDV_PCI_PNP_ID, RevisionID, 4);
AT(HDV_PCI_PNP_ID, ProgIf, 5);
AT(HDV_PCI_PNP_ID, SubClass, 6);
AT(HDV_PCI_PNP_ID, BaseClass, 7);
AT(HDV_PCI_PNP_ID, SubVendorID, 8);
AT(HDV_PCI_PNP_ID, SubSystemID, 10);

SIZE(HDV_PCI_DEVICE_INTERFACE, 88);
_Static_assert(_Alignof(HDV_PCI_DEVICE_INTERFACE) == 8, "alignment of HDV_PCI_DEVICE_INTERFACE");
AT(HDV_PCI_DEVICE_INTERFACE, Version, 0);
AT(HDV_PCI_DEVICE_INTERFACE, Initialize, 8);
AT(HDV_PCI_DEVICE_INTERFACE, Teardown, 16);
AT(HDV_PCI_DEVICE_INTERFACE, SetConfiguration, 24);
AT(HDV_PCI_DEVICE_INTERFACE, GetDetails, 32);
AT(HDV_PCI_DEVICE_INTERFACE, Start, 40);
AT(HDV_PCI_DEVICE_INTERFACE, Stop, 48);
AT(HDV_PCI_DEVICE_INTERFACE, ReadConfigSpace, 56);
AT(HDV_PCI_DEVICE_INTERFACE, WriteConfigSpace, 64);
AT(HDV_PCI_DEVICE_INTERFACE, ReadInterceptedMemory, 72);
AT(HDV_PCI_DEVICE_INTERFACE, WriteInterceptedMemory, 80);

SIZE(HCS_EVENT, 24);
_Static_assert(_Alignof(HCS_EVENT) == 8, "alignment of HCS_EVENT");
AT(HCS_EVENT, Type, 0);
AT(HCS_EVENT, EventData, 8);
AT(HCS_EVENT, Operation, 16);

SIZE(IUnknownVtbl, 24);
SIZE(IVmDeviceHostSupportVtbl, 32);
AT(IVmDeviceHostSupportVtbl, RegisterDeviceHost, 24);
SIZE(IVmDeviceHostVtbl, 32);
AT(IVmDeviceHostVtbl, GetDeviceInstance, 24);
SIZE(IVmVirtualDeviceAccessVtbl, 40);
AT(IVmVirtualDeviceAccessVtbl, Reserved, 24);
AT(IVmVirtualDeviceAccessVtbl, GetDevice, 32);
SIZE(IVmFiovGuestMemoryFastNotificationVtbl, 40);
AT(IVmFiovGuestMemoryFastNotificationVtbl, RegisterDoorbell, 24);
AT(IVmFiovGuestMemoryFastNotificationVtbl, UnregisterDoorbell, 32);
SIZE(IVmFiovGuestMmioMappingsVtbl, 40);
AT(IVmFiovGuestMmioMappingsVtbl, CreateSectionBackedMmioRange, 24);
AT(IVmFiovGuestMmioMappingsVtbl, DestroySectionBackedMmioRange, 32);
