"""What of the cache for Windows counts as done, and what the command says about it. Nothing is fetched."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hdvkit_vm.cache import Lock, LockedPackage, LockedPart
from hdvkit_vm.errors import PrepareError
from hdvkit_wine import provision, recipe
from hdvkit_wine.__main__ import cli
from hdvkit_wine.mingw import Mingw
from hdvkit_wine.project import Project
from hdvkit_wine.provision import PREFIX, PYTHON, SITE
from hdvkit_wine.wine import Wine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Wine here is that of Linux")

ORDER = ["mingw", "wine", PREFIX, PYTHON, SITE]


@pytest.fixture
def project() -> Project:
    return Project.read()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Project) -> Path:
    """A cache in which everything is done, without its contents."""
    for name in ("HDVKIT_WINE", "HDVKIT_MINGW"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HDVKIT_CACHE", str(tmp_path))
    for name in ORDER:
        (tmp_path / name).mkdir()
    lock = Lock(
        {
            "qemu": LockedPart(1, "then"),
            "mingw": LockedPart(recipe.MINGW.recipe, "then", [], {"own": "", "version": "gcc 12"}),
            "wine": LockedPart(recipe.WINE.recipe, "then", [], {"own": "", "version": "wine-8.0"}),
            PREFIX: LockedPart(recipe.PREFIX_RECIPE, "then", [], {"wine": "wine-8.0 of then"}),
            PYTHON: LockedPart(recipe.PYTHON_RECIPE, "then", [], {"python": "3.11.9"}),
        }
    )
    requirements = {"requirements": provision._requirements(project)}
    site = LockedPart(recipe.SITE_RECIPE, "then", [LockedPackage("attrs", "26", "ab")], requirements)
    lock.with_parts({SITE: site}).write(tmp_path)
    return tmp_path


def stale(cache: Path, project: Project, changed: dict[str, LockedPart] | None = None) -> list[str]:
    return provision.stale(cache, Lock.read(cache).with_parts(changed or {}), project)


def test_a_complete_cache_is_used_as_it_is(cache: Path, project: Project):
    assert stale(cache, project) == []
    assets = provision.prepare(cache)
    assert assets.python == cache / PYTHON
    assert assets.wine == Wine.unpacked(cache / "wine")


def test_an_empty_cache_has_everything_to_be_done_in_order(tmp_path: Path, project: Project):
    assert provision.stale(tmp_path, Lock(), project) == ORDER
    assert provision.prepared(tmp_path, project=project) is None


def test_another_wine_makes_its_prefix_stale(cache: Path, project: Project):
    newer = LockedPart(recipe.WINE.recipe, "now", [], {"own": "", "version": "wine-8.0"})
    assert stale(cache, project, {"wine": newer}) == [PREFIX]


def test_other_requirements_make_the_wheels_stale(cache: Path, project: Project, tmp_path: Path):
    text = (project.root / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(text.replace("attrs>=23.2", "attrs>=99"))
    assert stale(cache, Project.read(tmp_path)) == [SITE]


def test_a_missing_folder_or_an_older_recipe_makes_a_part_stale(cache: Path, project: Project):
    (cache / SITE).rmdir()
    assert stale(cache, project, {PYTHON: LockedPart(0, "then")}) == [PYTHON, SITE]


def test_a_named_wine_takes_the_place_of_the_fetched_one(cache: Path, project: Project, monkeypatch, tmp_path: Path):
    loader = program(tmp_path / "own/wine64", "echo wine-9.0")
    program(tmp_path / "own/wineserver64", "true")
    monkeypatch.setenv("HDVKIT_WINE", str(loader))
    assert stale(cache, project) == ["wine"]
    assert Wine.own() == Wine(loader, loader.with_name("wineserver64"))
    assert provision._programs(cache, cache, project, lambda line: None)["wine"].facts == {
        "own": str(loader),
        "version": "wine-9.0",
    }


@pytest.mark.parametrize(("variable", "kind"), [("HDVKIT_WINE", Wine), ("HDVKIT_MINGW", Mingw)])
def test_a_named_program_that_is_none_is_refused(variable, kind, monkeypatch, tmp_path: Path):
    other = program(tmp_path / "other", "true")
    for named in (str(other), str(tmp_path / "missing")):
        monkeypatch.setenv(variable, named)
        with pytest.raises(PrepareError, match=f"{variable} is {named}"):
            kind.own()


def test_programs_that_do_not_run_say_what_is_missing(tmp_path: Path):
    broken = program(tmp_path / "wine64", "echo no GLIBC_2.36 >&2; exit 1")
    with pytest.raises(PrepareError, match=r"no GLIBC_2\.36.*install wine64"):
        Wine(broken, broken).version()
    with pytest.raises(PrepareError, match="install gcc-mingw-w64-x86-64"):
        Mingw(tmp_path).version()


def test_a_stage_replaces_what_was_there_and_leaves_the_rest(cache: Path):
    (cache / SITE / "old").touch()
    (cache / "place" / SITE).mkdir(parents=True)
    provision._commit({SITE: LockedPart(2, "now")}, cache, cache / "place")
    assert not list((cache / SITE).iterdir())
    assert Lock.read(cache).parts[SITE] == LockedPart(2, "now")
    assert set(Lock.read(cache).parts) == {*ORDER, "qemu"}


def test_prepare_tells_what_there_is(cache: Path):
    lines = CliRunner().invoke(cli, ["prepare"]).output.splitlines()
    assert lines[:3] == [f"cache    {cache}", f"wine     {cache}/wine/usr/lib/wine/wine64", "         wine-8.0"]
    assert lines[-3:] == [f"python   {cache}/{PYTHON}", "         3.11.9", "         attrs 26"]


def test_prepare_tells_programs_everything(cache: Path):
    told = json.loads(CliRunner().invoke(cli, ["prepare", "--json"]).output)
    assert told["python"] == f"{cache}/{PYTHON}"
    assert told["wine"]["loader"] == f"{cache}/wine/usr/lib/wine/wine64"
    assert told["lock"] == json.loads((cache / "lock.json").read_text())


def program(place: Path, script: str) -> Path:
    """A shell script that plays a program."""
    place.parent.mkdir(exist_ok=True)
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)
    return place
