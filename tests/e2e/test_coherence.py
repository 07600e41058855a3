"""What the host changes, a guest sees within the bound its share states; what guest processes share, they share."""

import shutil
from pathlib import Path

import pytest
from guest_files import LONG, Folder, booted, tools
from hdvkit_virtiofs import VirtioFs
from hdvkit_vm import Assets

PROGRAMS = Path(__file__).parent / "programs"
BOUND = 0.3
"""Seconds for names and attributes, in the share with a bound of its own."""
ROUNDS = 50 if LONG else 4
PROCESSES = 4
COUNT = 2000 if LONG else 200

POLICIES = {
    "auto": ({"cache": "auto"}, 1.0),
    "bound": ({"cache": "auto", "attr_timeout": BOUND, "entry_timeout": BOUND}, BOUND),
    "never": ({"cache": "never"}, 0.0),
    "path": ({"cache": "always", "timeouts": (f"*.live={BOUND}", f"live={BOUND}")}, BOUND),
}
"""Options of a share, and the seconds after which the guest knows what the host did."""

MAPPED = """
import mmap
with open("mapped.live", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
    print(set(memory[:]), len(memory))
"""


@pytest.fixture
def folder(room: Path) -> Path:
    """What both sides change."""
    path = room / "share"
    path.mkdir()
    for program in PROGRAMS.glob("*.py"):
        shutil.copy(program, path)
    return path


async def test_the_guest_sees_what_the_host_does(
    kernel: str, assets: Assets, room: Path, log: Path, folder: Path
) -> None:
    """The guest knows the old state, the host changes it, the bound passes in the guest, and it must know the new."""
    shares = [VirtioFs(source=folder, tag=name, **options) for name, (options, _) in POLICIES.items()]
    async with booted(kernel, assets, room, log, [*shares, tools(assets)], cpus=2) as (vm, _):
        for name, (_, bound) in POLICIES.items():
            (folder / name).mkdir()
            here = Folder(vm, folder / name, f"/{name}/{name}").sub("live")
            await content_follows(here, bound)
            await names_follow(here, bound)
            # Linux before 6.6 cannot map what it may not cache (ENODEV).
            if name != "never" or kernel != "6.1":
                await mappings_follow(here, bound)


@pytest.mark.parametrize("cache", ["auto", "always"] if LONG else ["always"])
async def test_guest_processes_share_what_they_share(
    kernel: str, assets: Assets, room: Path, log: Path, folder: Path, cache: str
) -> None:
    """Lines that are appended, and numbers in a mapping, by several processes at once."""
    (folder / "mapped").write_bytes(bytes(8192))
    share = VirtioFs(source=folder, tag="share", cache=cache)
    async with booted(kernel, assets, room, log, [share, tools(assets)], cpus=2) as (vm, _):
        here = Folder(vm, folder, "/share")
        await here.sh(at_once(f"append_lines.py lines $n {COUNT}"))
        written = (folder / "lines").read_text().splitlines()
        assert sorted(written) == sorted(
            f"{name} {number} {'x' * (number % 97)}" for name in range(1, PROCESSES + 1) for number in range(COUNT)
        )
        await here.sh(at_once(f"count_in_mapping.py mapped {COUNT}"))
        mapped = (folder / "mapped").read_bytes()
        ends = [int.from_bytes(mapped[at : at + 8], "little", signed=True) for at in (0, 4096 + 17)]
        assert ends == [COUNT * PROCESSES, -COUNT * PROCESSES]


def at_once(program: str) -> str:
    """Several processes of a program, all of which must succeed; ``$n`` is the number of each."""
    start = f'/tools/python {program} & pids="$pids $!"'
    return f"pids=; for n in $(seq {PROCESSES}); do {start}; done; for p in $pids; do wait $p; done"


async def content_follows(here: Folder, bound: float) -> None:
    """Content and length belong together, whether the file grew, shrank or was replaced."""
    for number in range(ROUNDS):
        new = f"version {number} ".encode() * (1 if number % 3 else 700)
        if number % 2:
            here.write("file.live", new)
        else:
            here.write("other", new)
            (here.host / "other").rename(here.host / "file.live")
        told = await here.sh(f"usleep {us(bound)}; stat -c %s file.live; cat file.live")
        assert told == f"{len(new)}\n{new.decode()}"


async def names_follow(here: Folder, bound: float) -> None:
    """Names that come and go, in listings and by themselves."""
    for number in range(ROUNDS):
        name = f"name-{number}.live"
        assert await here.sh(f"test -e {name} || echo none") == "none\n"
        here.write(name, b"here")
        assert await here.sh(f"usleep {us(bound)}; cat {name}; ls | grep -c ^{name}$") == "here1\n"
        (here.host / name).unlink()
        assert await here.sh(f"usleep {us(bound)}; test -e {name} || echo none; ls | grep {name} || true") == "none\n"


async def mappings_follow(here: Folder, bound: float) -> None:
    """A file that became shorter, and other, is mapped as it is now."""
    for letter, size in ((b"a", 20_000), (b"b", 5_000), (b"c", 30_000)):
        here.write("mapped.live", letter * size)
        await here.sh(f"usleep {us(bound)}")
        assert await here.python(MAPPED) == f"{{{ord(letter)}}} {size}\n"


def us(seconds: float) -> int:
    """The bound in microseconds, and a little."""
    return int(seconds * 1e6) + 20_000
