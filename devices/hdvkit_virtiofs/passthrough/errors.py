"""Where a refusal of the host's kernel becomes an answer to the guest. The only place that does so."""

import errno
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from hdvkit_virtiofs.fuse.errors import FuseError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# EMFILE speaks of a process's own table; what is full here is the host's, as far as a guest process can tell.
_SAID_AS = {errno.EMFILE: errno.ENFILE}


def refusal(code: int) -> OSError:
    """The error a system call would raise with ``code``, for rules we apply before the kernel does."""
    return OSError(code, errno.errorcode[code])


def answers_errno(
    method: Callable[Parameters, Coroutine[Any, Any, Result]],
) -> Callable[Parameters, Coroutine[Any, Any, Result]]:
    """Decorate an operation: OSError ends it as FuseError with the same errno and the cause attached.

    A number that does not fit the system call (an offset behind 2**63, a time after the end of time) is
    EINVAL, as Linux answers it. Anything else passes and is a bug.
    """

    @functools.wraps(method)
    async def answering(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return await method(*args, **kwargs)
        except OSError as error:
            code = error.errno or errno.EIO
            raise FuseError(_SAID_AS.get(code, code)) from error
        except OverflowError as error:
            raise FuseError(errno.EINVAL) from error

    return answering
