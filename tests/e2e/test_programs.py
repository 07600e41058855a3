"""Programs that many people use, on a share: git, rsync and tar. The host looks at what they have left."""

import asyncio
import hashlib
import os
import random
import shutil
import stat
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import attrs
from guest_files import LONG, Folder, booted, tools
from hdvkit_virtiofs import VirtioFs
from hdvkit_vm import Assets

COMMITS, COMMITTED = (20, 60) if LONG else (2, 25)
"""Commits, and new files in each."""

COPIED = 1000 if LONG else 70
ARCHIVED = 20_000 if LONG else 300

GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
"""For the host's git: nobody's own settings."""


@attrs.frozen
class File:
    """What a copy must have in common with its original."""

    mode: int
    owner: tuple[int, int]
    mtime: int
    content: str

    @classmethod
    def of(cls, path: Path) -> "File":
        """Look at a file, folder or link; nothing is followed."""
        status = path.lstat()
        content = ""
        if stat.S_ISLNK(status.st_mode):
            content = str(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        return cls(status.st_mode, (status.st_uid, status.st_gid), status.st_mtime_ns, content)


async def test_programs(kernel: str, assets: Assets, room: Path, log: Path) -> None:
    (room / "share").mkdir()
    programs = VirtioFs(source=Path(__file__).parent / "programs", tag="programs", read_only=True)
    shares = [VirtioFs(source=room / "share", tag="share"), programs, tools(assets)]
    async with booted(kernel, assets, room, log, shares, memory_mb=512) as (vm, _):
        for step in (git, rsync, tar):
            await step(Folder(vm, room / "share", "/share").sub(step.__name__))


PREPARE_GIT = """\
export HOME=/tmp PATH=/tools:$PATH
git config --global user.name Guest
git config --global user.email guest@example.org
git config --global maintenance.auto false
git config --global safe.directory '*'
"""

COMMIT = f"""
git init -q -b main one; cd one
for commit in $(seq {COMMITS}); do
    for file in $(seq {COMMITTED}); do
        mkdir -p sub-$((file % 7))
        seq $commit $((file * commit)) > sub-$((file % 7))/$commit-$file
        echo $commit >> every
    done
    ln -sf every link; chmod +x sub-1/$commit-1
    [ $commit = 1 ] || git mv sub-2/$((commit - 1))-2 moved-$commit
    git add -A; git commit -q -m "commit $commit"
done
"""

CLONE = """
git clone -q one two
git clone -q file://$PWD/one three
cd three
git rm -q -r sub-3; echo more >> every; git commit -q -a -m 'from three'
git gc -q --prune=now
cd ../two
git fetch -q ../three main; git merge -q FETCH_HEAD; git gc -q
"""

CHECK = """
for name in one two three; do
    git -C $name fsck --full --strict
    git -C $name status --porcelain
    git -C $name rev-parse HEAD
done
"""


async def git(here: Folder) -> None:
    await here.sh(PREPARE_GIT + COMMIT)
    assert await here.sh(f"{PREPARE_GIT}{CLONE} git log --oneline | wc -l") == f"{COMMITS + 1}\n"
    there = await here.sh(PREPARE_GIT + CHECK)
    first, second, third = there.split()
    assert first != second == third
    if shutil.which("git"):
        assert await checked_here(here.host) == [(first, ""), (second, ""), (third, "")]
        # The host's git has looked at every file, and may have written what it knows of them.
        assert await here.sh(PREPARE_GIT + CHECK) == there
    packs = [list((here.host / name).glob(".git/objects/pack/*.pack")) for name in ("two", "three")]
    assert list(map(len, packs)) == [1, 1]


async def checked_here(folder: Path) -> list[tuple[str, str]]:
    """Head and changed files of each repository, as the host's git knows them. It must find no fault."""
    told = []
    for name in ("one", "two", "three"):
        await git_here(folder / name, "fsck", "--full", "--strict")
        told.append(
            (await git_here(folder / name, "rev-parse", "HEAD"), await git_here(folder / name, "status", "--porcelain"))
        )
    return told


async def git_here(repository: Path, *words: str) -> str:
    """What the host's git writes."""
    process = await asyncio.create_subprocess_exec(
        *("git", "-C", str(repository), *words),
        env={**os.environ, **GIT},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().strip()


async def rsync(here: Folder) -> None:
    originals = here.host / "originals"
    make_originals(originals)
    await here.sh("/tools/rsync -aH originals/ /tmp/through/")
    for source, copy in {"originals": "copy", "/tmp/through": "from-memory"}.items():
        await here.sh(f"/tools/rsync -aH {source}/ {copy}/")
        same(here.host / copy, originals)
        assert await here.sh(f"/tools/rsync -aHi {source}/ {copy}/") == ""
    (originals / "1/plain-1").unlink()
    here.write("originals/1/plain-1", b"new, by the host")
    told = await here.sh("/tools/rsync -aHi originals/ copy/")
    assert [line.split(maxsplit=1)[1] for line in told.splitlines()] == ["1/", "1/plain-1"]
    await here.sh("rm -r copy/1 copy/0/named*; /tools/rsync -aH --delete originals/ copy/")
    same(here.host / "copy", originals)


def same(copy: Path, original: Path) -> None:
    """Compare trees, and which names in them mean one file."""
    assert tree(copy) == tree(original)
    assert linked(copy) == linked(original)


def make_originals(folder: Path) -> None:
    """Files, folders, symbolic and hard links, of all modes and of times to the nanosecond."""
    choice = random.Random(3)
    subs = [folder / str(number) for number in range(10)]
    for sub in subs:
        sub.mkdir(parents=True)
    for number in range(COPIED):
        sub = subs[number % 10]
        plain = sub / f"plain-{number}"
        plain.write_bytes(choice.randbytes(choice.choice((0, 1, 4096, 10_000))))
        plain.chmod(choice.choice((0o600, 0o644, 0o755, 0o4711, 0o2750, 0o400)))
        stamp(plain, choice)
        if number % 5 == 0:
            for other in range(number % 3 + 1):
                (subs[(number + other) % 10] / f"named-{number}-{other}").hardlink_to(plain)
        if number % 7 == 0:
            link = sub / f"link-{number}"
            link.symlink_to(choice.choice(("nowhere", f"plain-{number}", "../0")))
            stamp(link, choice)
    for sub in [*subs, folder]:
        sub.chmod(choice.choice((0o700, 0o755, 0o1777, 0o2755)))
        stamp(sub, choice)


def stamp(path: Path, choice: random.Random) -> None:
    """Give it a time."""
    times = choice.randrange(2 * 10**18), choice.randrange(2 * 10**18)
    os.utime(path, ns=times, follow_symlinks=False)


def tree(folder: Path) -> dict[str, File]:
    """Everything in a folder, and the folder."""
    return {str(path.relative_to(folder)): File.of(path) for path in [folder, *folder.rglob("*")]}


def linked(folder: Path) -> set[frozenset[str]]:
    """The names that mean the same file, where there are several."""
    names = defaultdict(set)
    for path in folder.rglob("*"):
        names[path.lstat().st_ino].add(str(path.relative_to(folder)))
    return {frozenset(same) for same in names.values() if len(same) > 1}


async def tar(here: Folder) -> None:
    await here.sh(f"/tools/python /programs/make_archive.py /tmp/archive.tar {ARCHIVED}; tar -xf /tmp/archive.tar")
    assert {name: found(here.host / name) for name in extracted(here.host)} == EXPECTED
    await here.sh("tar -cf again.tar tree; rm -r tree")
    assert here.names() == ["again.tar"]
    assert dict(archived(here.host / "again.tar")) == EXPECTED


EXPECTED = {
    f"tree/{number // 100}/{number}": (0o600 + number % 64, number, f"{number}\n".encode() * (number % 300))
    for number in range(ARCHIVED)
}
"""Mode, time and content of all files that ``make_archive.py`` makes."""


def extracted(folder: Path) -> list[str]:
    """The names of all files below."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()]


def found(path: Path) -> tuple[int, float, bytes]:
    """The same of a file on the host."""
    status = path.lstat()
    return stat.S_IMODE(status.st_mode), status.st_mtime, path.read_bytes()


def archived(path: Path) -> Iterator[tuple[str, tuple[int, float, bytes]]]:
    """The files in an archive."""
    with tarfile.open(path) as archive:
        for member in archive:
            if file := archive.extractfile(member):
                yield member.name, (member.mode, member.mtime, file.read())
