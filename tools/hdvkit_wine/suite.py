"""Which of our tests run on Windows, and the doubles of system DLLs that they find there. Two tables."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from hdvkit_wine.errors import CompileFailed
from hdvkit_wine.windows import Windows

# Whole files: a test in one that does not belong on Windows skips itself, and says why. Left out is what needs Linux,
# and what proves the same there as here because it only reads sources or docs.
SUITE: tuple[str, ...] = (
    "tests/test_apertures.py",
    "tests/test_cli.py",
    "tests/test_driver.py",
    "tests/test_examples.py",
    "tests/test_exports.py",
    "tests/test_fuse_client.py",
    "tests/test_fuse_extensions.py",
    "tests/test_fuse_layouts.py",
    "tests/test_fuse_replies.py",
    "tests/test_fuse_requests.py",
    "tests/test_fuse_session.py",
    "tests/test_host.py",
    "tests/test_hostile.py",
    "tests/test_kit.py",
    "tests/test_memory.py",
    "tests/test_memory_filesystem.py",
    "tests/test_mount.py",
    "tests/test_observe.py",
    "tests/test_options.py",
    "tests/test_pci_capabilities.py",
    "tests/test_pci_config.py",
    "tests/test_pci_msix.py",
    "tests/test_plugins.py",
    "tests/test_queue.py",
    "tests/test_queue_arriving.py",
    "tests/test_service.py",
    "tests/test_transport_msix.py",
    "tests/test_virtio_chain.py",
    "tests/test_virtio_common.py",
    "tests/test_virtio_packed.py",
    "tests/test_virtio_split.py",
    "tests/test_virtio_status.py",
    "tests/test_virtio_transport.py",
    "tests/test_virtiofs.py",
    "tests/test_virtiofs_acls.py",
    "tests/test_virtiofs_authorize.py",
    "tests/test_virtiofs_flags.py",
    "tests/test_virtiofs_identity.py",
    "tests/test_virtiofs_interrupt.py",
    "tests/test_virtiofs_labels.py",
    "tests/test_virtiofs_lock_requests.py",
    "tests/test_virtiofs_making.py",
    "tests/test_virtiofs_opcodes.py",
    "tests/test_virtiofs_options.py",
    "tests/test_virtiofs_paths.py",
    "tests/test_virtiofs_quota.py",
    "tests/test_virtiofs_seldom.py",
    "tests/test_virtiofs_server.py",
    "tests/test_virtiofs_visibility.py",
    "tests/test_virtiofs_writeback.py",
    "tests/test_virtiofs_xattrs.py",
    "tests/test_windows_locks.py",
    "tests/test_windows_mount.py",
    "tests/test_windows_names.py",
    "tests/test_windows_passthrough.py",
    "tests/test_windows_tables.py",
    "tests/windows/test_double.py",
    "tests/windows/test_double_aborts.py",
    "tests/windows/test_double_devices.py",
    "tests/windows/test_double_hosts.py",
    "tests/windows/test_double_interrupts.py",
    "tests/windows/test_double_memory.py",
    "tests/windows/test_double_service.py",
    "tests/windows/test_double_worker.py",
    "tests/windows/test_hdv_abi.py",
    "tests/windows/test_hdv_backend.py",
    "tests/windows/test_hdv_checks.py",
    "tests/windows/test_hdv_machine.py",
    "tests/windows/test_hdv_traffic.py",
)

_KIT = "tests/windows/test_hdv_backend.py::test_it_is_all_that_devices_expect_of_a_platform"

WITHOUT: dict[str, str] = {
    # A test of the above, and why it is left out.
    **{
        f"{_KIT}[{variant}]": "slow in Wine, and what it varies is the same code on every system"
        for variant in ("worker-finds-nothing", "removal-works", "another-quota")
    },
}

DOUBLES: tuple[str, ...] = ("tests/windows/double/build.py",)
"""Programs that build DLLs: called with a folder and --windows, and with the compiler in MINGW_CC."""


def pytest_arguments() -> list[str]:
    """What to run the suite with: ``python`` and these words."""
    deselected = [f"--deselect={test}" for test in WITHOUT]
    # Without pytest's cache: it is that of the same tests on Linux.
    return ["-m", "pytest", "-p", "no:cacheprovider", "-m", "not install", *deselected, *SUITE]


def install_doubles(windows: Windows, builders: tuple[str, ...] = DOUBLES) -> list[str]:
    """Build all doubles and put them into ``system32``; returns their names.

    Raises:
        CompileFailed: One does not build.
    """
    installed = []
    compiler = " ".join(windows.assets.mingw.command("gcc"))
    for builder in builders:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                (sys.executable, windows.project.root / builder, folder, "--windows"),
                env={**os.environ, "MINGW_CC": compiler},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise CompileFailed(builder, done.stderr)
            for dll in sorted(Path(folder).glob("*.dll")):
                windows.install_dll(dll)
                installed.append(dll.name)
    return installed
