# SPDX-License-Identifier: MIT
"""The route to a peer's endpoint leads into the tunnel that is to carry packets to it."""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from netns.lab import (
    ENVIRONMENT,
    Namespace,
    Side,
    eventually,
    join_two,
    namespaces,
    ping,
    plan_sides,
)

FRAMES_MAX = 500  # of five pings; without a guard, 250,000 a second
ROUNDABOUT_FRAMES_MAX = 10_000
BEHIND = "10.88.0.1", "10.88.0.2"  # the left and its peer behind the right
SECOND = {
    "192.0.2.2:51820": "[2001:db8::2]:51820",
    "[2001:db8::2]:51820": "192.0.2.2:51820",
}
MARK = "77"
REASON = {4: "Destination Host Unreachable", 6: "Destination unreachable: Address unreachable"}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the left's daemon logs."""
    return tmp_path_factory.mktemp("log") / "left"


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory, log: Path) -> Iterator[tuple[Side, Side]]:
    """As elsewhere, but the left's daemon is in the foreground."""
    with namespaces() as make, log.open("w") as file:
        left, right = plan_sides(join_two(make), tmp_path_factory.mktemp("sides"))
        command = left.host.argv("wgpy", "-f", left.interface)
        daemon = subprocess.Popen(command, stdout=file, stderr=file, env=ENVIRONMENT)
        eventually(left.socket.exists, "the left's socket")
        right.host.run("wgpy", right.interface)
        left.configure(left.settings(right))
        right.configure(right.settings(left))
        yield left, right
        left.host.run("ip", "link", "delete", left.interface)
        assert daemon.wait(timeout=30) == 0


@contextmanager
def loop(left: Side, right: Side, version: int) -> Iterator[None]:
    """The left reaches the right's endpoint through the tunnel, as it believes."""
    to = f"{right.host.outer4}/32" if version == 4 else f"{right.host.outer6}/128"
    left.host.run("ip", "route", "add", to, "dev", left.interface)
    try:
        yield
    finally:
        left.host.run("ip", "route", "delete", to, "dev", left.interface)


Looped = Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def looped(request: pytest.FixtureRequest, tunnel: tuple[Side, Side]) -> Looped:
    """For a block in which there is a loop; the peer may be sent what its endpoint is sent."""
    left, right = tunnel
    inner, outer = f"{right.inner4}, {right.inner6}", f"{right.host.outer4}, {right.host.outer6}"
    version: int = request.param
    left.setconf(left.settings(right, outside=version, allowed=f"{inner}, {outer}"))
    return lambda: loop(left, right, version)


def frames(side: Side) -> int:
    """How many packets the host has sent into the tunnel."""
    path = f"/sys/class/net/{side.interface}/statistics/tx_packets"
    return int(side.host.run("cat", path))


def five_pings(host: Namespace, address: str, size: int = 56) -> str:
    """What five pings say that have no answer."""
    flags = ["-n", "-c", "5", "-i", "0.2", "-W", "1", "-s", str(size)]
    said = host.run("ping", *flags, address, check=False)
    assert " 0 received" in said
    return said


def ping_without_a_retry(host: Namespace, address: str) -> None:
    """One answer has to come before an unanswered initiation is repeated, which is after 5 s."""
    once = ["ping", "-n", "-c", "1", "-W", "0.2", address]
    eventually(lambda: "1 received" in host.run(*once, check=False), "an answer", 4)


def check(tunnel: tuple[Side, Side], looped: Looped, log: Path, address: str, size: int) -> None:
    """Of a loop the sender and the log hear, the network nothing; afterwards traffic goes on."""
    left, right = tunnel
    before, told = frames(left), len(log.read_text())
    with looped():
        said = five_pings(left.host, address, size)
        assert frames(left) - before < FRAMES_MAX
    assert re.search(rf"From {address} icmp_seq=\d {REASON[ip_address(address).version]}", said)
    ping_without_a_retry(left.host, address)
    [line] = log.read_text()[told:].splitlines()
    assert " ERROR " in line
    assert "leads into the tunnel itself" in line
    ping(right.host, left.inner4)


@pytest.mark.parametrize("size", [56, 1372, 8000])
def test_a_route_that_comes_to_lead_into_the_tunnel_makes_no_storm(
    tunnel: tuple[Side, Side], looped: Looped, log: Path, size: int
) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    check(tunnel, looped, log, right.inner4, size)


def test_nor_does_one_that_was_there_before_the_first_handshake(
    tunnel: tuple[Side, Side], looped: Looped, log: Path
) -> None:
    check(tunnel, looped, log, tunnel[1].inner6, 56)


def give_another_endpoint(left: Side) -> None:
    """Of the other family."""
    peer, endpoint = left.show("endpoints").split()
    left.set("peer", peer, "endpoint", SECOND[endpoint])


def give_a_mark(left: Side) -> None:
    """For which there is a route of its own already."""
    left.set("fwmark", MARK)


@pytest.mark.parametrize("mend", [give_another_endpoint, give_a_mark])
def test_settings_that_mend_it_do_so_at_once(
    tunnel: tuple[Side, Side], looped: Looped, mend: Callable[[Side], None]
) -> None:
    left, right = tunnel
    by_the_mark = ["rule", "add", "fwmark", MARK, "lookup", MARK]
    for version, network in (("-4", "192.0.2.0/24"), ("-6", "2001:db8::/64")):
        left.host.run("ip", version, "route", "replace", network, "dev", "cable", "table", MARK)
        left.host.run("ip", version, *by_the_mark)
    try:
        with looped():
            five_pings(left.host, right.inner4)
            mend(left)
            ping_without_a_retry(left.host, right.inner4)
    finally:
        for version in ("-4", "-6"):
            left.host.run("ip", version, "rule", "delete", "fwmark", MARK)


