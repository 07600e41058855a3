"""What Windows' codes mean here: HRESULT to :class:`HdvError`, by a table of names and of what to do."""

import errno
from typing import Final, NamedTuple

from hdvkit.errors import HostError

S_OK: Final = 0
E_NOTIMPL: Final = 0x80004001
E_NOINTERFACE: Final = 0x80004002
E_POINTER: Final = 0x80004003
E_FAIL: Final = 0x80004005
E_UNEXPECTED: Final = 0x8000FFFF
E_ACCESSDENIED: Final = 0x80070005
NOT_SUPPORTED: Final = 0x80070032
MOD_NOT_FOUND: Final = 0x8007007E
NOT_ENOUGH_QUOTA: Final = 0x80070718
SYSTEM_NOT_FOUND: Final = 0x8037010E
SYSTEM_ALREADY_STOPPED: Final = 0x80370110
OPERATION_TIMEOUT: Final = 0x80370118
VID_PROCESS_ALREADY_SET: Final = 0xC0370030

_SIGN = 1 << 31


class Meaning(NamedTuple):
    """A code's name in Microsoft's headers, what helps, and the nearest errno."""

    name: str
    advice: str = ""
    errno: int = errno.EIO


MEANINGS: Final = {
    E_NOTIMPL: Meaning("E_NOTIMPL", "this needs Windows with Hyper-V", errno.ENOSYS),
    E_NOINTERFACE: Meaning("E_NOINTERFACE", "this Windows does not know the interface; look for updates"),
    E_POINTER: Meaning("E_POINTER"),
    E_FAIL: Meaning("E_FAIL", "a callback failed: its traceback is in the log"),
    0x8000000C: Meaning("E_CHANGED_STATE", "the machine is shutting down"),
    E_UNEXPECTED: Meaning(
        "E_UNEXPECTED",
        "a FlexibleIov slot of the machine has no device: start the machine without such slots and add devices then",
    ),
    E_ACCESSDENIED: Meaning(
        "E_ACCESSDENIED",
        "run as a member of Administrators or Hyper-V Administrators, and have one device host in a process",
        errno.EACCES,
    ),
    NOT_SUPPORTED: Meaning("ERROR_NOT_SUPPORTED", "this Windows cannot do that", errno.ENOTSUP),
    0x80070057: Meaning("E_INVALIDARG", "", errno.EINVAL),
    MOD_NOT_FOUND: Meaning("ERROR_MOD_NOT_FOUND", "this Windows lacks the library", errno.ENOENT),
    0x800700B7: Meaning("ERROR_ALREADY_EXISTS", "", errno.EEXIST),
    0x80070490: Meaning("ERROR_NOT_FOUND", "", errno.ENOENT),
    NOT_ENOUGH_QUOTA: Meaning("ERROR_NOT_ENOUGH_QUOTA", "fewer apertures must be in use at once", errno.EAGAIN),
    0x8007139F: Meaning("ERROR_INVALID_STATE", "the machine must be running", errno.EAGAIN),
    0x80010119: Meaning("RPC_E_TOO_LATE", "COM security was set up already in this process"),
    0x800706BA: Meaning("RPC_S_SERVER_UNAVAILABLE", "the machine has stopped", errno.EPIPE),
    0x800706BE: Meaning("RPC_S_CALL_FAILED", "the machine has stopped", errno.EPIPE),
    0xC0350005: Meaning(
        "ERROR_HV_INVALID_PARAMETER", "a second device with an emulator id of its own is refused: use a well-known one"
    ),
    0xC037002E: Meaning("ERROR_VID_MEMORY_TYPE_NOT_SUPPORTED", "take PinBackingPages out of the machine's document"),
    VID_PROCESS_ALREADY_SET: Meaning(
        "ERROR_VID_PROCESS_ALREADY_SET", "this process has a device host for the machine already: use that", errno.EBUSY
    ),
    0x80370100: Meaning("HCS_E_TERMINATED_DURING_START", "see the machine's own log"),
    0x80370102: Meaning("HCS_E_HYPERV_NOT_INSTALLED", "turn on the Windows feature Hyper-V", errno.ENODEV),
    0x80370105: Meaning("HCS_E_INVALID_STATE", "the machine must be running", errno.EAGAIN),
    0x80370106: Meaning("HCS_E_UNEXPECTED_EXIT", "the machine has stopped", errno.EPIPE),
    0x80370107: Meaning("HCS_E_TERMINATED", "the machine has stopped", errno.EPIPE),
    0x80370108: Meaning("HCS_E_CONNECT_FAILED", "restart the service vmcompute"),
    0x80370109: Meaning("HCS_E_CONNECTION_TIMEOUT", "restart the service vmcompute", errno.ETIMEDOUT),
    0x8037010A: Meaning("HCS_E_CONNECTION_CLOSED", "the machine or the service vmcompute has stopped", errno.EPIPE),
    0x8037010D: Meaning("HCS_E_INVALID_JSON", "this Windows does not know the document", errno.EINVAL),
    SYSTEM_NOT_FOUND: Meaning(
        "HCS_E_SYSTEM_NOT_FOUND", "give the id of a running compute system, as hcsdiag list shows it", errno.ENOENT
    ),
    0x8037010F: Meaning("HCS_E_SYSTEM_ALREADY_EXISTS", "", errno.EEXIST),
    SYSTEM_ALREADY_STOPPED: Meaning("HCS_E_SYSTEM_ALREADY_STOPPED", "start the machine first", errno.EPIPE),
    0x80370114: Meaning("HCS_E_SERVICE_NOT_AVAILABLE", "start the service vmcompute", errno.ENODEV),
    0x80370117: Meaning("HCS_E_OPERATION_PENDING"),
    OPERATION_TIMEOUT: Meaning(
        "HCS_E_OPERATION_TIMEOUT", "it may still happen: look at the machine before trying again", errno.ETIMEDOUT
    ),
    0x8037011B: Meaning(
        "HCS_E_ACCESS_DENIED", "run as a member of Administrators or Hyper-V Administrators", errno.EACCES
    ),
    0x8037011C: Meaning("HCS_E_GUEST_CRITICAL_ERROR", "the guest crashed: see its console"),
    0x8037011E: Meaning("HCS_E_SERVICE_DISCONNECT", "the service vmcompute has stopped: open the host again"),
    0x80370120: Meaning("HCS_E_SYSTEM_NOT_CONFIGURED_FOR_OPERATION", "the machine's document does not allow it"),
}
"""The codes seen on this platform; any other is told as its number."""


