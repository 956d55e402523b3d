"""What is sent arrives, unharmed, while settings change and links misbehave."""

import pytest
from interop.lab import (
    CABLE_MTU,
    DEFAULT_MTU,
    JUMBO_MTU,
    Peer,
    Tunnel,
    exchange_udp,
    new_psk,
    ping,
    streaming,
)

LENGTH = 1 << 20
SHORT = 1 << 18
SIZES = [0, 1, 15, 16, 17, *range(100, 1372, 4)]
FEW_SIZES = SIZES[::5]
HEADERS = {4: 28, 6: 48}  # of IP and ICMP


@pytest.mark.parametrize("inside", [4, 6])
@pytest.mark.parametrize("outside", [4, 6])
def test_tcp_both_ways(tunnel: Tunnel, outside: int, inside: int) -> None:
    tunnel.connect(outside)
    with streaming(*tunnel.ends, inside) as stream:
        stream.wait_for(LENGTH)


@pytest.mark.parametrize("inside", [4, 6])
@pytest.mark.parametrize("outside", [4, 6])
def test_udp_both_ways(tunnel: Tunnel, outside: int, inside: int) -> None:
    tunnel.connect(outside)
    exchange_udp(tunnel.ends, inside, SIZES)


@pytest.mark.parametrize("mtu", [1280, 1420, 1500, 8921, 34816])
def test_packets_of_every_size_up_to_the_mtu(tunnel: Tunnel, mtu: int) -> None:
    tunnel.connect()
    try:
        if mtu > CABLE_MTU:
            tunnel.network.set_mtu(JUMBO_MTU)
        for end in tunnel.ends:
            end.set_mtu(mtu)
        for first, second in (tunnel.ends, tunnel.ends[::-1]):
            for family in (4, 6):
                ping(first.host, second.inner(family), mtu - HEADERS[family])
        exchange_udp(tunnel.ends, 4, [mtu - HEADERS[4] - back for back in range(34)])
        with streaming(*tunnel.ends, 4) as stream:
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


IMPAIRMENTS = {
    "1% loss": "loss 1%",
    "5% loss": "loss 5%",
    "reordering": "delay 5ms reorder 25% 50%",
    "duplication": "duplicate 20%",
    "100 ms delay": "delay 100ms",
}


@pytest.mark.parametrize("impairment", IMPAIRMENTS)
def test_a_bad_link(tunnel: Tunnel, impairment: str) -> None:
    if not tunnel.network.has_netem():
        pytest.skip("this kernel has no netem")
    tunnel.connect()
    tunnel.network.impair(IMPAIRMENTS[impairment])
    try:
        with streaming(*tunnel.ends, 4) as stream:
            stream.wait_for(SHORT)
        if "loss" not in impairment:
            exchange_udp(tunnel.ends, 4, FEW_SIZES)
    finally:
        tunnel.network.repair()
