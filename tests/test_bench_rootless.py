# SPDX-License-Identifier: MIT
"""What is made of the figures of ways into a tunnel."""

import sys
from pathlib import Path

# At the end, so that wgpy is the installed one; bench is never installed.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from bench.rootless import DIRECTIONS, GOALS, WAYS, report


def test_medians_are_shown_and_compared_where_there_is_a_goal() -> None:
    text = report(
        {
            ("forward", "send"): [2.0, 4.0, 3.0],
            ("wireproxy", "send"): [0.5, 1.5, 1.0],
            ("root", "receive"): [5.0],
        }
    )
    assert "| forward, send | 3.00 | 2.00 | 4.00 |" in text
    assert "| root, receive | 5.00 | 5.00 | 5.00 |" in text
    assert "forward of wireproxy, send: 3.00 (goal: 4)" in text
    assert "wireproxy, receive" not in text


def test_goals_are_of_what_is_measured() -> None:
    for ours, theirs, direction in GOALS:
        assert {ours, theirs} <= WAYS.keys()
        assert direction in DIRECTIONS
