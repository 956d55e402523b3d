# SPDX-License-Identifier: MIT
"""A tunnel within another: wgpy in wgpy, VXLAN in wgpy, wgpy in VXLAN."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from netns.gateways import LAN4, LAN6, Gateways, make_gateways
from netns.lab import Namespace, Side, join_two, namespaces, ping, plan_side, plan_sides, transfer
from netns.traffic import (
    FEW_PACKETS,
    RETRANSMITS_MAX,
    STREAM,
    Cost,
    check_whole,
    cost_of,
    send_datagrams,
)

SIZE = STREAM // 8  # bytes of a stream that is slow or goes in pieces
VXLAN = "198.51.100"  # network
HEADERS = 20 + 20 + 12  # bytes of IPv4 and TCP with timestamps


def check_in_pieces(cost: Cost, mtu: int, pieces: int) -> None:
    """Each packet of a stream of SIZE bytes left in so many frames, and none was lost."""
    assert cost.frames >= pieces * SIZE / (mtu - HEADERS)
    assert cost.dropped == cost.checksum_errors == 0
    assert cost.retransmits <= RETRANSMITS_MAX / 4  # a busy machine repeats some; loss, thousands


@pytest.fixture(scope="module", params=[1, 3], ids=["one worker", "three workers"])
def gateways(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateways]:
    """As elsewhere, but fragments and other packets of a flow may come by queues of their own."""
    with namespaces() as make:
        directory = tmp_path_factory.mktemp("gateways")
        yield make_gateways(make, directory, workers=request.param)


# ---- wgpy in wgpy ----


def inner_side(outer: Side, host: Namespace, number: int, outer4: str, outer6: str) -> Side:
    """A side on the host, whose address is one that the outer tunnel leads to."""
    side = plan_side(replace(host, outer4=outer4, outer6=outer6), number, outer.directory)
    return replace(side, port=51821, inner4=f"10.78.0.{number}", inner6=f"fd78::{number}")


@pytest.fixture(
    scope="module",
    params=[(True, 4), (False, 6)],
    ids=["same hosts, IPv4", "hosts behind, IPv6"],
)
def nested(
    request: pytest.FixtureRequest, gateways: Gateways
) -> Iterator[tuple[Side, tuple[Side, Side]]]:
    """The left end of the outer tunnel, and the ends of the inner one, which are linked."""
    left, right, source, target = gateways.parts
    same_hosts, outside = request.param
    ends: tuple[tuple[Namespace, str, str], ...]
    if same_hosts:
        ends = (left.host, left.inner4, left.inner6), (right.host, right.inner4, right.inner6)
    else:
        ends = tuple(
            (host, f"{LAN4[side]}.2", f"{LAN6[side]}::2")
            for host, side in ((source, "left"), (target, "right"))
        )
    inner = (
        inner_side(left, ends[0][0], 1, *ends[0][1:]),
        inner_side(right, ends[1][0], 2, *ends[1][1:]),
    )
    for side, peer in (inner, inner[::-1]):
        side.host.run("wgpy", side.interface)
        side.configure(side.settings(peer, outside=outside))
    yield left, inner
    for side in inner:
        side.host.run("ip", "link", "delete", side.interface)


def set_mtu(sides: tuple[Side, Side], mtu: int) -> None:
    for side in sides:
        side.host.run("ip", "link", "set", side.interface, "mtu", str(mtu))
    ping(sides[0].host, sides[1].inner4, size=mtu - 28)


def test_a_stream_in_a_tunnel_in_a_tunnel_crosses_whole(
    nested: tuple[Side, tuple[Side, Side]],
) -> None:
    """The messages of the inner tunnel are a train of datagrams for the outer one."""
    outer, (left, right) = nested
    set_mtu((left, right), 1340)
    check_whole(
        lambda: transfer(left.host, right.host, right.inner4, STREAM),
        outer,
        left.host,
        right.host,
    )


def test_a_stream_whose_messages_do_not_fit_the_outer_tunnel_crosses_in_fragments(
    nested: tuple[Side, tuple[Side, Side]],
) -> None:
    outer, (left, right) = nested
    set_mtu((left, right), 1420)
    cost = cost_of(
        lambda: transfer(left.host, right.host, right.inner6, SIZE, window=FEW_PACKETS),
        outer,
        left.host,
        right.host,
    )
    check_in_pieces(cost, 1420, 2)


@pytest.mark.parametrize("mtu", [1340, 1420])
def test_datagrams_in_a_tunnel_in_a_tunnel_arrive(
    nested: tuple[Side, tuple[Side, Side]], mtu: int
) -> None:
    _, (left, right) = nested
    set_mtu((left, right), mtu)
    # First those that are not fragmented: by their answers wgpy moves them to the fragments' queue.
    for size, train in ((1292, True), (1372, False), (8000, False)):
        for source, target in ((left, right), (right, left)):
            hosts = source.host, target.host
            send_datagrams(*hosts, target.inner4, size, burst=16, bursts=20, train=train)


# ---- VXLAN ----


def join_vxlan(hosts: tuple[Namespace, Namespace], addresses: tuple[str, str], mtu: int) -> None:
    """A VXLAN between two addresses of two hosts, with addresses in it."""
    for i, host in enumerate(hosts):
        ends = "local", addresses[i], "remote", addresses[1 - i]
        kind = "type", "vxlan", "id", "7", "dstport", "4789"
        host.run("ip", "link", "add", "vxlan", "mtu", str(mtu), *kind, *ends)
        host.run("ip", "address", "add", f"{VXLAN}.{i + 1}/24", "dev", "vxlan")
        host.run("ip", "link", "set", "vxlan", "addrgenmode", "none", "up")


@pytest.mark.parametrize(("mtu", "pieces"), [(1370, 1), (1500, 2)])
def test_a_stream_in_vxlan_over_the_tunnel_arrives(
    gateways: Gateways, mtu: int, pieces: int
) -> None:
    """The kernel splits it before the tunnel, as the TUN has no name for such super-packets."""
    left, right, source, target = gateways.parts
    hosts = left.host, right.host
    join_vxlan(hosts, (left.inner4, right.inner4), mtu)
    source.run("ip", "route", "flush", "cache")  # the path's MTU as it was
    routes = (left.host, "right", f"{VXLAN}.2"), (right.host, "left", f"{VXLAN}.1")
    for host, lan, by in routes:
        host.run("ip", "route", "add", f"{LAN4[lan]}.2/32", "via", by)
    try:
        cost = cost_of(
            lambda: transfer(source, target, gateways.address(4), SIZE, window=FEW_PACKETS),
            left,
            source,
            target,
        )
        check_in_pieces(cost, mtu, pieces)
    finally:
        for host in hosts:
            host.run("ip", "link", "delete", "vxlan")


@pytest.mark.parametrize("mtu", [1370, 1420])
def test_a_tunnel_over_vxlan_carries_a_stream_whole(
    namespace: Callable[..., Namespace], tmp_path: Path, mtu: int
) -> None:
    """With 1420 what the VXLAN sends has to be fragmented."""
    hosts = join_two(namespace)
    join_vxlan(hosts, (hosts[0].outer4, hosts[1].outer4), 1500)
    inside = replace(hosts[0], outer4=f"{VXLAN}.1"), replace(hosts[1], outer4=f"{VXLAN}.2")
    left, right = plan_sides(inside, tmp_path)
    for side, peer in ((left, right), (right, left)):
        side.host.run("wgpy", side.interface)
        side.configure(side.settings(peer))
    set_mtu((left, right), mtu)
    check_whole(
        lambda: transfer(left.host, right.host, right.inner4, SIZE, window=1 << 20),
        left,
        left.host,
        right.host,
        SIZE,
    )
