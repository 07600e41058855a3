"""What the passthrough makes, against the kernel itself: a process that is the caller does the same beside it."""
# ruff: noqa: ASYNC240 - the oracle may block, nobody else is on the loop

import contextlib
import errno
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hdvkit_virtiofs.fuse.answers import Changes, Context, Entry
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.passthrough import Passthrough, _libc
from hdvkit_virtiofs.passthrough.credentials import Credentials
from hdvkit_virtiofs.passthrough.inodes import Inode

import hdvkit
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import Init
from hdvkit.testing.guest import Guest

IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root may act for other users")

ME = Context(uid=os.getuid(), gid=os.getgid())
TEAM, OTHER_TEAM = 777, 888
NO_ID = 2**32 - 1

LINUX_7_3 = 0x7BFF_FFFB | 0x5FF << 32

ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, bits, number)
    for tag, bits, number in [(0x01, 7, NO_ID), (0x02, 6, 1005), (0x04, 5, NO_ID), (0x10, 7, NO_ID), (0x20, 1, NO_ID)]
)
"""A default ACL: the owner, user 1005, the group, their mask, and others."""


# The oracle: processes that become a user for good, and then do what they are asked to


BECOMING = """
import json, os, stat, sys

def make(kind, name, mode):
    match kind:
        case "file": os.close(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode))
        case "node": os.mknod(name, stat.S_IFREG | mode)
        case "fifo": os.mknod(name, stat.S_IFIFO | mode)
        case "sock": os.mknod(name, stat.S_IFSOCK | mode)
        case "directory": os.mkdir(name, mode)
        case "link": os.symlink("target", name)
        case "tmpfile":
            number = os.open(".", os.O_RDWR | os.O_TMPFILE, mode)
            here = os.open(".", os.O_PATH)
            os.link(f"/proc/self/fd/{number}", name, src_dir_fd=here, dst_dir_fd=here)
            os.close(here)
            os.close(number)

def change(kind, name, uid, gid):
    match kind:
        case "write":
            number = os.open(name, os.O_WRONLY)
            os.write(number, b"x")
            os.close(number)
        case "truncate": os.truncate(name, 0)
        case "open": os.close(os.open(name, os.O_WRONLY | os.O_TRUNC))
        case "chown": os.chown(name, uid, gid)
        case "fallocate":
            number = os.open(name, os.O_WRONLY)
            os.posix_fallocate(number, 0, 4096)
            os.close(number)
        case "copy":
            source, number = os.open("source", os.O_RDONLY), os.open(name, os.O_WRONLY)
            os.copy_file_range(source, number, 4)
            os.close(source)
            os.close(number)

for line in sys.stdin:
    directory, uid, gid, groups, acts = json.loads(line)
    if not os.fork():
        try:
            os.chdir(directory)
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            for umask, act, *what in acts:
                os.umask(umask)
                globals()[act](*what)
            print("done", flush=True)
        except BaseException as error:
            print(what, repr(error), flush=True)
        os._exit(0)
    os.wait()
"""


class User(NamedTuple):
    """A process of the guest."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def context(self, umask: int = 0, directory_group: int = -1) -> Context:
        """What the guest's kernel says of it: of its further groups only the one that may matter."""
        groups = tuple(group for group in self.groups if group == directory_group)
        return Context(self.uid, self.gid, 1, umask, groups)


class Oracle:
    """The kernel's own answer."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BECOMING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def does(self, directory: Path, user: User, acts: Iterable[tuple[Any, ...]]) -> None:
        """Do everything in ``directory`` as the user; each act is a umask, a function and its arguments."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([str(directory), *user, list(acts)]), file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    oracle = Oracle()
    yield oracle
    oracle.process.communicate()


@contextlib.asynccontextmanager
async def served(folder: Path, minor: int = 46, flags: int = LINUX_7_3, **options: object) -> AsyncIterator[FuseClient]:
    """A guest that has mounted the folder as its kernel's version lets it."""
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=folder, tag="t", **options)
        async with Guest.of(host).drive(share) as driver:
            hiprio, *requests = driver.queues
            client = FuseClient(requests, hiprio, minor=minor, flags=flags)
            await client.init()
            yield client


# Nothing leaks


def who(task: Path) -> tuple[str, ...]:
    """Who a thread is."""
    wanted = ("Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:", "CapInh:")
    return tuple(line for line in (task / "status").read_text().splitlines() if line.startswith(wanted))


