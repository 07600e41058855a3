"""The frequent requests in C, for a directory of a Linux host. Where it was not built, Python answers everything."""

import sys
from typing import Any

from hdvkit.native import Native, NativeHandler, native
from hdvkit_virtiofs.server import Server

if sys.platform == "linux":
    from hdvkit_virtiofs.native.hot import MODULE
    from hdvkit_virtiofs.native.hot import hot_path as hot_path

    def requests() -> Native:
        """Whether C answers requests; raises as ``hdvkit.native.native`` does."""
        return native(MODULE)

else:

    def hot_path(server: Server[Any, Any]) -> NativeHandler | None:
        """The C is for directories of Linux."""
        return None

    def requests() -> Native:
        """C does not."""
        return Native(False, "in Python, for C is for directories of Linux")