def test_a_peer_that_pretends_to_be_inside_the_tunnel_harms_only_itself(
    tunnel: tuple[Side, Side], log: Path
) -> None:
    left, right = tunnel
    ping(right.host, left.inner4)
    before, told = frames(left), len(log.read_text())
    to = [f"{left.host.outer4}/32", "dev", "cable", "src", right.inner4]
    right.host.run("ip", "route", "add", *to)
    endpoint = f"{left.host.outer4}:{left.port}"
    right.set("peer", left.public_key, "endpoint", endpoint)  # so it forgets from where it sent
    try:
        five_pings(right.host, left.inner4)
        assert left.show("endpoints").endswith(f"\t{right.inner4}:{right.port}")
        assert frames(left) - before < FRAMES_MAX
        assert log.read_text()[told:].count("leads into the tunnel itself") == 1
    finally:
        right.host.run("ip", "route", "delete", *to)
    ping_without_a_retry(right.host, left.inner4)
    ping(left.host, right.inner4)


# ---- more than one peer ----


@pytest.fixture
def second(tunnel: tuple[Side, Side]) -> Iterator[tuple[Side, Side]]:
    """Two sides more on the two hosts, of which only the right one has an interface yet."""
    left, right = tunnel
    others = []
    for side, inner4 in zip(tunnel, BEHIND, strict=True):
        name = f"{side.interface}x"
        keyed = replace(side.with_new_keys(), interface=name, inner4=inner4, port=51821)
        others.append(replace(keyed, inner6=f"{side.inner6}88"))
    right.host.run("wgpy", others[1].interface)
    yield others[0], others[1]
    for side in others:
        side.host.run("ip", "link", "delete", side.interface, check=False)
    left.host.run("ip", "address", "delete", f"{BEHIND[0]}/24", "dev", left.interface, check=False)


def check_bounded(target: Side, ways: list[tuple[str, Side]], size: int) -> None:
    """Pings to the target end some time, though its endpoints lie along these ways."""
    sides = {side.interface: side for _, side in ways}.values()
    host = ways[0][1].host
    before = sum(frames(side) for side in sides)
    with ExitStack() as stack:
        for to, side in ways:
            host.run("ip", "route", "add", to, "dev", side.interface)
            stack.callback(host.run, "ip", "route", "delete", to, "dev", side.interface)
        five_pings(host, target.inner4, size)
        assert sum(frames(side) for side in sides) - before < ROUNDABOUT_FRAMES_MAX
    ping_without_a_retry(host, target.inner4)


@pytest.mark.parametrize("size", [56, 1372, 8000])
def test_tunnels_that_lead_into_each_other_make_no_storm(
    tunnel: tuple[Side, Side], second: tuple[Side, Side], size: int
) -> None:
    (left, right), (left2, right2) = tunnel, second
    left.host.run("wgpy", left2.interface)
    outer4, outer6 = right.host.outer4, right.host.outer6
    left.setconf(left.settings(right, allowed=f"{right.inner4}, {outer6}"))
    left2.configure(left2.settings(right2, outside=6, allowed=f"{right2.inner4}, {outer4}"))
    right2.configure(right2.settings(left2, outside=6))
    ping(left.host, right.inner4)
    ping(left.host, right2.inner4)
    check_bounded(right, [(outer4, left2), (outer6, left)], size)


@pytest.mark.parametrize("size", [56, 1372, 8000])
def test_peers_that_are_reached_through_each_other_make_no_storm(
    tunnel: tuple[Side, Side], second: tuple[Side, Side], size: int
) -> None:
    (left, right), (_, right2) = tunnel, second
    outer4, outer6 = right.host.outer4, right.host.outer6
    left.setconf(left.settings(right, allowed=f"{right.inner4}, {outer6}"))
    endpoint = f"[{outer6}]:{right2.port}"
    allowed = f"{right2.inner4},{outer4}"
    left.set("peer", right2.public_key, "endpoint", endpoint, "allowed-ips", allowed)
    left.host.run("ip", "address", "add", f"{BEHIND[0]}/24", "dev", left.interface)
    right2.configure(right2.settings(left, outside=6, allowed=BEHIND[0]))
    ping(left.host, right.inner4)
    ping(left.host, right2.inner4)
    check_bounded(right, [(outer4, left), (outer6, left)], size)


def test_a_peer_may_be_reached_through_another_one(
    tunnel: tuple[Side, Side], second: tuple[Side, Side]
) -> None:
    """The endpoint of a second interface of the right is its address in the tunnel of the first."""
    (left, right), (_, right2) = tunnel, second
    right2.configure(right2.settings(left, allowed=BEHIND[0]).replace("Endpoint", "#"))
    left.host.run("ip", "address", "add", f"{BEHIND[0]}/24", "dev", left.interface)
    endpoint = f"{right.inner4}:{right2.port}"
    left.set("peer", right2.public_key, "endpoint", endpoint, "allowed-ips", BEHIND[1])
    ping(left.host, BEHIND[1], count=10)
    ping(right.host, BEHIND[0], size=1000)
