"""A directory of the host in stock guests: everything that files are good for, seen from both sides."""

import asyncio
import calendar
import hashlib
import os
import random
import re
import stat
from pathlib import Path

from guest_files import Folder, booted, tools
from hdvkit_virtiofs import Passthrough, VirtioFs
from hdvkit_virtiofs.policy.layer import innermost
from hdvkit_vm import Assets, VirtualMachine

MIB = 1 << 20
SMALL_FILES = 2000
LINES = 300
NAMES = [
    b" ",
    b"two words",
    b"new\nline",
    b"-rf",
    b"*?[$`'\"\\",
    b"\xff not UTF-8",
    "\u00fcn\u00ef c\u00f6d\u00e9 \u65e5\u672c \U0001f427".encode(),
    b"n" * 255,
    "\u00e9".encode() * 127 + b"e",
]
TOO_LONG = [b"n" * 256, b"n" * 2000, "\u00e9".encode() * 128]


async def test_files(kernel: str, assets: Assets, room: Path, log: Path) -> None:
    left, right = room / "left", room / "right"
    for directory in (left, right):
        directory.mkdir()
    shares = [VirtioFs(source=left, tag="left"), VirtioFs(source=right, tag="right"), tools(assets)]
    at_rest = descriptors(shares[0])
    async with booted(kernel, assets, room, log, shares) as (vm, functions):
        await shares_are_told_apart(vm, left, right)
        for step in STEPS:
            await step(Folder(vm, left, "/left").sub(step.__name__))
        await mounted_again(vm, shares[0], at_rest)
        statistics = [function.stats() for function in functions]
    assert [(one.needs_resets, one.resets) for one in statistics] == [(0, 0)] * 3
    assert [queue.late for one in statistics for queue in one.queues] == [0] * 6


async def shares_are_told_apart(vm: VirtualMachine, left: Path, right: Path) -> None:
    (left / "mine").write_text("left")
    (right / "mine").write_text("right")
    assert await vm.run("cat /left/mine /right/mine") == "leftright"
    await vm.run("mkdir /nothing; echo l > /left/from-guest; echo r > /right/from-guest")
    assert ((left / "from-guest").read_text(), (right / "from-guest").read_text()) == ("l\n", "r\n")
    assert "failed" in await Folder(vm, left, "/").sh_fails("mount -t virtiofs no-such-tag /nothing")


async def reading_and_writing(here: Folder) -> None:
    here.write("from host", b"one\n")
    assert await here.sh("cat 'from host'") == "one\n"
    await here.sh("printf 'two\\n' > new")
    assert here.read("new") == b"two\n"
    await here.sh("printf 'three\\n' >> new; echo >> 'from host'")
    assert (here.read("new"), here.read("from host")) == (b"two\nthree\n", b"one\n\n")
    await here.sh("printf HR | dd of=new bs=1 seek=5 conv=notrunc")
    assert here.read("new") == b"two\ntHRee\n"
    await here.sh("truncate -s 2 new")
    assert here.read("new") == b"tw"
    assert await here.sh("truncate -s 5000 new; stat -c %s new") == "5000\n"
    assert here.read("new") == b"tw" + bytes(4998)
    await here.sh(": > new")
    assert here.read("new") == b""
    assert "No such file" in await here.sh_fails("cat missing")


async def renaming(here: Folder) -> None:
    await here.sh("echo a > a; echo b > b; mv a b; mkdir sub; echo s > sub/s; mv sub moved; mv b moved/c")
    assert here.names() == ["moved"]
    assert (here.read("moved/s"), here.read("moved/c")) == (b"s\n", b"a\n")
    assert await here.sh("cat moved/s moved/c; mkdir empty full; touch full/f") == "s\na\n"
    assert "Directory not empty" in await here.sh_fails('/tools/python -c \'import os; os.rename("moved", "full")\'')
    await here.sh('/tools/python -c \'import os; os.rename("moved", "empty")\'')
    assert here.names() == ["empty", "full"]
    assert sorted(os.listdir(here.host / "empty")) == ["c", "s"]  # noqa: PTH208 - names, not paths


async def removing(here: Folder) -> None:
    assert await here.sh("echo last > f; exec 3< f; rm f; cat <&3; ls") == "last\n"
    assert here.names() == []
    await here.sh("mkdir -p a/b/c; touch a/b/f")
    assert (here.host / "a/b/c").is_dir()
    assert "Directory not empty" in await here.sh_fails("rmdir a/b")
    await here.sh("rmdir a/b/c; rm a/b/f; rmdir a/b")
    assert here.names() == ["a"]
    assert list((here.host / "a").iterdir()) == []


