"""Lock a file: PATH posix|flock shared|exclusive now|wait [FIFO].

Says "held" or "busy"; holds until FIFO (or the standard input) ends.
"""

import errno
import fcntl
import sys


def main(path: str, kind: str, mode: str, patience: str, until: str = "") -> None:
    """Try, or wait."""
    operation = fcntl.LOCK_EX if mode == "exclusive" else fcntl.LOCK_SH
    if patience == "now":
        operation |= fcntl.LOCK_NB
    with open(path, "r+b") as file:
        try:
            (fcntl.lockf if kind == "posix" else fcntl.flock)(file, operation)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            print("busy", flush=True)
            return
        print("held", flush=True)
        with open(until or 0, "rb") as end:
            end.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
