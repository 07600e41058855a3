"""For all tests: those about Linux alone are not even imported elsewhere, and no example is too slow for hypothesis."""

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

from hdvkit import UsageError
from hdvkit.native import native

LINUX = {
    # What in them other systems lack.
    "bench": "eventfds and memfds",
    "test_building.py": "a compiler",
    "e2e": "KVM or its emulation, and sockets with descriptors in them",
    "test_hostile_fuse.py": "a shared directory with links, device nodes and owners",
    "test_passthrough.py": "a shared directory",
    "test_virtiofs_controls.py": "ioctl(2)",
    "test_virtiofs_credentials.py": "users and groups",
    "test_virtiofs_descriptors.py": "descriptors and their limits",
    "test_virtiofs_devices.py": "device nodes",
    "test_virtiofs_host_xattrs.py": "extended attributes",
    "test_virtiofs_locks.py": "locks of open files",
    "test_virtiofs_model.py": "a directory to compare with, by system calls",
    "test_vm_agent.py": "vsock and a shell",
    "test_vm_cache.py": "flock(2)",
    "test_vm_initramfs.py": "cpio and links",
    "test_vm_main.py": "QEMU",
    "test_vm_process.py": "QEMU",
    "test_vm_sources.py": "flock(2)",
    "test_wine_cache.py": "Wine",
    "test_wine_project.py": "Wine",
    "test_wine_windows.py": "Wine",
    "vfio_user": "sockets with descriptors in them",
}

collect_ignore = [] if sys.platform == "linux" else list(LINUX)

if sys.platform == "win32":
    import ctypes
    from asyncio.windows_events import IocpProactor

    HEARTBEAT = 0.5
    _select = IocpProactor.select

    def _select_not_for_long(self: IocpProactor, timeout: float | None = None) -> object:
        """Wine loses the wake-up of a loop that sleeps, now and then, when another thread has something for it."""
        return _select(self, HEARTBEAT if timeout is None else min(timeout, HEARTBEAT))

    if hasattr(ctypes.WinDLL("ntdll"), "wine_get_version"):
        IocpProactor.select = _select_not_for_long

settings.register_profile("hdvkit", deadline=None)  # machines are busy, and none is as slow as an emulated one
settings.load_profile("hdvkit")


@pytest.fixture(scope="module", params=["0", "1"], ids=["python", "native"])
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Rings in Python, then in C: for tests of what both must do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HDVKIT_NATIVE", request.param)
        try:
            native()
        except UsageError as error:
            pytest.skip(str(error))
        yield
