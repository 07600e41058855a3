"""The frequent requests in C, for a directory of a Linux host. Where it was not built, Python answers everything."""

import sys
from typing import Any

from hdvkit.native import NativeHandler
from hdvkit_virtiofs.server import Server

if sys.platform == "linux":
    from hdvkit_virtiofs.native.hot import hot_path as hot_path
else:

    def hot_path(server: Server[Any, Any]) -> NativeHandler | None:
        """The C is for directories of Linux."""
        return None
