"""A directory of a Windows host as a file system for a guest. The face: ``WindowsPassthrough``."""

from hdvkit_virtiofs.passthrough.windows.windows import WindowsPassthrough

__all__ = ["WindowsPassthrough"]
