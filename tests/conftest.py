"""For all tests: those about Linux alone are not even imported elsewhere, and no example is too slow for hypothesis."""

import sys

from hypothesis import settings

LINUX = {
    # What in them other systems lack.
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

settings.register_profile("hdvkit", deadline=None)  # machines are busy, and none is as slow as an emulated one
settings.load_profile("hdvkit")
