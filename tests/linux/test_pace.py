# SPDX-License-Identifier: MIT
"""How often somebody looks: at once after calm, at a steady rate in a storm of hints."""

from hypothesis import given
from hypothesis import strategies as st

from wgpy.linux.hints import Pace

gaps = st.lists(st.floats(0, 5), max_size=60)


def turns(pace: Pace, gaps_s: list[float], now_s: float = 1000.0) -> list[float]:
    """When somebody looks who has a hint so long after each look."""
    looks = []
    for gap_s in gaps_s:
        now_s += gap_s
        now_s += pace.wait_s(now_s)
        looks.append(now_s)
    return looks


def test_a_few_looks_after_calm_are_made_at_once() -> None:
    assert turns(Pace(0.5, 4), [0.0] * 4) == [1000.0] * 4


def test_looks_without_end_come_at_intervals() -> None:
    assert turns(Pace(0.5, 2), [0.0] * 5) == [1000.0, 1000.0, 1000.5, 1001.0, 1001.5]


def test_calm_makes_room_for_looks_at_once_again() -> None:
    looks = turns(Pace(0.5, 2), [0.0, 0.0, 0.0, 5.0, 0.0])
    assert looks == [1000.0, 1000.0, 1000.5, 1005.5, 1005.5]


@given(gaps)
def test_never_are_there_more_looks_than_the_rate_and_the_burst(gaps_s: list[float]) -> None:
    looks = turns(Pace(0.5, 4), gaps_s)
    for first, look_s in enumerate(looks):
        within = sum(1 for other_s in looks[first:] if other_s <= look_s + 10)
        assert within <= 4 + 10 / 0.5 + 1e-6 * len(looks) + 1
