"""Tunnels in tunnels: wgpy in wgpy, VXLAN over it, and it over VXLAN."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from netns.lab import Namespace, Side, eventually, ping, plan_sides, statistic, transfer

SIZE = 8 << 20  # bytes
RETRANSMITS_MAX = 1000  # of about 6,000 segments; mostly there are none, where messages fit


def start(left: Side, right: Side, mtu: int) -> None:
    for side, peer in ((left, right), (right, left)):
        side.host.run("wgpy", side.interface)
        side.host.run("ip", "link", "set", side.interface, "mtu", str(mtu))
        side.configure(side.settings(peer))


def check(source: Namespace, target: Namespace, address: str, *, fits: bool = True) -> None:
    """Data come to the target's address as they were, and packets of any size.

    fits: the messages are not too long for the way.  Those that are go in fragments, each a packet
    of its own in the outer TUN's queue, and TCP finds out its length.
    """
    retransmits = statistic(source, "TcpRetransSegs")
    transfer(source, target, address, SIZE)
    assert not fits or statistic(source, "TcpRetransSegs") - retransmits <= RETRANSMITS_MAX
    assert statistic(target, "TcpInCsumErrors") == 0
    ping(source, address, size=8000)


def check_both(left: Side, right: Side, *, fits: bool = True) -> None:
    """The same both ways and by both families."""
    for source, target in ((left, right), (right, left)):
        for address in (target.inner4, target.inner6):
            check(source.host, target.host, address, fits=fits)


def inside(outer: Side, inner: Side) -> Side:
    """The inner tunnel's side, which others reach through the outer one."""
    host = replace(inner.host, outer4=outer.inner4, outer6=outer.inner6)
    number = outer.inner4.rpartition(".")[2]
    return replace(
        inner, host=host, inner4=f"10.78.0.{number}", inner6=f"fd78::{number}", port=51821
    )


@pytest.mark.parametrize("mtu", [1340, 1420])  # the longer one: messages leave in fragments
def test_a_tunnel_in_a_tunnel(tunnel: tuple[Side, Side], tmp_path: Path, mtu: int) -> None:
    hosts = tunnel[0].host, tunnel[1].host
    sides = plan_sides(hosts, tmp_path)
    left, right = (inside(outer, inner) for outer, inner in zip(tunnel, sides, strict=True))
    before = [set(host.pids()) for host in hosts]
    start(left, right, mtu)
    check_both(left, right, fits=mtu == 1340)
    for side in (left, right):
        side.host.run("ip", "link", "delete", side.interface)
    eventually(lambda: [set(host.pids()) for host in hosts] == before, "the end of both")


def vxlan(hosts: tuple[Namespace, Namespace], addresses: tuple[str, str], mtu: int) -> None:
    """An Ethernet between the hosts, over their addresses: 10.79.0.1 and .2."""
    for number, host in enumerate(hosts):
        ends = ["local", addresses[number], "remote", addresses[1 - number]]
        host.run("ip", "link", "add", "vx", "type", "vxlan", "id", "42", "dstport", "4789", *ends)
        host.run("ip", "link", "set", "vx", "mtu", str(mtu), "up")
        host.run("ip", "address", "add", f"10.79.0.{number + 1}/24", "dev", "vx")


@pytest.fixture
def ethernet(tunnel: tuple[Side, Side]) -> Iterator[tuple[Side, Side]]:
    """A VXLAN over the tunnel."""
    left, right = tunnel
    vxlan((left.host, right.host), (left.inner4, right.inner4), 1370)
    yield tunnel
    for side in tunnel:
        side.host.run("ip", "link", "delete", "vx")


def test_vxlan_over_the_tunnel(ethernet: tuple[Side, Side]) -> None:
    left, right = ethernet
    for source, target, address in ((left, right, "10.79.0.2"), (right, left, "10.79.0.1")):
        check(source.host, target.host, address)


def test_the_tunnel_over_vxlan(hosts: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    vxlan(hosts, (hosts[0].outer4, hosts[1].outer4), 1450)
    left, right = (
        replace(side, host=replace(side.host, outer4=f"10.79.0.{number}"))
        for number, side in enumerate(plan_sides(hosts, tmp_path), 1)
    )
    start(left, right, 1370)
    check_both(left, right)
