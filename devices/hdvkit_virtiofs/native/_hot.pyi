"""The module that build.py makes: its types are those of share.h, which mypy does not read."""

from typing import Any

ffi: Any
lib: Any
