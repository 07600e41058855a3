"""Several users at once: what each makes is its own, and nobody gets what another may have."""

import os
import shutil
from pathlib import Path

import pytest
from guest_files import LONG, Folder, booted, tools
from hdvkit_virtiofs import VirtioFs
from hdvkit_vm import Assets

PROGRAM = Path(__file__).parent / "programs" / "work_as_users.py"
ROUNDS = 300 if LONG else 12
OPTIONS = [{}, {"cache": "never", "queues": 2}, {"posix_acl": True, "writeback": True}]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to the guest's users")
@pytest.mark.parametrize("options", OPTIONS if LONG else OPTIONS[:1], ids=str)
async def test_users_beside_each_other(
    kernel: str, assets: Assets, room: Path, log: Path, options: dict[str, object]
) -> None:
    folder = room / "share"
    folder.mkdir(mode=0o755)
    shutil.copy(PROGRAM, folder)
    shares = [VirtioFs(source=folder, tag="share", **options), tools(assets)]
    async with booted(kernel, assets, room, log, shares, cpus=2) as (vm, _):
        await Folder(vm, folder, "/share").sh(f"mkdir work; /tools/python work_as_users.py /share/work {ROUNDS}")
    left = {(path.stat().st_uid, path.stat().st_mode & 0o7777) for path in folder.glob("work/tool-*")}
    assert left == {(user, 0o777) for user in (0, 1000, 1001, 65534)}
