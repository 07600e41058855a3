"""Sets the cache up for Windows: finds out what is missing, fetches it, builds it, and records it, stage by stage.

Blocking throughout. The cache, its lock and its record are those of ``hdvkit_vm``; the parts have other names.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from hdvkit_vm.cache import Lock, LockedPackage, LockedPart, building, default_folder, install, locked
from hdvkit_vm.errors import PrepareError
from hdvkit_vm.fetch import Tell, fetch_and_build, now

from hdvkit_wine import python, recipe, wheels
from hdvkit_wine.mingw import STRIPPED, Mingw
from hdvkit_wine.project import Project
from hdvkit_wine.wine import Wine

PREFIX = "wine-prefix"
PYTHON = f"windows-python-{wheels.VERSION}"
SITE = f"windows-site-{wheels.VERSION}"

Built = Mapping[str, LockedPart]


@attrs.frozen
class Assets:
    """What a Windows is made of: programs of this machine, and folders to copy or to read."""

    folder: Path
    wine: Wine
    mingw: Mingw
    prefix: Path
    python: Path
    site: Path
    lock: Lock


def prepare(folder: Path | None = None, *, project: Project | None = None, tell: Tell = lambda line: None) -> Assets:
    """Set the cache up, unless it is, and return what is in it. Waits for other processes that do the same.

    Raises:
        PrepareError: It cannot be set up here.
    """
    folder = folder or default_folder()
    project = project or Project.read()
    assets = prepared(folder, project=project)
    if assets is None:
        recipe.cpython()  # before anything is fetched: whether there is one at all
        with locked(folder):
            for stage in (_programs, _prefix, _python, _site):
                with building(folder) as place:
                    _commit(stage(folder, place, project, tell), folder, place)
        assets = prepared(folder, project=project)
    if assets is None:
        raise PrepareError(f"the cache {folder} was changed while it was set up: try again")
    return assets


def prepared(folder: Path | None = None, *, project: Project | None = None) -> Assets | None:
    """What is in the cache, if it is complete and fits the project's requirements. Quick, and builds nothing."""
    folder = folder or default_folder()
    lock = Lock.read(folder)
    if stale(folder, lock, project or Project.read()):
        return None
    return _assets(folder, lock)


def stale(folder: Path, lock: Lock, project: Project) -> list[str]:
    """The parts that are missing, came from an older recipe, or were made for something else than is wanted now."""
    wanted = {
        recipe.MINGW.name: (recipe.MINGW.recipe, {"own": str(_own_mingw() or "")}),
        recipe.WINE.name: (recipe.WINE.recipe, {"own": str(_own_wine() or "")}),
        PREFIX: (recipe.PREFIX_RECIPE, {"wine": _wine_behind(lock)}),
        PYTHON: (recipe.PYTHON_RECIPE, {}),
        SITE: (recipe.SITE_RECIPE, {"requirements": _requirements(project)}),
    }
    return [name for name, (number, facts) in wanted.items() if not _is_done(folder, name, lock, number, facts)]


def _is_done(folder: Path, name: str, lock: Lock, number: int, facts: Mapping[str, str]) -> bool:
    done = lock.parts.get(name)
    if done is None or done.recipe != number or any(done.facts.get(fact) != facts[fact] for fact in facts):
        return False
    return (folder / name).exists() or bool(done.facts.get("own"))


def _own_wine() -> Path | None:
    own = Wine.own()
    return own.loader if own else None


def _own_mingw() -> Path | None:
    own = Mingw.own()
    return own.programs if own else None


def _wine_behind(lock: Lock) -> str:
    """Which Wine makes the prefix: a newer one would set up every copy again."""
    wine = lock.parts.get(recipe.WINE.name)
    return f"{wine.facts.get('version')} of {wine.date}" if wine else ""


def _requirements(project: Project) -> str:
    return " ".join(sorted((*project.requirements, *recipe.MARKED)))


def _assets(folder: Path, lock: Lock) -> Assets:
    return Assets(folder, _wine(folder), _mingw(folder), folder / PREFIX, folder / PYTHON, folder / SITE, lock)


def _wine(folder: Path) -> Wine:
    return Wine.own() or Wine.unpacked(folder / recipe.WINE.name)


def _mingw(folder: Path) -> Mingw:
    return Mingw.own() or Mingw.unpacked(folder / recipe.MINGW.name)


def _programs(folder: Path, place: Path, project: Project, tell: Tell) -> Built:
    """Wine and the compiler, out of packages, unless the machine's own are named."""
    missing = stale(folder, Lock.read(folder), project)
    own = {recipe.WINE.name: _own_wine(), recipe.MINGW.name: _own_mingw()}
    todo = [part for part in (recipe.WINE, recipe.MINGW) if part.name in missing]
    fetched = [part for part in todo if own[part.name] is None]
    done = fetch_and_build(fetched, place, tell) if fetched else {}
    mingw = _mingw(place if recipe.MINGW in fetched else folder)
    if recipe.WINE in fetched:
        tell("taking the debugging symbols out of Wine")
        mingw.strip(_strippable(place / recipe.WINE.name / recipe.WINDOWS_FILES))
    built = {}
    for part in todo:
        program = mingw if part is recipe.MINGW else _wine(place)
        facts = {"own": str(own[part.name] or ""), "version": program.version()}
        packages = done[part.name].packages if part in fetched else []
        built[part.name] = LockedPart(part.recipe, now(), packages, facts)
    return built


def _strippable(folder: Path) -> Sequence[Path]:
    return [file for file in sorted(folder.iterdir()) if file.suffix in STRIPPED]


def _prefix(folder: Path, place: Path, project: Project, tell: Tell) -> Built:
    lock = Lock.read(folder)
    if PREFIX not in stale(folder, lock, project):
        return {}
    tell("setting Windows up")
    _assets(folder, lock).wine.make_prefix(place / PREFIX)
    return {PREFIX: LockedPart(recipe.PREFIX_RECIPE, now(), [], {"wine": _wine_behind(lock)})}


def _python(folder: Path, place: Path, project: Project, tell: Tell) -> Built:
    lock = Lock.read(folder)
    if PYTHON not in stale(folder, lock, project):
        return {}
    pinned = recipe.cpython()
    tell(f"downloading {pinned.name} for the CPython in it")
    wheel = wheels.download_pinned(pinned, place / "wheel")
    tell("putting Python together")
    assets = _assets(folder, lock)
    python.build(wheel, assets.mingw, place / PYTHON)
    version = python.prove(assets.wine, assets.prefix, place / PYTHON)
    package = LockedPackage(pinned.name, pinned.version, pinned.sha256)
    return {PYTHON: LockedPart(recipe.PYTHON_RECIPE, now(), [package], {"python": version})}


def _site(folder: Path, place: Path, project: Project, tell: Tell) -> Built:
    if SITE not in stale(folder, Lock.read(folder), project):
        return {}
    tell("downloading the wheels of our requirements")
    packages = wheels.download([*project.requirements, *recipe.MARKED], place / "wheels")
    wheels.unpack(sorted((place / "wheels").glob("*.whl")), place / SITE)
    return {SITE: LockedPart(recipe.SITE_RECIPE, now(), packages, {"requirements": _requirements(project)})}


def _commit(built: Built, folder: Path, place: Path) -> None:
    """Put what a stage has built into the cache: what was there is invalid before what comes is valid."""
    lock = Lock.read(folder).without(set(built))
    if built:
        lock.write(folder)
    for name in built:
        if (place / name).exists():
            install(place / name, folder / name)
    if built:
        lock.with_parts(built).write(folder)
