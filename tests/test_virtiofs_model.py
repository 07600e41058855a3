"""A mounted share against a plain directory: whatever is done to both, both answer alike and end alike.

Two shares of one directory, over a split and a packed ring, take the operations in turn; `virtiofs_model` has the
rules. The default profile fits a test run; HDVKIT_MODEL=full is the long one, HDVKIT_MODEL=shrink looks for the
shortest way to a failure. With -o log_cli=1 --log-level=INFO one reads how often what was done, and how it ended.
"""

import logging
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from hdvkit_virtiofs.policy import innermost
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from virtiofs_model.bench import Bench
from virtiofs_model.machine import SERVED, Model

log = logging.getLogger(__name__)

EXAMPLES = 10
"""In one run. Behind so many Hypothesis begins to vary those it had, and most of a long run would be one example."""

COMMON = settings(
    deadline=None,
    database=None,
    max_examples=EXAMPLES,
    stateful_step_count=40,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


class Profile(NamedTuple):
    """How much is done."""

    runs: int
    settings: settings
    same: bool = True
    """Whether it is the same each time."""


WITH_SHRINKING = [Phase.generate, Phase.shrink]
PROFILES = {
    "": Profile(5, COMMON),
    "shrink": Profile(5, settings(COMMON, phases=WITH_SHRINKING)),  # minutes, so only once something has failed
    "full": Profile(30, settings(COMMON, stateful_step_count=200, phases=WITH_SHRINKING), same=False),
}
PROFILE = PROFILES[os.environ.get("HDVKIT_MODEL", "")]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    before = os.umask(0o022)  # that of the guest
    bench = Bench(tmp_path)
    yield bench
    bench.close()
    os.umask(before)


def test_a_share_behaves_as_a_directory_does(bench: Bench) -> None:
    for number in range(PROFILE.runs):
        model = partial(Model, bench)
        run_state_machine_as_test(seed(number)(model) if PROFILE.same else model, settings=PROFILE.settings)
    log.info("outcomes:\n%s", bench.table())
    assert bench.examples >= PROFILE.runs * EXAMPLES
    assert bench.steps > bench.examples
    assert SERVED - {*bench.served} == set(), "the model has not reached these"
    for mount, share in zip(bench.mounts, bench.shares, strict=True):
        assert mount.references == 0
        assert len(share.device.server.handles) == 0
        assert innermost(share.device.server.operations).live_descriptors <= 2  # the root
        assert share.stats().needs_resets == 0
