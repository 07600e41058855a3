"""What would crash or corrupt on Windows ends the process, and says why."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from double_misuse import CASES, LINUX

MISUSE = Path(__file__).with_name("double_misuse.py")
TIMEOUT = 120


@pytest.mark.parametrize("case", CASES)
def test_misuse_ends_the_process(case: str) -> None:
    if case in LINUX and sys.platform == "win32":
        pytest.skip("Windows' own")
    says = CASES[case][1]
    # A process that ends like this leaves no coverage, and a core is of no use.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, str(MISUSE), case],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment,
        check=False,
    )
    if sys.platform != "win32":
        assert done.returncode == -(signal.SIGABRT if says else signal.SIGSEGV), done.stderr
    assert done.returncode != 0
    if says:
        [line] = [line for line in done.stderr.splitlines() if line.startswith("hdvdouble: ")]
        assert says in line


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has an apartment of its own")
def test_without_an_apartment_the_worker_is_not_reached() -> None:
    program = (
        "from double_bench import *\n"
        "with bench(faults=True) as b:\n"
        "    platform = b.platform\n"
        "    code, _ = platform.out(b.lib.GetVmWorkerProcess, platform.guid(VM), platform.guid(IID_ACCESS))\n"
        "    print(hex(code), b.double.warnings())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=MISUSE.parent, capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    assert done.stdout.startswith("0x800401f0 ")
    assert "CoIncrementMTAUsage" in done.stdout
