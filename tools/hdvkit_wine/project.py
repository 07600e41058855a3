"""The working tree as Windows sees it: what it requires, where its packages lie, and its entry points.

Reads pyproject.toml and writes metadata; installs nothing.
"""

import tomllib
from pathlib import Path
from typing import Any

import attrs

ROOT = Path(__file__).parent.parent.parent


@attrs.frozen
class Project:
    """What ``pyproject.toml`` says that a Python on Windows must know."""

    root: Path
    name: str
    version: str
    requirements: tuple[str, ...]
    folders: tuple[Path, ...]  # to import from
    entry_points: dict[str, dict[str, str]]

    @classmethod
    def read(cls, root: Path = ROOT, extra: str = "test") -> "Project":
        """The project in ``root``, with the requirements of one of its extras."""
        said: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        project = said["project"]
        packages = said["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
        points = dict(project.get("entry-points", {}))
        if scripts := project.get("scripts"):
            points["console_scripts"] = scripts
        return cls(
            root,
            project["name"],
            project["version"],
            (*project["dependencies"], *project["optional-dependencies"][extra]),
            tuple(dict.fromkeys((root / package).parent for package in packages)),
            points,
        )

    def write_metadata(self, folder: Path) -> None:
        """Write a ``.dist-info`` into a folder to import from, so that plugins are found as if it were installed."""
        place = folder / f"{self.name}-{self.version}.dist-info"
        place.mkdir(parents=True)
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n")
        sections = (
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
            for group, points in self.entry_points.items()
        )
        (place / "entry_points.txt").write_text("\n".join(sections), encoding="utf-8")
