# SPDX-License-Identifier: MIT
"""What others see on the way."""

import socket
from collections.abc import Sequence

import pytest
from interop.capture import DATA, INITIATION, RESPONSE, Datagram
from interop.lab import Tunnel
from interop.traffic import ping
from interop.wireguard import DEFAULT_MTU, Interface
from netns.lab import eventually

NOT_ECT, ECT1, ECT0, CE = range(4)
EXPEDITED = 0xB8
LENGTHS = {INITIATION: 148, RESPONSE: 92}

TOS = {
    4: (socket.IPPROTO_IP, socket.IP_TOS, socket.IP_RECVTOS),
    6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, socket.IPV6_RECVTCLASS),
}


@pytest.mark.parametrize("outside", [4, 6])
def test_each_side_sends_what_the_other_would(tunnel: Tunnel, outside: int) -> None:
    """Types, sizes, DSCP and ECN, hop limits, indices and counters, in order."""
    traces = []
    for initiator in ("wgpy", "peer"):
        tunnel.connect(outside)
        first, second = tunnel.pair(initiator)
        with tunnel.capture() as capture:
            ping(first.host, second.inner4, 8)
            for size in (0, 4, 5, 20, 21, 1000, DEFAULT_MTU - 28):
                ping(second.host, first.inner4, size)
            first.set("peer", second.public_key, "persistent-keepalive", "100")
            seen: list[Datagram] = []

            def has_keepalive(seen: list[Datagram] = seen) -> bool:
                seen += capture.datagrams()
                return len(seen[-1].payload) == 32

            eventually(has_keepalive, "a keepalive")
        traces.append(described(seen, first.outer(outside)))
    ours, theirs = traces
    if tunnel.peer.kind == "wireguard-go":
        ours, theirs = ([line[:-1] for line in trace] for trace in traces)  # it sets no DSCP
    assert ours == theirs
    assert [line[1] for line in ours[:2]] == [INITIATION, RESPONSE]


def described(seen: Sequence[Datagram], initiator: str) -> list[tuple[object, ...]]:
    """The random indices are replaced by the names of those who chose them."""
    names = {one.payload[4:8]: one.source[0] == initiator for one in seen if one.kind in LENGTHS}
    lines: list[tuple[object, ...]] = []
    for one in seen:
        assert one.hops == 64 - (not one.arrived)  # the router is one
        receiver = one.payload[8:12] if one.kind == RESPONSE else one.payload[4:8]
        counter = one.payload[8:16] if one.kind == DATA else b""
        to = "" if one.kind == INITIATION else "initiator" if names[receiver] else "responder"
        came_from = "initiator" if one.source[0] == initiator else "responder"
        lines.append((came_from, one.kind, len(one.payload), to, counter, one.tos))
    return lines


def one_packet(source: Interface, target: Interface, family: int, tos: int) -> int:
    """The DSCP and ECN that a packet sent with `tos` arrives with."""
    level, out, back = TOS[family]
    sender = source.host.udp(source.inner(family))
    receiver = target.host.udp(target.inner(family))
    with sender, receiver:
        sender.setsockopt(level, out, tos)
        receiver.setsockopt(level, back, 1)
        sender.sendto(b"data", receiver.getsockname())
        _, ancillary, _, _ = receiver.recvmsg(64, 64)
    return ancillary[0][2][0]


def refuse_wireguard_go(tunnel: Tunnel, role: str) -> None:
    if role == "peer" and tunnel.peer.kind == "wireguard-go":
        pytest.skip("wireguard-go knows no ECN")


@pytest.mark.parametrize("outside", [4, 6])
@pytest.mark.parametrize("sender", ["wgpy", "peer"])
def test_ecn_shows_outside_and_dscp_does_not(tunnel: Tunnel, sender: str, outside: int) -> None:
    refuse_wireguard_go(tunnel, sender)
    tunnel.connect(outside)
    source, target = tunnel.pair(sender)
    ping(source.host, target.inner4)
    for inside in (4, 6):
        for ecn in (NOT_ECT, ECT1, ECT0):  # CE becomes ECT(0) in the kernel, stays CE in wgpy
            with tunnel.capture() as capture:
                assert one_packet(source, target, inside, EXPEDITED | ecn) == EXPEDITED | ecn
                (sent,) = [one for one in capture.datagrams() if one.kind == DATA]
            assert sent.tos == ecn


@pytest.mark.parametrize("outside", [4, 6])
@pytest.mark.parametrize("receiver", ["wgpy", "peer"])
def test_congestion_on_the_way_is_seen_inside(tunnel: Tunnel, receiver: str, outside: int) -> None:
    refuse_wireguard_go(tunnel, receiver)
    tunnel.connect(outside)
    target, source = tunnel.pair(receiver)
    ping(source.host, target.inner4)
    router = tunnel.network.router
    family = "ip" if outside == 4 else "ip6"
    router.run(
        "nft",
        f"add table {family} congested;"
        f"add chain {family} congested through {{ type filter hook forward priority 0; }};"
        f"add rule {family} congested through {family} ecn set ce",
    )
    try:
        for inside in (4, 6):
            assert one_packet(source, target, inside, EXPEDITED | ECT0) == EXPEDITED | CE
            assert one_packet(source, target, inside, EXPEDITED) == EXPEDITED  # not lost
    finally:
        router.run("nft", "flush", "ruleset")
