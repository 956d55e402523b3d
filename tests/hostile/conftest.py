"""What the tests here have in common."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hostile.duel import Duel


@pytest.fixture
def duel() -> Iterator[Duel]:
    with ExitStack() as stack:
        yield Duel(stack)
