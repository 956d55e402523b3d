"""Fixtures for tests in which the kernel answers as they say."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from .faults import FaultyKernel


@pytest.fixture
def kernel() -> Iterator[FaultyKernel]:
    """Outlives the planes that the test makes."""
    with closing(FaultyKernel()) as kernel:
        yield kernel
