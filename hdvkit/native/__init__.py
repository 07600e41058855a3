"""The data path in C, where it was built: rings of the same answers as ``hdvkit.virtio``'s, with real fences.

``HDVKIT_NATIVE=0`` in the environment uses Python all the same, ``HDVKIT_NATIVE=1`` insists on C.
"""

from hdvkit.native.choice import Native, NativeHandler, NativeListener, build_ring, native, suits

__all__ = ["Native", "NativeHandler", "NativeListener", "build_ring", "native", "suits"]
