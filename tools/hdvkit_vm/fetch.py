"""Parts from Debian: resolves their packages, downloads them in one go, builds. Decides nothing about when.

Blocking throughout.
"""

import datetime
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hdvkit_vm.apt import Package, PrivateApt, machine_mirror
from hdvkit_vm.cache import LockedPackage, LockedPart
from hdvkit_vm.errors import PrepareError
from hdvkit_vm.recipe import Part

Tell = Callable[[str], None]


def fetch_and_build(parts: Sequence[Part], place: Path, tell: Tell) -> dict[str, LockedPart]:
    """Build each part in a folder of its name in ``place``, and say how for the record.

    Raises:
        PrepareError: Something cannot be fetched or built here.
    """
    if platform.machine() != "x86_64":
        raise PrepareError(f"this is a {platform.machine()} machine, and what comes from Debian here needs x86_64")
    suites = sorted({suite for part in parts for suite in part.suites})
    tell(f"reading the package lists of {', '.join(suites)}")
    apt = PrivateApt(place / "apt", machine_mirror(), suites)
    apt.update()
    # Two at a time: each is one processor's work for seconds.
    with ThreadPoolExecutor(2) as pool:
        resolved = dict(zip(parts, pool.map(lambda part: _resolve(apt, part, suites), parts), strict=True))
        archives = place / "archives"
        archives.mkdir()
        wanted = {package for packages in resolved.values() for package in packages}
        tell(f"downloading {len(wanted)} packages")
        apt.download(wanted, archives)
        tell("unpacking")
        built = pool.map(lambda part: _build_part(part, resolved[part], archives, place / part.name), parts)
        return {part.name: locked for part, locked in zip(parts, built, strict=True)}


def _resolve(apt: PrivateApt, part: Part, suites: Sequence[str]) -> list[Package]:
    packages = [one for one in apt.resolve(part.name, part.roots, part.pins(suites)) if part.needs(one.name)]
    if not packages:
        raise PrepareError(
            f"Debian's {' and '.join(part.suites)} have no package like {part.only or part.roots[0]}: "
            "the distribution has moved on, and the recipe must follow"
        )
    return packages


def _build_part(part: Part, packages: Sequence[Package], archives: Path, into: Path) -> LockedPart:
    facts = part.build([archives / one.file for one in packages], into)
    locked = [LockedPackage(one.name, one.version, one.checksum(archives)) for one in packages]
    return LockedPart(part.recipe, now(), locked, facts)


def now() -> str:
    """The time as the record has it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
