"""The module that build.py makes: its types are those of kicks.h, which mypy does not read."""

from typing import Any

ffi: Any
lib: Any
