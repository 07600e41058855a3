"""PCI as a guest sees it: configuration space, capabilities, MSI-X. Bytes in, values and messages out; no I/O."""

from hdvkit.pci.capabilities import express, vendor
from hdvkit.pci.config import Bar, Capability, Command, ConfigSpace, Identity, Register
from hdvkit.pci.msix import Message, MsixTable

__all__ = [
    "Bar",
    "Capability",
    "Command",
    "ConfigSpace",
    "Identity",
    "Message",
    "MsixTable",
    "Register",
    "express",
    "vendor",
]
