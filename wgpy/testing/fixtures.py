# SPDX-License-Identifier: MIT
"""Fixtures of pytest, for whoever asks for them: pytest_plugins = ["wgpy.testing.fixtures"]."""

import contextlib
from collections.abc import Iterator

import pytest

from wgpy.errors import StartError
from wgpy.testing.pairs import PairInThread, pair_in_thread
from wgpy.testing.way import Link


@pytest.fixture
def tunnel_link() -> Link:
    """Return the link of `tunnel_pair`, a perfect one: define your own to have another."""
    return Link()


@pytest.fixture
def tunnel_pair(tunnel_link: Link) -> Iterator[PairInThread]:
    """Have a pair of tunnels for the test; skip it where a private network cannot be had."""
    with contextlib.ExitStack() as stack:
        try:
            both = stack.enter_context(pair_in_thread(tunnel_link))
        except StartError as error:
            pytest.skip(str(error))
        yield both