async def symbolic_links(here: Folder) -> None:
    await here.sh("mkdir sub; echo inside > sub/f; ln -s sub/f link; ln -s nowhere dangling; ln -s sub dir")
    assert [os.readlink(here.host / name) for name in ("link", "dangling", "dir")] == ["sub/f", "nowhere", "sub"]  # noqa: PTH115 - the text
    assert await here.sh("cat link dir/f") == "inside\ninside\n"
    assert "No such file" in await here.sh_fails("cat dangling")
    await here.sh("echo through > link; rm dangling")
    assert here.read("sub/f") == b"through\n"
    # The guest's kernel follows links, in the guest's own tree: none leads into the host's.
    (here.host.parent.parent / "secret").write_text("secret")
    for name, target in (("absolute", f"{here.host.parent.parent}/secret"), ("upwards", "../../secret")):
        (here.host / name).symlink_to(target)
        assert here.read(name) == b"secret"
        assert await here.sh(f"readlink {name}") == f"{target}\n"
        assert "No such file" in await here.sh_fails(f"cat {name}")


async def hard_links(here: Folder) -> None:
    assert await here.sh("echo 1 > a; ln a b; stat -c %h a b") == "2\n2\n"
    one, two = (here.host / "a").stat(), (here.host / "b").stat()
    assert (one.st_nlink, one.st_ino) == (2, two.st_ino)
    assert await here.sh("echo 2 >> b; cat a; rm a; stat -c %h b; cat b") == "1\n2\n1\n1\n2\n"


async def attributes(here: Folder) -> None:
    # A share of somebody who is not root cannot give files away; that would be their host's decision.
    user, group = (1234, 5678) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    await here.sh(f"touch f; mkdir sub; chown {user}:{group} f; chmod 4751 f; chmod 700 sub")
    await here.sh("TZ=UTC touch -d '2001-02-03 04:05:06' sub")
    await here.python("import os; os.utime('f', ns=(123456789123456789, 987654321987654321))")
    f, sub = (here.host / "f").stat(), (here.host / "sub").stat()
    assert (f.st_uid, f.st_gid, f.st_mode) == (user, group, stat.S_IFREG | 0o4751)
    assert (f.st_atime_ns, f.st_mtime_ns) == (123456789123456789, 987654321987654321)
    assert (sub.st_mode, sub.st_mtime) == (stat.S_IFDIR | 0o700, calendar.timegm((2001, 2, 3, 4, 5, 6)))
    (here.host / "host").touch(mode=0o604)
    os.utime(here.host / "host", (11, 22))
    assert await here.sh("stat -c '%a %X %Y %s' host") == "604 11 22 0\n"


async def mapped_files(here: Folder) -> None:
    content = random.Random(1).randbytes(20000)
    here.write("f", content)
    told = await here.python("""
        import hashlib, mmap
        with open("f", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            print(hashlib.sha256(memory).hexdigest())
            memory[4090:4100] = b"0123456789"
            memory[-1:] = b"!"
        """)
    assert told.strip() == hashlib.sha256(content).hexdigest()
    assert here.read("f") == content[:4090] + b"0123456789" + content[4100:-1] + b"!"


async def appending_together(here: Folder) -> None:
    here.write("log", b"")
    script = f"for who in a b; do (for n in $(seq {LINES}); do echo $who $n; done) >> log & done; wait"
    guest = asyncio.create_task(here.sh(script))
    written = 0
    with (here.host / "log").open("a", buffering=1) as log:
        while not guest.done():
            written += 1
            log.write(f"host {written}\n")
            await asyncio.wait([guest], timeout=0.001)
    await guest
    content = here.read("log").decode()
    assert re.findall(r"host (\d+)\n", content) == [str(n) for n in range(1, written + 1)]
    # Linux sends what crosses a border of pages in two requests, and a line of the host may come between.
    lines = re.sub(r"host \d+\n", "", content).splitlines()
    for who in "ab":
        assert [line for line in lines if line.startswith(who)] == [f"{who} {n}" for n in range(1, LINES + 1)]
    assert len(lines) == LINES * 2


