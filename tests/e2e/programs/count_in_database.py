"""One of several processes that count in one SQLite database: DATABASE JOURNAL COUNT. Needs nothing but Python."""

import sqlite3
import sys

PATIENCE = 240.0
"""Seconds to wait for the others' locks."""


def main(path: str, journal: str, count: int) -> None:
    """Count, each step a transaction of its own that reads and writes."""
    database = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    (now,) = database.execute(f"PRAGMA journal_mode={journal}").fetchone()
    assert now == journal, now
    for _ in range(count):
        database.execute("BEGIN IMMEDIATE")
        (value,) = database.execute("SELECT value FROM counter").fetchone()
        database.execute("UPDATE counter SET value = ?", (value + 1,))
        database.execute("INSERT INTO log VALUES (?, ?)", (value + 1, "x" * (value % 2000)))
        database.execute("COMMIT")
    database.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
