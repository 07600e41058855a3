"""The cache's record and lock, and what counts as done."""

import subprocess
import sys
from pathlib import Path

import pytest
from hdvkit_vm import accel, provision, recipe
from hdvkit_vm.cache import Lock, LockedPackage, LockedPart, building, install, locked
from hdvkit_vm.errors import PrepareError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="virtual machines need Linux")

LOCK = Lock({"tools": LockedPart(3, "2030-01-02T03:04:05+00:00", [LockedPackage("p", "1:2-3", "ab")], {"x": "y"})})


def test_a_record_comes_back(tmp_path):
    LOCK.write(tmp_path)
    assert Lock.read(tmp_path) == LOCK
    assert [file.name for file in tmp_path.iterdir()] == ["lock.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"parts": 1}', '{"parts": {"tools": {"date": "x"}}}', "null"])
def test_a_record_that_makes_no_sense_is_an_empty_one(tmp_path, content):
    (tmp_path / "lock.json").write_text(content)
    assert Lock.read(tmp_path) == Lock()


def test_parts_are_added_and_taken_away():
    assert set(LOCK.with_parts({"qemu": LockedPart(1, "")}).parts) == {"tools", "qemu"}
    assert LOCK.without({"tools"}) == Lock()


def test_what_an_earlier_try_left_is_removed(tmp_path):
    (tmp_path / ".building-killed/deep").mkdir(parents=True)
    with building(tmp_path) as place:
        assert list(tmp_path.iterdir()) == [place]
    assert not list(tmp_path.iterdir())


def test_a_new_folder_takes_the_place_of_an_old_one(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part/old").touch()
    with building(tmp_path) as place:
        (place / "part").mkdir()
        install(place / "part", tmp_path / "part")
    assert not list((tmp_path / "part").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def test_the_lock_keeps_other_processes_out(tmp_path):
    program = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"

    def other() -> int:
        return subprocess.run((sys.executable, "-c", program, tmp_path / ".lock"), capture_output=True).returncode

    with locked(tmp_path):
        assert other() == 1
    assert other() == 0


def complete(folder):
    """A cache in which everything is done, without its contents."""
    for part in recipe.PARTS:
        (folder / part.name).mkdir()
    facts = {
        "qemu": {"named": "", "own": "", "version": "QEMU", "ends_with_parent": "no"},
        "kernel-6.1": {"release": "6.1.0"},
        "kernel-7.x": {"release": "7.0"},
    }
    Lock({part.name: LockedPart(part.recipe, "", [], facts.get(part.name, {})) for part in recipe.PARTS}).write(folder)
    for guest in provision._assets(folder, Lock.read(folder), "").guests.values():
        guest.initramfs.touch()
    accel.remember(folder, "tcg")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("HDVKIT_QEMU", raising=False)
    monkeypatch.delenv("HDVKIT_ACCEL", raising=False)
    complete(tmp_path)
    return tmp_path


def test_a_complete_cache_is_used_as_it_is(cache):
    assets = provision.prepare(cache)
    assert assets.accel == "tcg"
    assert assets.guest("7.x").release == "7.0"
    with pytest.raises(PrepareError, match=r"take one of 6\.1, 7\.x"):
        assets.guest("5.4")


def test_a_changed_recipe_or_a_missing_folder_makes_a_part_stale(cache):
    lock = Lock.read(cache)
    (cache / "busybox").rmdir()
    changed = lock.with_parts({"tools": LockedPart(0, "")}).without({"kernel-6.1"})
    assert {part.name for part in provision._stale(cache, changed)} == {"busybox", "tools", "kernel-6.1"}
    assert provision.prepared(cache) is None


def test_another_qemu_makes_qemu_stale(cache, monkeypatch):
    monkeypatch.setenv("HDVKIT_QEMU", "/somewhere/qemu")
    assert [part.name for part in provision._stale(cache, Lock.read(cache))] == ["qemu"]


def test_a_verdict_on_kvm_holds_until_the_machine_boots_again(cache, monkeypatch):
    assert accel.remembered(cache) == "tcg"
    monkeypatch.setattr(accel, "_boot_id", lambda: "another")
    assert accel.remembered(cache) is None


def test_the_environment_decides_about_kvm(cache, monkeypatch):
    monkeypatch.setenv("HDVKIT_ACCEL", "kvm")
    assert accel.remembered(cache) == "kvm"
    monkeypatch.setenv("HDVKIT_ACCEL", "hvf")
    with pytest.raises(PrepareError, match="hvf"):
        accel.remembered(cache)


def test_a_named_qemu_without_vfio_user_is_refused(monkeypatch):
    monkeypatch.setenv("HDVKIT_QEMU", "/bin/false")
    with pytest.raises(PrepareError, match="HDVKIT_QEMU is /bin/false"):
        recipe.own_qemu(Path("wrapper"))


def test_a_part_takes_nothing_from_suites_it_does_not_name():
    parts = {part.name: part for part in recipe.PARTS}
    suites = ("bookworm", "trixie", "trixie-backports")
    assert parts["tools"].pins(suites) == {"bookworm": {"*": -1}, "trixie-backports": {"*": -1}}
    assert parts["kernel-7.x"].pins(suites) == {"bookworm": {"*": -1}, "trixie-backports": {"linux-*": 900}}
    assert parts["kernel-6.1"].needs("linux-image-6.1.0-99-cloud-amd64")
    assert not parts["kernel-6.1"].needs("linux-base")


def test_the_tools_are_what_guests_run_and_no_more():
    tools = next(part for part in recipe.PARTS if part.name == "tools")
    for package in ("git", "rsync", "python3.13", "libpython3.13-stdlib", "libc6", "libssl3t64", "libpcre2-8-0"):
        assert tools.needs(package)
    for package in ("perl", "perl-base", "libperl5.40", "git-man", "libcurl3t64-gnutls", "libcrypt1", "dpkg"):
        assert not tools.needs(package)


def test_git_starts_itself_by_any_of_its_names(tmp_path):
    loader = tmp_path / recipe.LOADER
    loader.parent.mkdir(parents=True)
    loader.write_text('#!/bin/sh\necho "$GIT_EXEC_PATH" "$@"\n')
    loader.chmod(0o755)
    recipe._write_program(tmp_path / "git", recipe.GIT_WRAPPER)
    (tmp_path / "git-upload-pack").symlink_to("git")
    told = subprocess.run((tmp_path / "git-upload-pack", "a b"), capture_output=True, text=True, check=True).stdout
    libraries = f"--library-path {tmp_path / recipe.LIBRARIES}"
    assert told == f"{tmp_path} {libraries} --argv0 git-upload-pack {tmp_path / 'usr/bin/git'} a b\n"


def test_a_tool_that_does_not_run_fails_the_part(tmp_path):
    tool = recipe._write_program(tmp_path / "tool", "#!/bin/sh\necho libmissing.so.1: no such file >&2\nexit 127\n")
    with pytest.raises(PrepareError, match=r"the guests' tool does not run here \(libmissing"):
        recipe._prove(tool, [])


def test_the_wrapper_in_the_cache_is_no_qemu_of_the_machine(monkeypatch, tmp_path):
    wrapper = tmp_path / "qemu-system-x86_64"
    wrapper.write_text("#!/bin/sh\nexit 0\n")
    wrapper.chmod(0o755)
    monkeypatch.setenv("HDVKIT_QEMU", str(wrapper))
    assert recipe.own_qemu(tmp_path / "elsewhere") == wrapper
    assert recipe.own_qemu(wrapper) is None
