"""One Windows: its environment, its copy of the prefix, its runs. A shell plays Wine, so nothing of Windows runs."""

import fcntl
import io
import sys
from pathlib import Path

import pytest
from hdvkit_vm.cache import Lock
from hdvkit_vm.errors import PrepareError
from hdvkit_wine import Assets, CompileFailed, Mingw, RunTimedOut, Windows, WineError, compile_dll, compile_program
from hdvkit_wine.project import Project
from hdvkit_wine.suite import install_doubles
from hdvkit_wine.windows import sweep
from hdvkit_wine.wine import Wine, windows_path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Wine here is that of Linux")

# "cmd /q" is the program that waits; a Python ends with the code in its first word, or hangs.
LOADER = """\
echo "$*" >> "$WINEPREFIX/calls"
case "$*" in
    "cmd /q") exec cat ;;
    *"python.exe forever"*) echo begun; exec sleep 1000 ;;
    *python.exe*) printf 'said\\r\\n%s\\n' "$PYTHONPATH"; exit $2 ;;
esac
"""
SERVER = 'echo "server $*" >> "$WINEPREFIX/calls"'


@pytest.fixture
def assets(tmp_path: Path) -> Assets:
    wine = Wine(program(tmp_path / "wine64", LOADER), program(tmp_path / "wineserver64", SERVER), (tmp_path / "lib",))
    prefix = tmp_path / "prefix"
    (prefix / "drive_c/windows/system32").mkdir(parents=True)
    (prefix / "drive_c/windows/system32/user32.dll").write_text("theirs")
    (prefix / "system.reg").write_text("registry")
    return Assets(tmp_path, wine, Mingw(tmp_path), prefix, tmp_path / "python", tmp_path / "site", Lock())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "tree"
    root.mkdir()
    return Project(root, "mine", "1", (), (root,), {})


def test_a_run_has_a_code_and_one_text(assets: Assets, project: Project):
    heard = io.BytesIO()
    with Windows(assets, project=project) as windows:
        done = windows.run(["7"], timeout=20, echo=heard)
    assert done.code == 7
    said, path = done.output.splitlines()
    assert said == "said"
    assert path.split(";")[1:] == [windows_path(project.root), windows_path(assets.site)]
    assert heard.getvalue().startswith(b"said\r\n")


def test_a_run_that_hangs_is_killed_with_all_the_rest(assets: Assets, project: Project):
    with Windows(assets, project=project) as windows:
        with pytest.raises(RunTimedOut, match=r"(?s)0\.5 s of: python forever.*begun") as caught:
            windows.run(["forever"], timeout=0.5)
        assert caught.value.output == "begun\n"
        assert "server --kill" in (windows.prefix / "calls").read_text()
        assert windows.run(["0"], timeout=20).code == 0  # it is started again


def test_each_is_a_copy_that_goes_away(assets: Assets, project: Project, tmp_path: Path):
    dll = tmp_path / "double.dll"
    dll.write_text("ours")
    with Windows(assets, project=project) as one, Windows(assets, project=project) as other:
        one.install_dll(dll, "user32.dll")
        one.install_dll(dll)
        (one.prefix / "system.reg").write_text("changed")
        assert (one.system32 / "user32.dll").read_text() == (one.system32 / "double.dll").read_text() == "ours"
        assert (other.system32 / "user32.dll").read_text() == "theirs"
        assert (other.prefix / "system.reg").read_text() == "registry"
        places = [one.prefix.parent, other.prefix.parent]
    assert (assets.prefix / "drive_c/windows/system32/user32.dll").read_text() == "theirs"
    assert not any(place.exists() for place in places)


def test_it_is_used_with_with(assets: Assets, project: Project):
    with pytest.raises(WineError, match="with"):
        Windows(assets, project=project).run(["0"], timeout=1)


def test_what_the_dead_have_left_is_removed_and_what_is_in_use_is_not(assets: Assets, tmp_path: Path):
    (tmp_path / "wineserver64").write_text(f'#!/bin/sh\necho "$@" "$WINEPREFIX" >> {tmp_path}/killed\n')
    for name in (".windows-dead", ".windows-used"):
        (tmp_path / name / "prefix").mkdir(parents=True)
        (tmp_path / name / "alive").touch()
    with (tmp_path / ".windows-used/alive").open() as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        sweep(assets)
        assert [path.name for path in tmp_path.glob(".windows-*")] == [".windows-used"]
    assert (tmp_path / "killed").read_text() == f"--kill {tmp_path}/.windows-dead/prefix\n"


