# SPDX-License-Identifier: MIT
"""What the tests here have in common."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hostile.duel import Duel


@pytest.fixture
def duel() -> "Iterator[Duel]":
    from hostile.duel import Duel  # which may skip the tests, but not a conftest

    with ExitStack() as stack:
        yield Duel(stack)