def everybody() -> set[tuple[str, ...]]:
    """Who all threads of this process are."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended
            found.add(who(task))
    return found


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    before = everybody()
    assert len(before) == 1
    yield
    assert everybody() == before


@pytest.fixture
def our_umask(tmp_path: Path) -> Iterator[None]:
    """One that takes nearly everything, and must not show in what is made."""
    before = os.umask(0o277)
    yield
    os.umask(before)


# Making


async def make(share: Passthrough, kind: str, parent: Inode, name: bytes, mode: int, context: Context) -> Entry[Inode]:
    match kind:
        case "file":
            entry, opened = await share.create(parent, name, mode, os.O_RDWR | os.O_EXCL, context)
            await share.release(entry.node, opened.handle)
            return entry
        case "tmpfile":
            entry, opened = await share.tmpfile(parent, mode, os.O_RDWR, context)
            await share.link(entry.node, parent, name, context)
            await share.release(entry.node, opened.handle)
            return entry
        case "directory":
            return await share.mkdir(parent, name, mode, context)
        case "link":
            return await share.symlink(parent, name, b"target", context)
    types = {"node": stat.S_IFREG, "fifo": stat.S_IFIFO, "sock": stat.S_IFSOCK}
    return await share.mknod(parent, name, types[kind] | mode, 0, context)


KINDS = ["file", "node", "fifo", "sock", "directory", "link", "tmpfile"]
MODES = [0o666, 0o2755, 0o4755, 0o6777, 0o2745, 0o1604]
UMASKS = [0, 0o027]


def result(path: Path) -> tuple[object, ...]:
    """What has to be alike: owner, group, mode, and access control lists."""
    status = path.lstat()
    acls = []
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        try:
            acls.append(os.getxattr(path, name, follow_symlinks=False))
        except OSError:
            acls.append(b"")
    return status.st_uid, status.st_gid, oct(status.st_mode), *acls


def two_directories(ground: Path, mode: int, group: int, acl: bool) -> tuple[Path, Path]:
    """The same directory twice: for the oracle, and for us."""
    pair = ground / "oracle", ground / "share"
    for directory in pair:
        directory.mkdir()
        os.chown(directory, 0, group)
        directory.chmod(mode)
        if acl:
            try:
                os.setxattr(directory, "system.posix_acl_default", ACL)
            except OSError as error:
                pytest.skip(f"this file system has no access control lists: {error}")
    return pair


@as_root
@pytest.mark.usefixtures("our_umask")
@pytest.mark.parametrize("posix_acl", [False, True], ids=["masked by the guest", "masked by us"])
@pytest.mark.parametrize("acl", [False, True], ids=["no default acl", "default acl"])
@pytest.mark.parametrize(("mode", "group"), [(0o777, 0), (0o2777, TEAM), (0o3777, TEAM), (0o2777, 0)])
@pytest.mark.parametrize(
    "user",
    [User(0, 0), User(0, 5), User(1001, 1002), User(1001, 1002, (TEAM, OTHER_TEAM)), User(1001, TEAM), User(1001, 0)],
)
async def test_everything_is_made_as_the_caller_would_make_it(
    tmp_path: Path, oracle: Oracle, user: User, mode: int, group: int, acl: bool, posix_acl: bool
) -> None:
    theirs, ours = two_directories(tmp_path, mode, group, acl)
    acts = {
        f"{kind} {oct(wanted)} {oct(umask)}": (kind, wanted if posix_acl else wanted & ~umask, umask)
        for kind, wanted, umask in product(KINDS, MODES, UMASKS)
    }
    oracle.does(theirs, user, [(umask, "make", kind, name, asked) for name, (kind, asked, umask) in acts.items()])
    share = Passthrough(ours, posix_acl=posix_acl)
    for name, (kind, asked, umask) in acts.items():
        entry = await make(share, kind, share.root, name.encode(), asked, user.context(umask, group))
        status = (ours / name).lstat()
        told = entry.attributes
        assert (told.uid, told.gid, told.mode) == (status.st_uid, status.st_gid, status.st_mode)
    assert {name: result(ours / name) for name in acts} == {name: result(theirs / name) for name in acts}
    await share.aclose()


@as_root
@pytest.mark.usefixtures("our_umask")
@pytest.mark.parametrize("acl", [False, True], ids=["no default acl", "default acl"])
@pytest.mark.parametrize(("mode", "group"), [(0o777, 0), (0o2777, TEAM), (0o3777, TEAM)])
async def test_setgid_was_judged_by_a_guest_that_tells_no_groups(
    tmp_path: Path, oracle: Oracle, mode: int, group: int, acl: bool
) -> None:
    theirs, ours = two_directories(tmp_path, mode, group, acl)
    user = User(1001, 1002, (TEAM,))
    acts = {f"{kind} {oct(wanted)}": (kind, wanted) for kind, wanted in product(KINDS, MODES)}
    oracle.does(theirs, user, [(0, "make", kind, name, wanted) for name, (kind, wanted) in acts.items()])
    share = Passthrough(ours)
    for name, (kind, wanted) in acts.items():
        await make(share, kind, share.root, name.encode(), wanted, user.context()._replace(groups=None))
    assert {name: result(ours / name) for name in acts} == {name: result(theirs / name) for name in acts}
    await share.aclose()


@as_root
@pytest.mark.parametrize(
    ("minor", "flags", "groups", "mode"),
    [
        (46, LINUX_7_3, (TEAM,), 0o6755),
        (46, LINUX_7_3, (), 0o4755),
        (37, LINUX_7_3 & ~Init.CREATE_SUPP_GROUP, (), 0o6755),
        (36, LINUX_7_3 & ~Init.CREATE_SUPP_GROUP, (), 0o4755),
    ],
    ids=["7.3, a member", "7.3, no member", "6.1, which has judged", "5.17, which has not"],
)
async def test_setgid_is_kept_as_the_guest_can_tell(
    tmp_path: Path, minor: int, flags: int, groups: tuple[int, ...], mode: int
) -> None:
    os.chown(tmp_path, 0, TEAM)
    tmp_path.chmod(0o2777)
    async with served(tmp_path, minor, flags) as client:
        user = client.as_user(1001, 1002, groups=groups)
        for kind in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
            await user.mknod(1, f"node {kind}", kind | 0o6755)
        await user.create(1, "file", os.O_RDWR | os.O_CREAT, 0o6755)
        assert {oct(stat.S_IMODE(path.lstat().st_mode)) for path in tmp_path.iterdir()} == {oct(mode)}


@as_root
async def test_a_guest_does_not_judge_for_whom_its_users_are_here(tmp_path: Path) -> None:
    os.chown(tmp_path, 0, TEAM)
    tmp_path.chmod(0o2777)
    old = LINUX_7_3 & ~Init.CREATE_SUPP_GROUP
    async with served(tmp_path, 37, old, squash="1001:1002") as client:
        for uid in (0, 1005):
            await client.as_user(uid, uid).mknod(1, str(uid), stat.S_IFREG | 0o6755)
            assert oct(stat.S_IMODE((tmp_path / str(uid)).stat().st_mode)) == oct(0o4755)


@as_root
async def test_access_was_judged_by_the_guest(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    share = Passthrough(tmp_path)
    for kind in KINDS:
        entry = await make(share, kind, share.root, kind.encode(), 0o600, Context(1001, 1002))
        assert (entry.attributes.uid, entry.attributes.gid) == (1001, 1002)
    await share.aclose()


@pytest.mark.usefixtures("our_umask")
async def test_who_is_nobody_else_makes_everything_itself(tmp_path: Path) -> None:
    share = Passthrough(tmp_path)
    for kind in KINDS:
        entry = await make(share, kind, share.root, kind.encode(), 0o666, ME)
        mode = 0o777 if kind == "link" else 0o666
        assert (entry.attributes.uid, stat.S_IMODE(entry.attributes.mode)) == (ME.uid, mode)
    await share.aclose()


# Failing


@pytest.mark.parametrize("kind", KINDS)
async def test_a_caller_that_fails_leaves_nobody_behind(tmp_path: Path, kind: str) -> None:
    (tmp_path / "taken").touch()
    share = Passthrough(tmp_path)
    before = everybody()
    for user in (User(1001, 1002), User(1001, 1002, (TEAM,)), User(0, 5)):
        with pytest.raises(FuseError) as caught:
            await make(share, kind, share.root, b"taken", 0o600, user.context(directory_group=TEAM))
        assert caught.value.errno == errno.EEXIST
        assert everybody() == before
    await share.aclose()


@as_root
@pytest.mark.parametrize(
    "context", [Context(NO_ID, 0), Context(0, NO_ID), Context(1, NO_ID), Context(1, 1, groups=(NO_ID,))]
)
async def test_ids_that_nobody_has_make_nothing(tmp_path: Path, context: Context) -> None:
    share = Passthrough(tmp_path)
    for kind in KINDS:
        with pytest.raises(FuseError) as caught:
            await make(share, kind, share.root, b"new", 0o600, context)
        assert caught.value.errno == errno.EOVERFLOW
    assert not list(tmp_path.iterdir())
    await share.aclose()


@as_root
def test_threads_at_once_are_somebody_else_each(tmp_path: Path) -> None:
    credentials = Credentials()
    process = everybody()
    together = threading.Barrier(8, timeout=10)

    def act(uid: int) -> None:
        groups = (uid + 100,) if uid % 2 else ()
        together.wait()
        for number in range(50):
            with contextlib.suppress(KeyError), credentials.as_caller(Context(uid, uid + 1, groups=groups)):
                (tmp_path / f"{uid} {number}").touch()
                told = dict(line.split(":\t") for line in who(Path("/proc/thread-self")))
                assert (told["Uid"].split()[3], told["Gid"].split()[3]) == (str(uid), str(uid + 1))
                assert told["Groups"].split() == [str(group) for group in groups]
                # Of what root may do to files only to reach them: neither CAP_FOWNER (3) nor CAP_FSETID (4).
                assert int(told["CapEff"], 16) & 0x1F == 0b00110
                raise KeyError
            assert {who(Path("/proc/thread-self"))} == process
        together.wait()

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(act, 2000 + number) for number in range(8)]:
            done.result()
        assert everybody() == process
    owners = {path.name: path.stat().st_uid for path in tmp_path.iterdir()}
    assert owners == {f"{uid} {number}": uid for uid in range(2000, 2008) for number in range(50)}


# Processes that are not root, or not for long


PRELUDE = """
import asyncio, os, sys
from hdvkit_virtiofs.fuse.answers import Changes, Context
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.passthrough import Passthrough
from hdvkit_virtiofs.passthrough.credentials import Credentials
os.chdir(sys.argv[1])
"""


def run(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    arguments = [sys.executable, "-c", PRELUDE + script, str(directory)]
    # Who gives up his rights cannot write down what was covered.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return subprocess.run(arguments, capture_output=True, text=True, env=environment)


@as_root
def test_a_process_that_cannot_be_itself_again_ends(tmp_path: Path) -> None:
    ended = run(
        """
