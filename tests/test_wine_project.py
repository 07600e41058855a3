"""What Windows is told about the working tree, and which wheels and files go into its Python. Fetches nothing."""

import importlib.metadata
import sys
import zipfile
from pathlib import Path

import pytest
from hdvkit_vm.errors import PrepareError
from hdvkit_wine import python, recipe, wheels
from hdvkit_wine.mingw import Mingw
from hdvkit_wine.project import Project
from hdvkit_wine.suite import SUITE, WITHOUT, pytest_arguments

ROOT = Path(__file__).parent.parent
PYPROJECT = """\
[project]
name = "mine"
version = "1.2"
dependencies = ["attrs>=23"]

[project.optional-dependencies]
test = ["pytest"]

[project.scripts]
mine = "mine.cli:main"

[project.entry-points.mine]
one = "mine.one"

[tool.hatch.build.targets.wheel]
packages = ["mine", "devices/one", "devices/two"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    return Project.read(tmp_path)


def test_a_project_is_what_its_pyproject_says(project: Project):
    assert (project.name, project.version) == ("mine", "1.2")
    assert project.requirements == ("attrs>=23", "pytest")
    assert project.folders == (project.root, project.root / "devices")


def test_its_plugins_are_found_as_if_it_were_installed(project: Project, tmp_path: Path):
    project.write_metadata(tmp_path / "metadata")
    found = next(iter(importlib.metadata.distributions(path=[str(tmp_path / "metadata")])))
    assert (found.name, found.version) == ("mine", "1.2")
    points = {(point.group, point.name, point.value) for point in found.entry_points}
    assert points == {("console_scripts", "mine", "mine.cli:main"), ("mine", "one", "mine.one")}


def test_ours_has_what_windows_needs():
    ours = Project.read(ROOT)
    assert {"hdvkit", "pytest11", "console_scripts"} <= set(ours.entry_points)
    assert {folder.name for folder in ours.folders} >= {ROOT.name, "devices", "plugins"}


def test_the_suite_names_tests_that_exist():
    assert [path for path in SUITE if not (ROOT / path.partition("::")[0]).exists()] == []
    assert sorted(set(SUITE)) == list(SUITE)
    for test in WITHOUT:
        file, _, name = test.partition("::")
        assert file in SUITE
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8")
    assert set(SUITE) < set(pytest_arguments())


def test_of_the_wheel_only_cpython_is_taken():
    names = [
        *("deploy_libs/python311.dll", "deploy_libs/_ssl.pyd", "deploy_libs/libffi-8.dll"),
        *("deploy_libs/VCRUNTIME140.dll", "deploy_libs/api-ms-win-crt-heap-l1-1-0.dll", "deploy_libs/tk86t.dll"),
        *("panda3d/core.pyd", "deploy_libs/readme.txt"),
    ]
    assert list(python.wanted(names)) == ["python311.dll", "_ssl.pyd", "libffi-8.dll"]


@pytest.mark.skipif(sys.platform == "win32", reason="a shell plays the compiler")
def test_a_python_is_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tag = f"python{sys.version_info.major}{sys.version_info.minor}"
    library = tmp_path / "stdlib"
    for name in ("os.py", "importlib/metadata/__init__.py", "test/test_os.py", "lib-dynload/_ssl.so"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text("x = 1\n")
    monkeypatch.setattr(python.sysconfig, "get_path", lambda _: str(library))
    wheel = tmp_path / "cpython.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"deploy_libs/{tag}.dll", "dll")
        archive.writestr("deploy_libs/_ssl.pyd", "pyd")
    for program in ("gcc", "windres"):
        script = tmp_path / f"x86_64-w64-mingw32-{program}"
        script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/{program}\n')
        script.chmod(0o755)
    python.build(wheel, Mingw(tmp_path), tmp_path / "python")
    made = {str(path.relative_to(tmp_path / "python")) for path in (tmp_path / "python").rglob("*") if path.is_file()}
    assert {f"{tag}.dll", "DLLs/_ssl.pyd", "Lib/os.py", "Lib/importlib/metadata/__init__.py"} <= made
    assert f"Lib/__pycache__/os.{sys.implementation.cache_tag}.pyc" in made
    assert not {name for name in made if "test" in name or "dynload" in name}
    assert f"-l{tag}" in (tmp_path / "gcc").read_text()


def test_a_wheel_without_a_cpython_is_refused(tmp_path: Path):
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("panda3d/core.pyd", "pyd")
    with pytest.raises(PrepareError, match=r"other\.whl has no python"):
        python.build(wheel, Mingw(tmp_path), tmp_path / "python")


@pytest.mark.parametrize("decorator", ["", "    @classmethod\n"])
def test_a_library_older_than_its_dll_is_mended(tmp_path: Path, decorator: str):
    module = tmp_path / "metadata.py"
    module.write_text(f"class Finder:\n{decorator}    def invalidate_caches(cls):\n        pass\n")
    python.mend(module)
    assert module.read_text() == "class Finder:\n    @classmethod\n    def invalidate_caches(cls):\n        pass\n"


def test_a_cpython_is_known_for_what_we_run_on():
    assert recipe.cpython((3, 11)).name == "panda3d"
    with pytest.raises(PrepareError, match=r"no Windows CPython 3\.9.*one of 3\.11, 3\.12, 3\.13"):
        recipe.cpython((3, 9))


def test_wine_knows_its_own_dlls_by_a_mark():
    dll = bytes(range(200))
    marked = recipe.as_builtin(dll)
    assert marked[64:96] == b"Wine builtin DLL" + bytes(16)
    assert (len(marked), marked[:64], marked[96:]) == (200, dll[:64], dll[96:])


@pytest.mark.parametrize(
    ("package", "wine", "mingw"),
    [
        ("libwine", True, False),
        ("libc6", False, False),
        ("libc6-dev", False, False),
        ("gcc-mingw-w64-x86-64-win32", False, True),
        ("mingw-w64-x86-64-dev", False, True),
        ("libstdc++6", False, True),
        ("libgcc-s1", False, True),
        ("libx11-6", False, False),
    ],
)
def test_of_a_closure_what_is_of_use_is_taken(package: str, wine: bool, mingw: bool):
    assert recipe.WINE.needs(package) is wine
    assert recipe.MINGW.needs(package) is mingw


def test_wheels_are_unpacked_compiled_and_without_scripts(tmp_path: Path):
    wheel = tmp_path / "one-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("one/__init__.py", "x = 1\n")
        archive.writestr("one-1.0.data/scripts/one", "#!python")
    wheels.unpack([wheel], tmp_path / "site")
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["one"]
    assert (tmp_path / f"site/one/__pycache__/__init__.{sys.implementation.cache_tag}.pyc").exists()


def fake_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have a shell script play the interpreter that runs pip."""
    shell = tmp_path / "interpreter"
    shell.write_text(f"#!/bin/sh\n{script}\n")
    shell.chmod(0o755)
    monkeypatch.setattr(wheels.sys, "executable", str(shell))


