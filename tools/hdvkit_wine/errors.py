"""What can go wrong around a Windows of ours. No I/O.

::

    WineError
    ├── CompileFailed   the compiler refused; holds what it said
    └── RunTimedOut     a run did not end in time and was killed; holds what it had written so far

That the cache could not be set up is ``hdvkit_vm.errors.PrepareError``, as it is for virtual machines.
"""

from collections.abc import Sequence

TAIL = 4000
"""So many characters of output are worth repeating in an error: about one screen."""


class WineError(Exception):
    """The base of all that this package raises on purpose."""


class CompileFailed(WineError):
    """The compiler refused its sources."""

    def __init__(self, target: str, output: str) -> None:
        super().__init__(f"{target} does not compile:\n{output.strip()[-TAIL:]}")
        self.output = output


class RunTimedOut(WineError):
    """A run did not end in time. Everything that ran in that Windows was killed."""

    def __init__(self, arguments: Sequence[str], seconds: float, output: str, *, told: bool = False) -> None:
        said = "" if told else f"\n--- its output so far ---\n{output.strip()[-TAIL:] or 'nothing'}"
        super().__init__(f"no end after {seconds:g} s of: python {' '.join(arguments)}{said}")
        self.output = output