with Credentials().as_caller(Context(1001, 1002)):
    os.setresuid(1003, 1003, 1003)
print("serving on")
""",
        tmp_path,
    )
    assert ended.returncode == -signal.SIGABRT
    assert ended.stdout == ""
    assert "cannot be user 0 again" in ended.stderr


MAKING = """
async def make():
    share = Passthrough(".")
    for uid in (0, 1003, 5000):
        try:
            await share.mkdir(share.root, b"%d" % uid, 0o2775, Context(uid, uid))
        except FuseError as error:
            print(uid, error.errno)
    await share.aclose()
os.umask(0o077)
"""


@as_root
def test_without_privileges_everything_belongs_to_one_user(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    ended = run(
        f"{MAKING}\nos.setgroups([])\nos.setresgid(5, 5, 5)\nos.setresuid(7, 7, 7)\nasyncio.run(make())", tmp_path
    )
    assert (ended.stderr, ended.stdout) == ("", "")
    made = [path.stat() for path in tmp_path.iterdir()]
    assert {(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) for status in made} == {(7, 5, 0o775)}
    assert len(made) == 3


@as_root
async def test_where_threads_cannot_be_told_apart_everything_belongs_to_one_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_libc, "KNOWS_CREDENTIALS", False)  # as on a processor whose system calls we do not know
    share = Passthrough(tmp_path)
    for kind in KINDS:
        entry = await make(share, kind, share.root, kind.encode(), 0o600, Context(1001, 1002))
        assert (entry.attributes.uid, entry.attributes.gid) == (ME.uid, ME.gid)
    await share.aclose()


def in_user_namespace(directory: Path, mapping: str) -> subprocess.CompletedProcess[str]:
    """Make directories as users 0, 1003 and 5000 from a user namespace that knows some of them."""
    script = f"""
