# SPDX-License-Identifier: MIT
"""`wgpyctl doctor` and `status` beside a real daemon, with faults around it."""

import os
import re
from collections.abc import Callable

import pytest
from netns.lab import Side, eventually, ping

from wgpy.status import DIRECTORY

Doctor = Callable[[], tuple[int, list[str]]]


@pytest.fixture
def doctor(tunnel: tuple[Side, Side]) -> Doctor:
    """Exit status and lines of the doctor here; the tunnel works before."""
    here, there = tunnel
    ping(here.host, there.inner4)

    def examine() -> tuple[int, list[str]]:
        done = here.host.attempt("wgpyctl", "doctor", here.interface)
        assert done.stderr == ""
        return done.returncode, done.stdout.splitlines()

    return examine


def well(tunnel: tuple[Side, Side]) -> str:
    return f"{tunnel[1].host.outer4}:{tunnel[1].port}"


def test_a_healthy_tunnel_is_well(tunnel: tuple[Side, Side], doctor: Doctor) -> None:
    outcome, lines = doctor()
    assert outcome == 0, lines
    endpoint = well(tunnel)
    assert "ok: the link is up, with an MTU of 1420" in lines
    assert "ok: UDP port 51820 is open" in lines
    assert f"ok: the route to {endpoint} leaves by cable" in lines
    assert f"ok: the way to {endpoint} takes 1500 bytes, and messages have 1480" in lines
    ping(tunnel[0].host, tunnel[1].inner4)  # and no trial has done it harm


def test_status_is_that_of_the_daemon(tunnel: tuple[Side, Side], doctor: Doctor) -> None:
    here, there = tunnel
    done = here.host.attempt("wgpyctl", "status", here.interface)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"interface: {here.interface}"
    assert f"peer: {there.public_key}" in lines
    assert f"  endpoint: {well(tunnel)}" in lines
    assert here.private_key not in done.stdout


def test_a_host_on_which_nothing_listens_says_so(tunnel: tuple[Side, Side], doctor: Doctor) -> None:
    _, there = tunnel
    there.host.run("ip", "link", "set", there.interface, "down")
    try:
        eventually(lambda: ":51820 " not in there.host.run("ss", "-uln"), "a closed port")
        outcome, lines = doctor()
    finally:
        there.host.run("ip", "link", "set", there.interface, "up")
    said = f"error: {there.host.outer4} says that nothing listens at {well(tunnel)}"
    assert outcome == 1
    assert sum("nothing listens" in line for line in lines) == 1
    assert any(line.startswith(said) for line in lines), lines


def test_a_path_that_is_too_narrow_is_measured(tunnel: tuple[Side, Side], doctor: Doctor) -> None:
    here, _ = tunnel
    here.host.run("ip", "link", "set", "cable", "mtu", "1400")
    try:
        outcome, lines = doctor()
    finally:
        here.host.run("ip", "link", "set", "cable", "mtu", "1500")
    said = f"warning: the way to {well(tunnel)} takes 1400 bytes, and messages have up to 1480"
    assert outcome == 1
    assert [line for line in lines if line.startswith(said) and "MTU of 1340 fits" in line], lines


def test_a_route_into_the_tunnel_is_found(tunnel: tuple[Side, Side], doctor: Doctor) -> None:
    here, there = tunnel
    route = f"{there.host.outer4}/32", "dev", here.interface
    here.host.run("ip", "route", "add", *route)
    try:
        outcome, lines = doctor()
    finally:
        here.host.run("ip", "route", "del", *route)
    said = f"error: the route to {well(tunnel)} leads into {here.interface} itself"
    assert outcome == 1
    assert any(line.startswith(said) for line in lines), lines


def test_a_host_without_a_route_is_told(tunnel: tuple[Side, Side], doctor: Doctor) -> None:
    here, there = tunnel
    here.set("peer", there.public_key, "endpoint", "198.51.100.1:1")
    outcome, lines = doctor()
    assert outcome == 1
    assert "error: there is no route to 198.51.100.1:1: look at `ip route get`" in lines


def test_an_endpoint_with_a_zone_leaves_by_that(tunnel: tuple[Side, Side], doctor: Doctor) -> None:
    here, there = tunnel
    here.set("peer", there.public_key, "endpoint", "[fe80::1234%cable]:51820")
    _, lines = doctor()
    assert any(re.fullmatch(r"ok: the route to .*:51820 leaves by cable", line) for line in lines)


def test_a_link_that_is_down_is_told(tunnel: tuple[Side, Side], doctor: Doctor) -> None:
    here, _ = tunnel
    here.host.run("ip", "link", "set", here.interface, "down")
    try:
        outcome, lines = doctor()
    finally:
        here.host.run("ip", "link", "set", here.interface, "up")
    assert outcome == 1
    assert f"error: the link is down: `ip link set {here.interface} up`" in lines


def test_no_such_interface(tunnel: tuple[Side, Side]) -> None:
    done = tunnel[0].host.attempt("wgpyctl", "doctor", f"no{os.getpid()}")
    assert (done.returncode, done.stdout) == (3, "")
    assert not (DIRECTORY / f"no{os.getpid()}.status").exists()