@pytest.mark.skipif(sys.platform == "win32", reason="a shell plays pip")
def test_what_pip_fetched_is_recorded_with_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "wheels"
    folder.mkdir()
    fake_pip(tmp_path, monkeypatch, f'printf abc > {folder}/one-1.0-py3-none-any.whl; echo "$@" > {tmp_path}/words')
    (locked,) = wheels.download(["one"], folder)
    assert (locked.package, locked.version, locked.sha256[:8]) == ("one", "1.0", "ba7816bf")
    words = (tmp_path / "words").read_text()
    assert "download" in words
    assert "--platform win_amd64" in words
    assert "--only-binary :all:" in words


@pytest.mark.skipif(sys.platform == "win32", reason="a shell plays pip")
def test_a_pinned_wheel_is_asked_for_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "wheels"
    fake_pip(tmp_path, monkeypatch, f"touch {folder}/one-1.0-cp311-cp311-win_amd64.whl")
    assert wheels.download_pinned(recipe.Wheel("one", "1.0", "ab"), folder).parent == folder
    assert (folder / "requirements.txt").read_text() == "one==1.0 --hash=sha256:ab\n"


@pytest.mark.skipif(sys.platform == "win32", reason="a shell plays pip")
def test_what_pip_complains_about_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake_pip(tmp_path, monkeypatch, "echo 'WARNING: slow' >&2; echo 'ERROR: No matching distribution' >&2; exit 1")
    with pytest.raises(PrepareError, match="No matching distribution"):
        wheels.download(["nothing"], tmp_path)
