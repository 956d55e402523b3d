# SPDX-License-Identifier: MIT
"""What is sent arrives, unharmed, while settings change and links misbehave."""

from collections.abc import Callable, Sequence

import pytest
from interop.capture import DATA, INITIATION, RESPONSE, Datagram
from interop.lab import Tunnel
from interop.network import CABLE_MTU, JUMBO_MTU, TIMEOUT_S
from interop.traffic import exchange_udp, is_answered, ping, streaming
from interop.wireguard import DEFAULT_MTU, MAX_SEGMENTS, Interface, Peer, new_psk
from netns.lab import eventually

LENGTH = 1 << 20
SHORT = 1 << 18
SIZES = [0, 1, 15, 16, 17, *range(100, 1372, 4)]
FEW_SIZES = SIZES[::5]
BURST = 50  # datagrams
DISCARD_PORT = 9
HEADERS = {4: 28, 6: 48}  # of IP and ICMP


@pytest.mark.parametrize("inside", [4, 6])
@pytest.mark.parametrize("outside", [4, 6])
@pytest.mark.parametrize("initiator", ["wgpy", "peer"])
def test_tcp_both_ways(tunnel: Tunnel, initiator: str, outside: int, inside: int) -> None:
    tunnel.connect(outside)
    with streaming(*tunnel.pair(initiator), inside) as stream:
        stream.wait_for(LENGTH)


@pytest.mark.parametrize("inside", [4, 6])
@pytest.mark.parametrize("outside", [4, 6])
@pytest.mark.parametrize("initiator", ["wgpy", "peer"])
def test_udp_both_ways(tunnel: Tunnel, initiator: str, outside: int, inside: int) -> None:
    tunnel.connect(outside)
    exchange_udp(tunnel.pair(initiator), inside, SIZES)


def segments(end: Interface, mtu: int) -> int:
    """The newest wireguard-go loses batches of what the cable does not fit."""
    return 1 if (end.kind, mtu) == ("wireguard-go", CABLE_MTU) else MAX_SEGMENTS


@pytest.mark.parametrize("outside", [4, 6])
@pytest.mark.parametrize("mtu", [1280, 1420, 1500, 8921, 34816])
def test_packets_of_every_size_up_to_the_mtu(tunnel: Tunnel, mtu: int, outside: int) -> None:
    tunnel.connect(outside)
    try:
        if mtu > CABLE_MTU:
            tunnel.network.set_mtu(JUMBO_MTU)
        for end in tunnel.ends:
            end.set_mtu(mtu, segments(end, mtu))
        for first, second in (tunnel.ends, tunnel.ends[::-1]):
            for family in (4, 6):
                ping(first.host, second.inner(family), mtu - HEADERS[family])
        for family in (4, 6):
            exchange_udp(tunnel.ends, family, [mtu - HEADERS[family] - back for back in range(34)])
            with streaming(*tunnel.ends, family) as stream:
                stream.wait_for(SHORT)
    finally:
        for end in tunnel.ends:
            end.set_mtu(DEFAULT_MTU)
        tunnel.network.set_mtu(CABLE_MTU)


@pytest.mark.parametrize("initiator", ["wgpy", "peer"])
def test_the_preshared_key_changes_mid_transfer(tunnel: Tunnel, initiator: str) -> None:
    tunnel.connect(psk=new_psk())
    first, second = tunnel.pair(initiator)
    with streaming(first, second, 4) as stream:
        stream.wait_for(SHORT)
        psk = new_psk()
        for end, other in ((first, second), (second, first)):
            end.set("peer", other.public_key, "preshared-key", "/dev/stdin", stdin=psk)
        stream.wait_for(SHORT)  # in the old session
        first.bounce()
        stream.wait_for(SHORT)  # in a new one


@pytest.mark.parametrize("changed", ["wgpy", "peer"])
def test_the_private_key_changes_mid_transfer(tunnel: Tunnel, changed: str) -> None:
    tunnel.connect()
    end, other = tunnel.pair(changed)
    with streaming(end, other, 4) as stream:
        stream.wait_for(SHORT)
        old = end.public_key
        end.renew_keys()
        end.set("private-key", "/dev/stdin", stdin=end.private_key)
        other.configure(Peer(end))
        assert end.public_key != old
        stream.wait_for(SHORT)


def counters(seen: Sequence[Datagram]) -> list[int]:
    """Of the payload as it leaves the router for wgpy."""
    payload = [one.payload for one in seen if one.kind == DATA and not one.arrived]
    return [int.from_bytes(message[8:16], "little") for message in payload]


def is_lossy(seen: Sequence[Datagram]) -> bool:
    got = counters(seen)
    return len(got) <= max(got, default=-1)


def is_unordered(seen: Sequence[Datagram]) -> bool:
    got = counters(seen)
    return got != sorted(got)


def has_duplicates(seen: Sequence[Datagram]) -> bool:
    got = counters(seen)
    return len(got) > len(set(got))


def is_late(seen: Sequence[Datagram]) -> bool:
    """The way to the answer and back took two delays."""
    handshake = {one.kind: one.time_ns for one in seen if one.kind in (INITIATION, RESPONSE)}
    return handshake[RESPONSE] - handshake[INITIATION] >= 2 * DELAY_NS


DELAY_NS = 100 * 10**6
IMPAIRMENTS: dict[str, tuple[str, Callable[[Sequence[Datagram]], bool]]] = {
    "1% loss": ("loss 1%", is_lossy),
    "5% loss": ("loss 5%", is_lossy),
    "reordering": ("delay 5ms reorder 25% 50%", is_unordered),
    "duplication": ("duplicate 20%", has_duplicates),
    "100 ms delay": ("delay 100ms", is_late),
}


def show(tunnel: Tunnel, is_bad: Callable[[Sequence[Datagram]], bool]) -> None:
    """The router has to be seen doing it, to datagrams that nobody misses."""
    seen: list[Datagram] = []
    with tunnel.capture() as capture, tunnel.peer.host.udp(tunnel.peer.inner4) as sender:
        eventually(
            lambda: is_answered(tunnel.wgpy.host, tunnel.peer.inner4), "an answer", 2 * TIMEOUT_S
        )

        def shows() -> bool:
            for _ in range(BURST):
                sender.sendto(b"data", (tunnel.wgpy.inner4, DISCARD_PORT))
            seen.extend(capture.datagrams())
            return is_bad(seen)

        eventually(shows, "the impairment", TIMEOUT_S)


@pytest.mark.netem
@pytest.mark.parametrize("impairment", IMPAIRMENTS)
def test_a_bad_link(tunnel: Tunnel, impairment: str) -> None:
    if not tunnel.network.has_netem():
        pytest.skip("this kernel has no netem")
    how, is_bad = IMPAIRMENTS[impairment]
    tunnel.connect()
    tunnel.network.impair(how)
    try:
        show(tunnel, is_bad)
        with streaming(*tunnel.ends, 4) as stream:
            stream.wait_for(SHORT)
        if "loss" not in impairment:
            exchange_udp(tunnel.ends, 4, FEW_SIZES)
    finally:
        tunnel.network.repair()
