# SPDX-License-Identifier: MIT
"""Two tunnels in one program with a link between them, for tests of what goes over WireGuard.

    async with pair(Link(loss=0.01, delay_s=0.02, seed=7)) as (left, right):
        async with await left.start_server(handler, LEFT.v4, 80):
            reader, writer = await right.open_connection(LEFT.v4, 80)

Tests that are not coroutines have `pair_in_thread`, those of pytest the fixture `tunnel_pair` in
wgpy.testing.fixtures.
"""

from wgpy.testing.pairs import LEFT, RIGHT, Addresses, Pair, PairInThread, pair, pair_in_thread
from wgpy.testing.way import Counters, Link
from wgpy.testing.wire import Wire

__all__ = [
    "LEFT",
    "RIGHT",
    "Addresses",
    "Counters",
    "Link",
    "Pair",
    "PairInThread",
    "Wire",
    "pair",
    "pair_in_thread",
]