def test_the_environment_keeps_ours_out(tmp_path: Path):
    wine = Wine(tmp_path / "wine64", tmp_path / "wineserver64", (tmp_path / "a", tmp_path / "b"))
    ours = {
        "PYTHONHOME": "x",
        "DISPLAY": ":0",
        "TMPDIR": "/tmp",
        "LD_PRELOAD": "x",
        "HDVKIT_MODEL": "full",
        "HOME": "/",
    }
    environment = wine.environment(tmp_path, ours)
    assert not {"PYTHONHOME", "DISPLAY", "TMPDIR", "LD_PRELOAD"} & set(environment)
    assert environment["HDVKIT_MODEL"] == "full"
    assert environment["HOME"] == environment["WINEPREFIX"] == str(tmp_path)
    assert environment["LD_LIBRARY_PATH"] == f"{tmp_path}/a:{tmp_path}/b"


def test_paths_are_on_drive_z():
    assert windows_path(Path("/a/b c")) == r"Z:\a\b c"


def test_a_prefix_that_came_out_without_a_registry_is_no_prefix(assets: Assets, tmp_path: Path):
    with pytest.raises(PrepareError, match="could not set up a prefix"):
        assets.wine.make_prefix(tmp_path / "new")


def test_a_prefix_links_to_no_home(tmp_path: Path):
    loader = program(
        tmp_path / "wine64",
        'mkdir -p "$WINEPREFIX/drive_c/users/me"\ntouch "$WINEPREFIX/system.reg"\n'
        'ln -sfn "$HOME" "$WINEPREFIX/drive_c/users/me/Documents"',
    )
    Wine(loader, program(tmp_path / "wineserver64", "true")).make_prefix(tmp_path / "new")
    documents = tmp_path / "new/drive_c/users/me/Documents"
    assert documents.is_dir()
    assert not documents.is_symlink()
    assert (tmp_path / "new/.update-timestamp").read_text() == "disable\n"


def test_the_compiler_is_told_what_to_make(tmp_path: Path):
    mingw = compiler(tmp_path, f'echo "$@" > {tmp_path}/words')
    target = compile_dll(
        mingw, [Path("a.c")], tmp_path / "a.dll", exports=Path("a.def"), definitions=["X=1"], libraries=["ws2_32"]
    )
    words = (tmp_path / "words").read_text().split()
    assert words[words.index("-o") :] == ["-o", str(target), "-shared", "-DX=1", "a.c", "a.def", "-lws2_32"]
    compile_program(mingw, [Path("b.c"), Path("b.rc")], tmp_path / "b.exe", library_folder=tmp_path)
    words = (tmp_path / "words").read_text().split()
    assert "-municode" in words
    assert words[-1] == f"-L{tmp_path}"
    assert words[-2].endswith("/b.o")


def test_what_the_compiler_says_is_told(tmp_path: Path):
    mingw = compiler(tmp_path, "echo 'a.c:1: error: no such thing' >&2; exit 1")
    with pytest.raises(CompileFailed, match=r"(?s)a\.dll does not compile.*no such thing"):
        compile_dll(mingw, [Path("a.c")], tmp_path / "a.dll")


def test_doubles_are_built_and_installed(assets: Assets, project: Project):
    (project.root / "build.py").write_text(
        "import os, pathlib, sys\n"
        "assert sys.argv[2:] == ['--windows'] and os.environ['MINGW_CC'].endswith('x86_64-w64-mingw32-gcc')\n"
        "for name in ('vmdevicehost.dll', 'double.o'):\n"
        "    pathlib.Path(sys.argv[1], name).write_text('double')\n"
    )
    (project.root / "broken.py").write_text("raise SystemExit('no text.c')")
    with Windows(assets, project=project) as windows:
        assert install_doubles(windows, ("build.py",)) == ["vmdevicehost.dll"]
        assert (windows.system32 / "vmdevicehost.dll").read_text() == "double"
        with pytest.raises(CompileFailed, match=r"(?s)broken\.py.*no text\.c"):
            install_doubles(windows, ("broken.py",))


def test_a_compiler_of_ours_is_told_where_its_libraries_are(tmp_path: Path):
    assert Mingw(tmp_path).command("gcc") == [f"{tmp_path}/x86_64-w64-mingw32-gcc"]
    assert Mingw(tmp_path, (tmp_path / "lib",)).command("ld")[:2] == ["env", f"LD_LIBRARY_PATH={tmp_path}/lib"]


def compiler(folder: Path, script: str) -> Mingw:
    """A mingw whose programs are shell scripts."""
    program(folder / "bin/x86_64-w64-mingw32-gcc", script)
    program(folder / "bin/x86_64-w64-mingw32-windres", "true")
    return Mingw(folder / "bin")


def program(place: Path, script: str) -> Path:
    """A shell script that plays a program."""
    place.parent.mkdir(exist_ok=True)
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)
    return place