import ctypes
if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
    sys.exit("no user namespaces: " + os.strerror(ctypes.get_errno()))
print("mapped?", flush=True)
input()
{MAKING}
asyncio.run(make())
"""
    arguments = [sys.executable, "-c", PRELUDE + script, str(directory)]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stdout is not None
        if child.stdout.readline() == "mapped?\n":
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{child.pid}/{name}").write_text(mapping)
        out, err = child.communicate("\n")
    if "no user namespaces" in err:
        pytest.skip(err)
    return subprocess.CompletedProcess(arguments, child.returncode, out, err)


@as_root
def test_users_outside_of_the_namespace_make_nothing(tmp_path: Path) -> None:
    ended = in_user_namespace(tmp_path, "0 0 2000\n")
    assert (ended.stderr, ended.stdout) == ("", f"5000 {errno.EOVERFLOW}\n")
    assert {path.name: path.stat().st_uid for path in tmp_path.iterdir()} == {"0": 0, "1003": 1003}


@as_root
def test_a_namespace_of_one_user_makes_everything_as_that_user(tmp_path: Path) -> None:
    ended = in_user_namespace(tmp_path, "0 0 1\n")
    assert (ended.stderr, ended.stdout) == ("", "")
    assert {path.name: path.stat().st_uid for path in tmp_path.iterdir()} == {"0": 0, "1003": 0, "5000": 0}


# Labels


@as_root
@pytest.mark.parametrize("kind", KINDS)
async def test_files_are_born_with_their_labels(tmp_path: Path, kind: str) -> None:
    labels = ((b"security.selinux", b"one\0"), (b"trusted.other", b"two"))
    share = Passthrough(tmp_path, security_ctx=True)
    try:
        await make(share, kind, share.root, b"new", 0o644, Context(1001, 1002, security=labels))
    except FuseError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("this file system keeps no labels")
    for name, value in labels:
        assert os.getxattr(tmp_path / "new", name, follow_symlinks=False) == value
    await share.aclose()


@pytest.mark.parametrize("kind", KINDS)
async def test_what_cannot_be_labelled_is_not_made(tmp_path: Path, kind: str) -> None:
    share = Passthrough(tmp_path, security_ctx=True)
    held = share.live_descriptors
    with pytest.raises(FuseError):
        await make(share, kind, share.root, b"new", 0o644, ME._replace(security=((b"security.selinux", bytes(70000)),)))
    assert not list(tmp_path.iterdir())
    assert share.live_descriptors == held
    await share.aclose()


# Changing

OWNER, MEMBER, ROOT = User(1001, TEAM, (OTHER_TEAM,)), User(1003, TEAM), User(0, 0)


async def change(share: Passthrough, act: str, name: str, user: User, uid: int, gid: int) -> None:
    """What the guest's kernel sends with HANDLE_KILLPRIV_V2: the bits go, unless root writes."""
    context = user.context()
    node = (await share.lookup(share.root, name.encode(), context)).node
    kill = Changes(kill_suidgid=user.uid != 0)
    match act:
        case "write":
            opened = await share.open(node, os.O_WRONLY, context)
            if kill.kill_suidgid:
                await share.setattr(node, kill, opened.handle, context)
            await share.write_from(node, opened.handle, 0, [memoryview(b"x")], context)
        case "truncate":
            await share.setattr(node, kill._replace(size=0), None, context)
        case "open":
            if kill.kill_suidgid:
                await share.setattr(node, kill, None, context)
            await share.open(node, os.O_WRONLY | os.O_TRUNC, context)
        case "chown":
            owner = Changes(uid=None if uid < 0 else uid, gid=None if gid < 0 else gid, kill_suidgid=True)
            await share.setattr(node, owner, None, context)


