# SPDX-License-Identifier: MIT
"""What most tests of the configuration socket serve, and where."""

from pathlib import Path

import pytest
from serving import FakeDevice


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run"
