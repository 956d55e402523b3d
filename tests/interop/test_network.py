# SPDX-License-Identifier: MIT
"""Addresses change, and routers translate them."""

import time

import pytest
from interop.lab import Tunnel
from interop.network import TIMEOUT_S
from interop.traffic import is_answered, ping
from interop.wireguard import Interface, Peer, endpoint, written
from netns.lab import eventually

UDP_TIMEOUT_S = 2
ROAMED = {
    "wgpy": {4: "192.0.2.77", 6: "2001:db8:1::77"},
    "peer": {4: "198.51.100.77", 6: "2001:db8:2::77"},
}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("moving", ["wgpy", "peer"])
def test_a_new_address_is_followed(tunnel: Tunnel, moving: str, family: int) -> None:
    end, other = tunnel.pair(moving)
    if (end.kind, family) == ("wireguard-go", 4):
        pytest.skip("wireguard-go sticks to an IPv4 address that is gone")
    tunnel.connect(family)
    ping(end.host, other.inner4)
    address, away = end.outer(family), ROAMED[moving][family]
    try:
        for new in (away, end.outer(family)):
            end.host.set_outer(new, old=address)
            address = new
            ping(end.host, other.inner4)
            assert other.shown("endpoints", end) == written((new, end.port))
            ping(other.host, end.inner4)
    finally:
        if address == away:
            end.host.set_outer(end.outer(family), old=away)


def reach(tunnel: Tunnel, first: Interface, second: Interface) -> None:
    """At once, unless wireguard-go is there: it may send astray what follows a move to IPv6."""
    if tunnel.peer.kind != "wireguard-go":
        ping(first.host, second.inner4)
        return
    eventually(lambda: is_answered(first.host, second.inner4), "an answer", TIMEOUT_S)


@pytest.mark.parametrize("moving", ["wgpy", "peer"])
def test_a_session_moves_to_the_other_family_and_back(tunnel: Tunnel, moving: str) -> None:
    tunnel.connect(4)
    end, other = tunnel.pair(moving)
    ping(end.host, other.inner4)
    handshake = end.shown("latest-handshakes", other)
    for family in (6, 4):
        end.set("peer", other.public_key, "endpoint", endpoint(other, family))
        reach(tunnel, end, other)
        assert other.shown("endpoints", end) == endpoint(end, family)
        reach(tunnel, other, end)
    assert end.shown("latest-handshakes", other) == handshake


@pytest.mark.parametrize("inner", ["wgpy", "peer"])
def test_a_persistent_keepalive_keeps_a_short_lived_nat_mapping(tunnel: Tunnel, inner: str) -> None:
    tunnel.connect()
    end, other = tunnel.pair(inner)
    other.configure(Peer(end, outside=None))
    outward = "right" if inner == "wgpy" else "left"
    router = tunnel.network.router
    router.run(
        "nft",
        f"add table ip nat; add chain ip nat out {{ type nat hook postrouting priority 100; }};"
        f"add rule ip nat out oifname {outward} masquerade random",
    )
    try:
        for name in ("timeout", "timeout_stream"):
            router.sysctl(f"netfilter/nf_conntrack_udp_{name}", UDP_TIMEOUT_S)
        ping(end.host, other.inner4)
        assert other.shown("endpoints", end) != endpoint(end, 4)
        time.sleep(2 * UDP_TIMEOUT_S)
        assert not is_answered(other.host, end.inner4)
        end.set("peer", other.public_key, "persistent-keepalive", "1")
        eventually(lambda: is_answered(other.host, end.inner4), "an answer through the NAT")
        time.sleep(2 * UDP_TIMEOUT_S)
        assert is_answered(other.host, end.inner4)
    finally:
        router.run("nft", "flush", "ruleset")