WRITES = [(act, False, user, -1, -1) for act in ("write", "truncate", "open") for user in (OWNER, MEMBER, ROOT)]
CHOWNS = [
    ("chown", directory, user, uid, gid)
    for directory in (False, True)
    for user, uid, gid in [
        (OWNER, -1, OTHER_TEAM),
        (OWNER, OWNER.uid, TEAM),
        (OWNER, -1, TEAM),
        (ROOT, MEMBER.uid, -1),
        (ROOT, MEMBER.uid, OTHER_TEAM),
        (ROOT, OWNER.uid, TEAM),
    ]
]


@as_root
@pytest.mark.parametrize(("act", "directory", "user", "uid", "gid"), WRITES + CHOWNS)
async def test_setuid_and_setgid_go_as_the_kernel_takes_them(
    tmp_path: Path, oracle: Oracle, act: str, directory: bool, user: User, uid: int, gid: int
) -> None:
    names = [oct(mode) for mode in (0o4777, 0o2777, 0o6777, 0o2767, 0o6767, 0o6766, 0o777, 0o1777, 0o666)]
    theirs, ours = two_directories(tmp_path, 0o777, 0, acl=False)
    for path in (place / name for place in (theirs, ours) for name in names):
        path.mkdir() if directory else path.write_bytes(b"data")
        os.chown(path, OWNER.uid, TEAM)
        path.chmod(int(path.name, 8))
    oracle.does(theirs, user, [(0, "change", act, name, uid, gid) for name in names])
    share = Passthrough(ours)
    for name in names:
        await change(share, act, name, user, uid, gid)
    assert {name: result(ours / name) for name in names} == {name: result(theirs / name) for name in names}
    await share.aclose()


