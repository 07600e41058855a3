"""One of several processes that count in one shared mapping under one lock: PATH COUNT."""

import fcntl
import mmap
import sys


def main(path: str, count: int) -> None:
    """Count up, and down from the other end of the page."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 8192) as memory:
        for _ in range(count):
            fcntl.lockf(file, fcntl.LOCK_EX, 1)
            for at, step in ((0, 1), (4096 + 17, -1)):
                value = int.from_bytes(memory[at : at + 8], "little", signed=True) + step
                memory[at : at + 8] = value.to_bytes(8, "little", signed=True)
            fcntl.lockf(file, fcntl.LOCK_UN, 1)
        memory.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
