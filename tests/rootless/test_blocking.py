# SPDX-License-Identifier: MIT
"""Tunnels of programs without an event loop and without privileges."""

from rootless.lab import as_nobody, result, scenario

from wgpy.testing import LEFT, RIGHT


def run(name: str, tun_mode: str = "666") -> object:
    command = scenario(name, file="blocking_scenarios.py")
    return result(as_nobody(*command, tun_mode=tun_mode))


def test_threads_share_a_tunnel_whose_peers_come_and_go() -> None:
    assert run("exchange") == {
        "words": [f"W{number}" for number in range(8)],
        "address": [LEFT.v4, 80],
        "sessions": [True],
        "then": "EHOSTUNREACH",
    }


def test_commands_run_as_subprocess_runs_them() -> None:
    assert run("commands") == {
        "said": [3, "typed\nlo\nwg0\n/\nword\n", "oops\n"],
        "raw": "ff0d0a",
        "failures": [1, "ENOENT", 0.2],
        "left": False,
    }


def test_an_interrupt_ends_tunnel_and_command() -> None:
    assert run("interrupted") == {"children": [], "threads": []}


def test_an_exception_ends_it_for_everybody_who_asks() -> None:
    assert run("ended") == {
        "waiting": "ConnectionResetError",
        "late": ["ConnectionResetError"] * 3,
        "children": [],
        "threads": [],
    }


def test_names_are_looked_up_in_the_tunnel() -> None:
    assert run("names") == [RIGHT.v4, 5432]


def test_why_there_is_none_is_said_and_nothing_is_left() -> None:
    told = run("refused", tun_mode="0")
    assert isinstance(told, dict)
    assert "/dev/net/tun" in told.pop("said")
    assert told == {"children": [], "threads": []}
