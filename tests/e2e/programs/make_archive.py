"""Writes a tar archive of small files straight from memory: ARCHIVE COUNT."""

import io
import sys
import tarfile


def main(path: str, count: int) -> None:
    """Files in folders of a hundred, each of other bytes, mode and time."""
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            if number % 100 == 0:
                folder = tarfile.TarInfo(f"tree/{number // 100}")
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(folder)
            file = tarfile.TarInfo(f"tree/{number // 100}/{number}")
            content = f"{number}\n".encode() * (number % 300)
            file.size, file.mode, file.mtime = len(content), 0o600 + number % 64, number
            archive.addfile(file, io.BytesIO(content))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
