"""The frequent requests in C, for a directory of a Linux host. Where it was not built, Python answers everything."""

from hdvkit_virtiofs.native.hot import hot_path

__all__ = ["hot_path"]
