"""The double, fresh for each test; at the end it must have nothing to complain about."""

from collections.abc import Iterator

import pytest
from double.build import BuildError
from double_control import Double


@pytest.fixture
def double() -> Iterator[Double]:
    """The platform."""
    try:
        loaded = Double.load()
    except BuildError as error:
        pytest.skip(str(error))
    with loaded.fresh() as fresh:
        yield fresh
