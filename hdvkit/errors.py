"""Who is to blame: the exceptions of hdvkit. No I/O, imports nothing of the project.

::

    HdvkitError
    ├── GuestError            the guest broke a rule; its device needs a reset, nothing else is harmed
    ├── UsageError            our caller broke a rule; the message says which and what to do
    └── HostError (OSError)   the platform refused; its own code is in ``errno`` or ``winerror``

    FuseError                 (hdvkit_virtiofs) an answer of a file system to its guest, not a failure

Anything else that comes out of hdvkit is a bug in hdvkit.
"""


class HdvkitError(Exception):
    """The base of all that hdvkit raises on purpose."""


class GuestError(HdvkitError):
    """The guest broke a rule of its side of the specification.

    Raised by rings, chains and memory. A device need not catch it: the queue it came from ends, the device is
    marked DEVICE_NEEDS_RESET, and an event carries the message.
    """


class UsageError(HdvkitError):
    """The caller broke a rule. One sentence: the value, the cause, what to do."""


class HostError(HdvkitError, OSError):
    """The platform refused. ``strerror`` says what was tried and what helps; the cause is chained."""
