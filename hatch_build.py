"""What an installation does besides copying: it builds the C of the data path, where there is a compiler.

Without one hdvkit is installed all the same, and uses Python; ``hdvkit check`` says so.
"""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PARTS = (
    "hdvkit/native/build.py",
    "devices/hdvkit_virtiofs/native/build.py",
    "plugins/hdvkit_vfio_user/native/build.py",
)
SWITCH = "HDVKIT_BUILD_NATIVE"
"""Environment: 0 builds no C, 1 fails where it cannot be built, as wheels must."""


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # its parameter is of hatchling's own concern
    """Builds each part in place, and puts what was built into the wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before the files of a wheel are collected."""
        wanted = os.environ.get(SWITCH, "")
        if self.target_name != "wheel" or wanted == "0":
            return
        for part in PARTS:
            try:
                built = _build(Path(self.root, part))
            except Exception as error:  # whatever compilers and distutils raise
                if wanted == "1":
                    raise
                self.app.display_warning(f"{part}: {error}; hdvkit will use Python instead of C")
                return
            build_data["artifacts"].append(str(built.relative_to(self.root)))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _build(script: Path) -> Path:
    """Run a part's ``build``, without importing what it is to become a part of."""
    spec = importlib.util.spec_from_file_location(f"_{script.parent.name}_build", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    built = module.build()
    assert isinstance(built, Path)
    return built
