"""A host directory as a file system for a guest. The face of the package: ``Passthrough``."""

from hdvkit_virtiofs.passthrough.linux import Passthrough

__all__ = ["Passthrough"]
