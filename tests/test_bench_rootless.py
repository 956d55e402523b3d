# SPDX-License-Identifier: MIT
"""What is made of the figures of ways into a tunnel."""

import asyncio
import sys
from pathlib import Path

import pytest

# At the end, so that wgpy is the installed one; bench is never installed.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from bench.rootless import DIRECTIONS, ENTER, GOALS, WAYS, report
from bench.streams import Measure, answer, receive, send


def test_medians_are_shown_and_compared_where_there_is_a_goal() -> None:
    text = report(
        {
            ("forward", "send"): [2.0, 4.0, 3.0],
            ("wireproxy", "send"): [0.5, 1.5, 1.0],
            ("root", "receive"): [5.0],
            ("streams", "send"): [1.0],
            ("plain", "send"): [4.0],
            ("streams", ENTER): [300.0, 140.0, 150.0],
        }
    )
    assert "| forward, send | 3.00 | 2.00 | 4.00 |" in text
    assert "| root, receive | 5.00 | 5.00 | 5.00 |" in text
    assert "forward of wireproxy, send: 3.00 (goal: 4)" in text
    assert "wireproxy, receive" not in text
    assert text.endswith(
        "\nstreams of plain, send: 0.25\n\nstreams: connected after 150 ms (goal: 250)"
    )


def test_goals_are_of_what_is_measured() -> None:
    for ours, theirs, direction in GOALS:
        assert {ours, theirs} <= WAYS.keys()
        assert direction in DIRECTIONS


@pytest.mark.parametrize("measure", [send, receive])
def test_streams_carry_something_both_ways(measure: Measure) -> None:
    async def over_loopback() -> float:
        async with await asyncio.start_server(answer, "127.0.0.1") as server:
            _, port = server.sockets[0].getsockname()

            async def connect(
                address: str, _: int
            ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                return await asyncio.open_connection(address, port)

            return await measure(connect, "127.0.0.1", 0.05)

    assert asyncio.run(over_loopback()) > 0
