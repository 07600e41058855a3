"""What can go wrong around a virtual machine. No I/O, imports nothing of the project.

::

    VmError
    ├── PrepareError          the cache could not be set up; the sentence says why and what to do
    └── MachineError
        ├── MachineExited     QEMU is gone; holds its exit code, its stderr and the guest's console
        ├── GuestNotReady     the guest did not come up in time; holds the console
        ├── GuestRestarted    the guest booted again while a command was running
        ├── GuestCommandFailed    a script ended with a code other than 0
        └── GuestCommandTimedOut  a script did not end in time; holds what it had written so far
"""

import signal

TAIL = 4000
"""So many characters of a log are worth repeating in an error: about one screen."""


class VmError(Exception):
    """The base of all that this package raises on purpose."""


class PrepareError(VmError):
    """The cache could not be set up. One sentence: the cause and what to do."""


class MachineError(VmError):
    """Something happened to a virtual machine, its guest or a command in it."""


class MachineExited(MachineError):
    """QEMU is gone, so nothing that waits for the guest can come true."""

    def __init__(self, code: int, stderr: str, console: str) -> None:
        super().__init__(f"QEMU ended {how_it_ended(code)}{_section('its stderr', stderr)}{_console(console)}")
        self.code = code
        self.stderr = stderr
        self.console = console


class GuestNotReady(MachineError):
    """The guest's agent did not speak up in time."""

    def __init__(self, seconds: float, stderr: str, console: str) -> None:
        stderr = _section("QEMU's stderr", stderr) if stderr else ""
        super().__init__(f"the guest was not ready after {seconds:g} s{stderr}{_console(console)}")
        self.console = console


class GuestRestarted(MachineError):
    """The guest booted again; what ran before the boot will never answer."""

    def __init__(self, script: str) -> None:
        super().__init__(f"the guest booted again while this was running: {_short(script)}")
        self.script = script


class GuestCommandFailed(MachineError):
    """A script in the guest ended with a code other than 0."""

    def __init__(self, script: str, code: int, output: str) -> None:
        super().__init__(f"exit code {code} from: {_short(script)}{_section('its output', output)}")
        self.script = script
        self.code = code
        self.output = output


class GuestCommandTimedOut(MachineError):
    """A script in the guest did not end in time. It was killed, as far as it can be."""

    def __init__(self, script: str, seconds: float, output: str) -> None:
        super().__init__(f"no end after {seconds:g} s of: {_short(script)}{_section('its output so far', output)}")
        self.script = script
        self.output = output


def how_it_ended(code: int) -> str:
    """``by signal SIGABRT`` or ``with exit code 1``, for a return code as subprocess gives it."""
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by signal {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"


def _short(script: str) -> str:
    return script if len(script) <= 500 else f"{script[:500]} … ({len(script)} characters)"


def _console(text: str) -> str:
    return _section("the guest's console", text)


def _section(title: str, text: str) -> str:
    tail = text[-TAIL:].strip()
    return f"\n--- {title} ---\n{tail}" if tail else f"\n--- {title}: nothing ---"