async def large_files(here: Folder) -> None:
    here.write("from host", random.Random(2).randbytes(64 * MIB))
    await here.sh("dd if=/dev/urandom of=guest bs=1M count=64")
    assert (here.host / "guest").stat().st_size == 64 * MIB
    # What is in the guest's cache does not count.
    told = await here.sh("echo 3 > /proc/sys/vm/drop_caches; sha256sum guest 'from host'")
    hashes = [hashlib.sha256(here.read(name)).hexdigest() for name in ("guest", "from host")]
    assert [line.split()[0] for line in told.splitlines()] == hashes
    await here.sh("rm *")


async def many_files(here: Folder) -> None:
    await here.sh(f"mkdir sub; cd sub; for n in $(seq {SMALL_FILES}); do echo content of $n > f$n; done")
    expected = {f"f{n}": f"content of {n}\n" for n in range(1, SMALL_FILES + 1)}
    assert {path.name: path.read_text() for path in (here.host / "sub").iterdir()} == expected
    assert await here.sh("find . | wc -l") == f"{SMALL_FILES + 2}\n"
    assert sorted((await here.sh("ls -R")).split()) == sorted([".:", "sub", "./sub:", *expected])
    told = await here.sh("echo 3 > /proc/sys/vm/drop_caches; cat sub/f* | sha256sum")
    everything = "".join(expected[name] for name in sorted(expected))
    assert told.split()[0] == hashlib.sha256(everything.encode()).hexdigest()
    await here.sh("rm -r sub")
    assert here.names() == []


async def strange_names(here: Folder) -> None:
    for name in NAMES:
        (here.host / os.fsdecode(b"h" + name[1:])).write_bytes(name)
    told = await here.python(f"""
        import os
        for name in sorted(os.listdir(b".")):
            print(name.hex(), open(name, "rb").read().hex())
        for name in {NAMES!r}:
            with open(name, "xb") as file:
                file.write(name)
        """)
    pairs = sorted((b"h" + name[1:], name) for name in NAMES)
    assert told.splitlines() == [f"{name.hex()} {content.hex()}" for name, content in pairs]
    made = {name: (here.host / os.fsdecode(name)).read_bytes() for name in os.listdir(os.fsencode(here.host))}  # noqa: PTH208 - bytes
    assert made == {name: name for name in NAMES} | dict(pairs)
    told = await here.python(f"""
        import errno, os
        open("short", "x")
        for name in {TOO_LONG!r}:
            for make in (lambda name: open(name, "xb"), os.mkdir, os.stat, lambda name: os.rename("short", name)):
                try:
                    make(name)
                except OSError as error:
                    print(errno.errorcode[error.errno])
        """)
    assert told.split() == ["ENAMETOOLONG"] * 4 * len(TOO_LONG)
    assert await here.sh("rm ./*; ls") == ""
    assert here.names() == []


async def changes_of_the_host(here: Folder) -> None:
    here.write("f", b"old")
    assert await here.sh("cat f; ls") == "oldf\n"
    here.write("new", b"")
    here.write("f", b"young and longer")
    await here.sh("until [ -e new ] && [ \"$(cat f)\" = 'young and longer' ]; do usleep 10000; done")
    here.write("f", b"")
    (here.host / "new").unlink()
    await here.sh("until [ ! -e new ] && [ ! -s f ]; do usleep 10000; done; ls")
    (here.host / "f").rename(here.host / "g")
    assert await here.sh("until [ ! -e f ] && [ -e g ]; do usleep 10000; done; ls") == "g\n"


async def free_space(here: Folder) -> None:
    status = os.statvfs(here.host)
    told = (await here.sh("stat -f -c '%b %S %l' .")).split()
    assert [int(word) for word in told] == [status.f_blocks, status.f_frsize, status.f_namemax]
    line = (await here.sh("df -k .")).splitlines()[-1].split()
    assert (line[0], int(line[1]), line[-1]) == ("left", status.f_blocks * status.f_frsize // 1024, "/left")


def descriptors(share: VirtioFs) -> int:
    directory = innermost(share.server.operations)
    assert isinstance(directory, Passthrough)
    return directory.live_descriptors


async def mounted_again(vm: VirtualMachine, share: VirtioFs, at_rest: int) -> None:
    assert descriptors(share) > at_rest
    await vm.run("echo kept > /left/kept; umount /left")
    assert descriptors(share) == at_rest
    assert await vm.run("ls /left; mount -t virtiofs left /left && cat /left/kept /left/mine") == "kept\nleft"


STEPS = [
    reading_and_writing,
    renaming,
    removing,
    symbolic_links,
    hard_links,
    attributes,
    mapped_files,
    appending_together,
    large_files,
    many_files,
    strange_names,
    changes_of_the_host,
    free_space,
]
