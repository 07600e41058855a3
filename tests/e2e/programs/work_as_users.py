"""Several processes of several users at once in one directory, each checking what it gets: DIRECTORY ROUNDS.

Run by root. What a process makes must be its user's, with the mode and group that Linux gives; what it writes to must
lose setuid and setgid; what is another's must stay closed to it.
"""

import os
import stat
import sys
import traceback

USERS = ((0, 0, ()), (1000, 1000, (3000,)), (1001, 1001, ()), (65534, 65534, (3000, 1000)))
"""User, group and further groups."""
PROCESSES = 8
TEAM = 3000


def main(directory: str, rounds: int) -> int:
    """Make the room, start the processes, and count those that failed."""
    os.umask(0)
    os.mkdir(f"{directory}/open", 0o1777)
    os.chmod(f"{directory}/open", 0o1777)
    os.mkdir(f"{directory}/team")
    os.chown(f"{directory}/team", 0, TEAM)
    os.chmod(f"{directory}/team", 0o2775)
    for user, group, _ in USERS:
        os.mkdir(f"{directory}/home-{user}", 0o700)
        os.chown(f"{directory}/home-{user}", user, group)
        path = f"{directory}/tool-{user}"
        with open(path, "wb") as file:
            file.write(b"#!/bin/sh\n")
        os.chown(path, user, group)
        os.chmod(path, 0o6777)
    children = [start(directory, number, rounds) for number in range(PROCESSES)]
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


def start(directory: str, number: int, rounds: int) -> int:
    """One process of one user."""
    child = os.fork()
    if child:
        return child
    try:
        user, group, groups = USERS[number % len(USERS)]
        os.setgroups(groups)
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
        for turn in range(rounds):
            work(directory, f"{number}-{turn}", user, group, TEAM in groups)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def work(directory: str, name: str, user: int, group: int, of_team: bool) -> None:
    """One round."""
    is_root = user == 0
    mine = f"{directory}/open/{name}"
    os.close(os.open(mine, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o4755))
    expect(mine, user, group, 0o4755)
    with open(mine, "r+b") as file:
        file.write(b"data")
    expect(mine, user, group, 0o4755 if is_root else 0o755)
    os.symlink("target", mine + ".link")
    os.mkdir(mine + ".dir", 0o750)
    os.mkfifo(mine + ".fifo", 0o620)
    expect(mine + ".link", user, group, 0o777)
    expect(mine + ".dir", user, group, 0o750)
    expect(mine + ".fifo", user, group, 0o620)
    team = f"{directory}/team/{name}"
    if is_root or of_team:
        os.close(os.open(team, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o2775))
        # Who is not of the directory's group does not get setgid of it; root may.
        expect(team, user, TEAM, 0o2775)
        os.mkdir(team + ".dir", 0o755)
        expect(team + ".dir", user, TEAM, 0o2755)
    else:
        refused(PermissionError, lambda: os.mkdir(team))
    for other, _, _ in USERS:
        home = f"{directory}/home-{other}"
        if is_root or other == user:
            assert isinstance(os.listdir(home), list)
        else:
            refused(PermissionError, lambda home=home: os.listdir(home))
            refused(PermissionError, lambda other=other: os.chmod(f"{directory}/tool-{other}", 0o777))
        with open(f"{directory}/tool-{other}", "ab") as file:
            file.write(b"# more\n")
        if not is_root:
            expect(f"{directory}/tool-{other}", other, {one: two for one, two, _ in USERS}[other], 0o777)
    for end in ("", ".link", ".fifo"):
        os.unlink(mine + end)
    os.rmdir(mine + ".dir")


def expect(path: str, user: int, group: int, mode: int) -> None:
    """What somebody finds there."""
    found = os.lstat(path)
    told = (found.st_uid, found.st_gid, oct(stat.S_IMODE(found.st_mode)))
    assert told == (user, group, oct(mode)), f"{path}: {told}, not {(user, group, oct(mode))}"


def refused(kind: type, call: object) -> None:
    """Something that must not succeed."""
    try:
        call()
    except kind:
        return
    raise AssertionError("that was not refused")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
