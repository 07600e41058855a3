"""The vfio-user protocol, server side: bytes and descriptors in, requests out. Imports nothing of hdvkit, no I/O."""

from hdvkit_vfio_user.protocol.connection import Answer, Connection, Piece, Request, State
from hdvkit_vfio_user.protocol.messages import (
    DmaMap,
    DmaUnmap,
    GetInfo,
    GetIrqInfo,
    GetRegionInfo,
    GetRegionIoFds,
    Message,
    Refused,
    RegionRead,
    RegionWrite,
    RegionWrites,
    Reset,
    SetIrqsRequest,
)

__all__ = [
    "Answer",
    "Connection",
    "DmaMap",
    "DmaUnmap",
    "GetInfo",
    "GetIrqInfo",
    "GetRegionInfo",
    "GetRegionIoFds",
    "Message",
    "Piece",
    "Refused",
    "RegionRead",
    "RegionWrite",
    "RegionWrites",
    "Request",
    "Reset",
    "SetIrqsRequest",
    "State",
]
