# SPDX-License-Identifier: MIT
"""Directed arrows between parts, as the layering tests draw them."""

from collections.abc import Mapping


def reachable(arrows: Mapping[str, set[str]], start: str) -> set[str]:
    """All to which arrows lead from there; itself only if there is a circle."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        ends = arrows.get(waiting.pop(), set()) - seen
        seen |= ends
        waiting.extend(ends)
    return seen