class HdvError(HostError):
    """Windows refused: ``hresult`` is its code, ``document`` what the host compute service said about it.

    The message is ``failure``, what was tried and what came of it, and ``advice``, if there is any.
    """

    def __init__(self, tried: str, code: int, document: str = "") -> None:
        self.hresult = code & 0xFFFFFFFF
        self.document = document
        meaning = MEANINGS.get(self.hresult, Meaning(""))
        self.advice = meaning.advice
        failure = f"{tried} failed with {' '.join(filter(None, (meaning.name, f'{self.hresult:#010x}')))}"
        self.failure = f"{failure}, and the service says: {document}" if document else failure
        # The fourth argument is winerror, which exists on Windows only.
        super().__init__(meaning.errno, str(self), None, signed(self.hresult))
        self.errno = meaning.errno  # there, it was made of winerror, of which Python knows the oldest codes only

    def __str__(self) -> str:
        """The sentence alone: the number that stands for a code of Windows elsewhere says less."""
        return f"{self.failure}; {self.advice}" if self.advice else self.failure


def signed(code: int) -> int:
    """A code as C has it, where failures are negative."""
    return (code & 0xFFFFFFFF) - 2 * (code & _SIGN)


def failed(code: int) -> bool:
    """Whether a code, signed or not, is a failure."""
    return bool(code & _SIGN)


def check(code: int, tried: str, document: str = "") -> None:
    """Raise HdvError for a failure; ``tried`` says what was attempted, as the beginning of a sentence."""
    if failed(code):
        raise HdvError(tried, code, document)
