"""One of several processes that append lines to one file: PATH NAME COUNT."""

import os
import sys


def main(path: str, name: str, count: int) -> None:
    """Each line is one write, of another length."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in range(count):
        os.write(descriptor, f"{name} {number} {'x' * (number % 97)}\n".encode())
    os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
