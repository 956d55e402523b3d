# SPDX-License-Identifier: MIT
"""Fixtures for tests in which the kernel answers as they say."""

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .faults import FaultyKernel


@pytest.fixture
def kernel() -> "Iterator[FaultyKernel]":
    """Outlives the planes that the test makes."""
    from .faults import FaultyKernel  # which may skip the tests, but not a conftest

    with closing(FaultyKernel()) as kernel:
        yield kernel
