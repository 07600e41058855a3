"""Runs every case in a directory: ``python semantics DIRECTORY RESULTS`` as root.

Writes one JSON line for each case: its group, its name, and what came of it, without anything that differs from one
run to the next.
"""

import argparse
import json
from pathlib import Path

import access
import cases
import chmod
import chown
import creating
import data
import directories
import links
import locks
import nodes
import opening
import paths
import removing
import renaming
import sizes
import space
import times
import xattrs

GROUPS = (
    access,
    chmod,
    chown,
    creating,
    data,
    directories,
    links,
    locks,
    nodes,
    opening,
    paths,
    removing,
    renaming,
    sizes,
    space,
    times,
    xattrs,
)
"""In this order they run. A group is a module, and its cases are what it decorated."""


def drop_caches() -> None:
    """Have the kernel forget files that nobody uses: a share keeps a descriptor for each it remembers."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="Run cases in a directory, and write what comes of them.")
    parser.add_argument("directory", nargs="?", help="a new one; without, only count the cases")
    parser.add_argument("results", nargs="?", help="a new file")
    parser.add_argument("--group", action="append", help="only this one; may be given again")
    parser.add_argument("--one-of", type=int, default=1, help="of so many cases run one")
    parser.add_argument("--drop-caches", action="store_true", help="have the kernel forget files now and then")
    told = parser.parse_args()
    between = drop_caches if told.drop_caches else lambda: None
    names = [group.__name__ for group in GROUPS if told.group is None or group.__name__ in told.group]
    if told.directory is None:
        print(json.dumps(cases.counted(names)))
        return
    cases.run(names, told.directory, told.results, one_of=told.one_of, between=between)


if __name__ == "__main__":
    main()
