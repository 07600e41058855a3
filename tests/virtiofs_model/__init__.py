"""The model of a share: rules that do everything twice, on a mounted share and on a plain directory.

``sides`` says what doing it twice means, and every other module holds the rules of one subject.
"""

import pytest

pytest.register_assert_rewrite(
    *(f"virtiofs_model.{name}" for name in ("sides", "names", "open_files", "locks", "sessions"))
)