async def change_data(client: FuseClient, act: str, name: str) -> None:
    """Requests that carry no flag for it: the guest's kernel relies on us."""
    nodeid = (await client.lookup(1, name)).nodeid
    fh = (await client.open(nodeid, os.O_WRONLY)).fh
    if act == "fallocate":
        await client.fallocate(nodeid, fh, 0, 4096)
    else:
        source = (await client.lookup(1, "source")).nodeid
        reading = (await client.open(source, os.O_RDONLY)).fh
        assert await client.copy_file_range(source, reading, 0, (nodeid, fh, 0), 4) == 4


@as_root
@pytest.mark.parametrize("user", [OWNER, MEMBER, ROOT], ids=["owner", "member", "root"])
@pytest.mark.parametrize("act", ["fallocate", "copy"])
async def test_setuid_and_setgid_go_with_changes_that_do_not_ask_for_it(
    tmp_path: Path, oracle: Oracle, act: str, user: User
) -> None:
    names = [oct(mode) for mode in (0o4777, 0o2777, 0o6777, 0o2767, 0o6767, 0o777, 0o1777, 0o666)]
    theirs, ours = two_directories(tmp_path, 0o777, 0, acl=False)
    for path in (place / name for place in (theirs, ours) for name in [*names, "source"]):
        path.write_bytes(b"data")
        os.chown(path, OWNER.uid, TEAM)
        path.chmod(0o666 if path.name == "source" else int(path.name, 8))
    oracle.does(theirs, user, [(0, "change", act, name, -1, -1) for name in names])
    async with served(ours) as client:
        for name in names:
            await change_data(client.as_user(user.uid, user.gid), act, name)
    assert {name: result(ours / name) for name in names} == {name: result(theirs / name) for name in names}


@as_root
@pytest.mark.parametrize("act", ["fallocate", "copy"])
async def test_a_guest_that_takes_the_bits_itself_is_not_helped(tmp_path: Path, act: str) -> None:
    for name, mode in (("file", 0o6777), ("source", 0o666)):
        (tmp_path / name).write_bytes(b"data")
        (tmp_path / name).chmod(mode)
    async with served(tmp_path, flags=LINUX_7_3 & ~Init.HANDLE_KILLPRIV_V2) as client:
        await change_data(client.as_user(1001, 1002), act, "file")
    assert oct((tmp_path / "file").stat().st_mode) == oct(stat.S_IFREG | 0o6777)


@as_root
def test_a_process_without_rights_takes_the_bits_by_writing(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", 1001, TEAM)
    (tmp_path / "file").chmod(0o6777)
    ended = run(
        """
async def write():
    share = Passthrough(".")
    node = (await share.lookup(share.root, b"file", Context(7, 5))).node
    opened = await share.open(node, os.O_WRONLY, Context(7, 5))
    await share.setattr(node, Changes(kill_suidgid=True), opened.handle, Context(7, 5))
    await share.write_from(node, opened.handle, 0, [memoryview(b"x")], Context(7, 5))
    await share.aclose()
os.setgroups([])
os.setresgid(5, 5, 5)
os.setresuid(7, 7, 7)
asyncio.run(write())
""",
        tmp_path,
    )
    assert ended.stderr == ""
    assert oct((tmp_path / "file").stat().st_mode) == oct(stat.S_IFREG | 0o777)
