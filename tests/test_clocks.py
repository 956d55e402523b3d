# SPDX-License-Identifier: MIT
"""Wall clocks that are far off, and that jump: handshakes go on, and wg can read the times."""

import re

import pytest
from fake_hosts import World
from fakes import S

from wgpy.uapi.protocol import format_get

YEAR_S = 31_556_952
# Years from 1970 on.  After 2038 seconds have more than 31 bits, after 2106 more than 32; the last
# is the latest that Linux takes (KTIME_SEC_MAX less 30 years).
YEARS = [-70, -1 / YEAR_S, 0, 1, 68.02, 136.07, 262]


@pytest.fixture
def world() -> World:
    return World()


def set_clock(world: World, years: float) -> None:
    """Both hosts', to a moment of so many years since 1970."""
    for host in (world.a, world.b):
        host.epoch_ns = round(years * YEAR_S) * S - world.loop.now_ns


def handshake_time_s(world: World) -> int:
    """What wg reads, which takes digits only, and nothing but zero for never."""
    text = b"".join(format_get(world.a.snapshot)).decode()
    (seconds,) = re.findall(r"^last_handshake_time_sec=(\d+)$", text, re.MULTILINE)
    (nanoseconds,) = re.findall(r"^last_handshake_time_nsec=(\d+)$", text, re.MULTILINE)
    assert int(nanoseconds) < S
    return int(seconds)


@pytest.mark.parametrize("years", YEARS)
def test_a_handshake_succeeds_and_is_shown(world: World, years: float) -> None:
    set_clock(world, years)
    assert handshake_time_s(world) == 0
    world.converse()
    assert handshake_time_s(world) == max(1, round(years * YEAR_S))


def test_handshakes_go_on_while_the_clock_goes_back_and_forth(world: World) -> None:
    for years in [54, 0, 137, 67.9, -1, 68.1, 53]:
        set_clock(world, years)
        world.converse()
        assert handshake_time_s(world) == max(1, round(years * YEAR_S))
        world.loop.advance(200)  # the session is too old now
