"""Fixtures for tests of devices; pytest finds them where hdvkit is installed.

They are asynchronous: install pytest-asyncio. A host is entered in the fixture through its own supervisor task, so
it may be used and closed from any test.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hdvkit import DeviceHost
    from hdvkit.testing.guest import Guest

try:
    import pytest_asyncio
except ImportError:  # the package works without; only its fixtures do not
    pytest_asyncio = None  # type: ignore[assignment]  # an optional dependency

if pytest_asyncio is not None:

    @pytest_asyncio.fixture
    async def hdvkit_host() -> "AsyncIterator[DeviceHost]":
        """An open ``sim`` host."""
        from hdvkit import open_host

        async with open_host("sim") as host:
            yield host

    @pytest.fixture
    def hdvkit_guest(hdvkit_host: "DeviceHost") -> "Guest":
        """The guest in the machine of ``hdvkit_host``."""
        from hdvkit.testing.guest import Guest

        return Guest.of(hdvkit_host)
