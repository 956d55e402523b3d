# SPDX-License-Identifier: MIT
"""A bridge with containers on it; netfilter sees what crosses it, and tracks connections."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from netns.gateways import Gateways, make_gateways
from netns.lab import Namespace, Side, chain, namespaces, plan_sides, transfer
from netns.traffic import STREAM, SUPER_PACKET, check_whole, send_datagrams

NETWORK = "10.83.0"
# Tracking connections, it puts fragments together, which the bridge then makes anew.
TRACK = "type filter hook forward priority filter; ct state established udp dport 51820 counter;"
SIZE = STREAM // 4  # bytes
WINDOW = 1 << 20  # bytes on their way: a socket has room for that, even in fragments

pytestmark = pytest.mark.skipif(
    not Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists(),
    reason="the kernel has no br_netfilter",
)


def make_bridge(host: Namespace) -> None:
    host.run("ip", "link", "add", "bridge", "type", "bridge")
    host.run("ip", "link", "set", "bridge", "addrgenmode", "none", "up")
    calls = "net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1"
    host.run("sysctl", "-qw", *calls)


def plug_in(bridge: Namespace, port: str, host: Namespace, device: str, mtu: int = 1500) -> None:
    """A cable from a port of the bridge to a device of the host."""
    veth = ["type", "veth", "peer", "name", device, "netns", host.name]
    bridge.run("ip", "link", "add", port, "mtu", str(mtu), *veth)
    bridge.run("ip", "link", "set", port, "master", "bridge")
    for end, name in ((bridge, port), (host, device)):
        end.run("ip", "link", "set", name, "mtu", str(mtu), "addrgenmode", "none", "up")


@pytest.fixture(scope="module")
def containers(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Gateways, Namespace, Namespace]]:
    """The left gateway has a bridge with two containers, whose addresses it hides."""
    with namespaces() as make:
        gateways = make_gateways(make, tmp_path_factory.mktemp("containers"))
        host = gateways.left.host
        make_bridge(host)
        host.run("ip", "address", "add", f"{NETWORK}.1/24", "dev", "bridge")
        pair = make(), make()
        for i, container in enumerate(pair, 2):
            plug_in(host, f"port{i}", container, "eth0")
            container.run("ip", "address", "add", f"{NETWORK}.{i}/24", "dev", "eth0")
            container.run("ip", "route", "add", "default", "via", f"{NETWORK}.1")
        rules = f"ip saddr {NETWORK}.0/24 oifname {gateways.left.interface} masquerade"
        with chain(host, f"type nat hook postrouting priority srcnat; {rules};"):
            yield gateways, *pair


def test_a_containers_stream_crosses_whole(
    containers: tuple[Gateways, Namespace, Namespace],
) -> None:
    gateways, container, _ = containers
    left, _, _, target = gateways.parts
    address = gateways.address(4)
    check_whole(lambda: transfer(container, target, address, STREAM), left, container, target)


def test_a_stream_to_a_containers_published_port_crosses_whole(
    containers: tuple[Gateways, Namespace, Namespace],
) -> None:
    gateways, _, container = containers
    left, right, _, client = gateways.parts
    listen = f"{NETWORK}.3"
    rule = f"ip daddr {left.inner4} tcp dport 5201 dnat to {listen}"
    with chain(left.host, f"type nat hook prerouting priority dstnat; {rule};", table="publish"):
        check_whole(
            lambda: transfer(client, container, left.inner4, STREAM, listen=listen),
            right,
            client,
            container,
        )


@pytest.mark.parametrize(("size", "train"), [(1372, False), (1372, True), (8000, False)])
def test_a_containers_datagrams_arrive(
    containers: tuple[Gateways, Namespace, Namespace], size: int, train: bool
) -> None:
    gateways, container, _ = containers
    target, address = gateways.target, gateways.address(4)
    send_datagrams(container, target, address, size, burst=16, bursts=50, train=train)


@pytest.fixture(params=[1500, 1400], ids=["MTU 1500", "MTU 1400, in fragments"])
def bridged(
    request: pytest.FixtureRequest, namespace: Callable[..., Namespace], tmp_path: Path
) -> Iterator[tuple[Side, Side, Namespace]]:
    """The ends of the tunnel are containers on a host's bridge themselves."""
    host = namespace()
    make_bridge(host)
    pair = namespace("192.0.2.1", "2001:db8::1"), namespace("192.0.2.2", "2001:db8::2")
    for i, container in enumerate(pair):
        plug_in(host, f"port{i}", container, "cable", request.param)
        container.run("ip", "address", "add", f"{container.outer4}/24", "dev", "cable")
        container.run("ip", "address", "add", f"{container.outer6}/64", "dev", "cable", "nodad")
    with chain(host, TRACK, family="inet"):
        yield *plan_sides(pair, tmp_path), host


@pytest.mark.parametrize("outside", [4, 6])
def test_a_tunnel_between_containers_crosses_the_bridge(
    bridged: tuple[Side, Side, Namespace], outside: int
) -> None:
    left, right, host = bridged
    for side, peer in ((left, right), (right, left)):
        side.host.run("wgpy", side.interface)
        side.configure(side.settings(peer, outside=outside))
    check_whole(
        lambda: transfer(left.host, right.host, right.inner4, SIZE, window=WINDOW),
        left,
        left.host,
        right.host,
        SIZE,
    )
    (seen,) = re.findall(r"counter packets (\d+)", host.run("nft", "list", "table", "inet", "lab"))
    assert int(seen) >= SIZE / SUPER_PACKET
