# SPDX-License-Identifier: MIT
"""Pairs of tunnels over a link that tests make worse; the example of docs/testing.md."""

import re
from typing import Any

from rootless.lab import ROOT, as_nobody, result, scenario

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.M)


def pair_scenario(name: str, *arguments: str, tun_mode: str = "666") -> Any:
    command = scenario(name, *arguments, file="pair_scenarios.py")
    return result(as_nobody(*command, tun_mode=tun_mode))


def test_tcp_delivers_all_over_a_link_that_loses_and_doubles() -> None:
    assert pair_scenario("lossy") == {
        "whole": True,
        "lost": True,
        "duplicated": True,
        "both ways": True,
    }


def test_a_round_trip_takes_the_delay_of_the_link_twice() -> None:
    with_handshake_s, round_trip_s = pair_scenario("far")
    assert with_handshake_s >= 0.12
    assert round_trip_s >= 0.06


def test_what_is_larger_than_the_mtu_of_the_link_is_dropped() -> None:
    assert pair_scenario("narrow") == {"length": 800, "too large": 1, "cut": 0}


def test_a_cut_link_carries_nothing_and_a_healed_one_begins_with_a_handshake() -> None:
    assert pair_scenario("cut") == ["begins anew", "staged", "comes"]


def test_a_pair_in_a_thread_serves_blocking_sockets_and_leaves_nothing() -> None:
    assert pair_scenario("in_thread") == {
        "told": "hello",
        "mtu": 1280,
        "left over": [0, 0],
        "counted": True,
        "is perfect": True,
    }


def test_a_pair_in_a_thread_ends_with_an_error_inside_of_it() -> None:
    assert pair_scenario("failing") == ["MainThread"]


def test_where_a_pair_cannot_be_had_its_fixture_skips_and_says_why() -> None:
    plugin = 'pytest_plugins = ["wgpy.testing.fixtures"]'
    test = "def test_it(tunnel_pair): raise AssertionError"
    done = pair_scenario("run_pytest", plugin, test, tun_mode="0")
    assert done["status"] == 0, done["output"]
    assert "there is no /dev/net/tun" in done["output"]


def test_the_examples_run_as_they_are_written() -> None:
    blocks = BLOCK.findall((ROOT / "docs/testing.md").read_text())
    done = pair_scenario("run_pytest", *blocks)
    assert done["status"] == 0, done["output"]
    assert "3 passed" in done["output"]
