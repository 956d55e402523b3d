"""A gateway: what containers and a LAN behind the hosts send goes through the tunnel."""

import json
import re
from collections.abc import Callable, Iterator

import pytest
from netns.conftest import join_two, namespaces, plan_sides
from netns.lab import Namespace, Side, transfer

LAN4 = {"left": "10.81.0", "right": "10.82.0"}
LAN6 = {"left": "fd81", "right": "fd82"}
SIZE = 64 << 20  # bytes
SUPER_PACKET = 65535
RETRANSMITS_MAX = 1000  # of about 46,000 segments; a gateway that splits has tens of thousands


def attach(gateway: Namespace, host: Namespace, side: str, other: str) -> None:
    """A host behind a gateway, on a network of their own."""
    veth = ["type", "veth", "peer", "name", "lan", "netns", host.name]
    gateway.run("ip", "link", "add", "lan", *veth)
    for end, number in ((gateway, 1), (host, 2)):
        end.run("ip", "address", "add", f"{LAN4[side]}.{number}/24", "dev", "lan")
        end.run("ip", "address", "add", f"{LAN6[side]}::{number}/64", "dev", "lan", "nodad")
        end.run("sysctl", "-qw", "net.ipv6.conf.lan.accept_dad=0")
        end.run("ip", "link", "set", "lan", "up")
    host.run("ip", "route", "add", "default", "via", f"{LAN4[side]}.1")
    host.run("ip", "route", "add", "default", "via", f"{LAN6[side]}::1")
    gateway.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")


@pytest.fixture(scope="module")
def gateways(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Side, Side, Namespace, Namespace]]:
    """Two gateways with a tunnel, and a host behind each."""
    with namespaces() as make:
        left, right = plan_sides(join_two(make), tmp_path_factory.mktemp("gateways"))
        hosts = make(), make()
        names = ("left", "right"), ("right", "left")
        for side, peer, host, (name, other) in zip(
            (left, right), (right, left), hosts, names, strict=True
        ):
            attach(side.host, host, name, other)
            side.host.run("wgpy", side.interface)
            lan = f"{LAN4[other]}.0/24, {LAN6[other]}::/64"
            allowed = f"{peer.inner4}/32, {peer.inner6}/128, {lan}"
            side.configure(side.settings(peer, allowed=allowed))
            for network in lan.split(", "):
                side.host.run("ip", "route", "add", network, "dev", side.interface)
        yield left, right, *hosts


def counters(side: Side) -> tuple[int, int]:
    """Frames that left by the tunnel's interface, and those that its queue dropped."""
    shown = side.host.run("ip", "-j", "-s", "link", "show", "dev", side.interface)
    sent = json.loads(shown)[0]["stats64"]["tx"]
    return sent["packets"], sent["dropped"]


def statistic(host: Namespace, name: str) -> int:
    (value,) = re.findall(rf"^{name}\s+(\d+)", host.run("nstat", "-asz", name), re.MULTILINE)
    return int(value)


def check_whole(
    gateways: tuple[Side, Side, Namespace, Namespace], move: Callable[[], None]
) -> None:
    """What moves SIZE bytes from the left host to the right one crosses in super-packets."""
    left, _right, source, target = gateways
    frames, dropped = counters(left)
    retransmits = statistic(source, "TcpRetransSegs")
    move()
    more_frames, more_dropped = counters(left)
    assert statistic(source, "TcpRetransSegs") - retransmits <= RETRANSMITS_MAX
    assert more_dropped - dropped <= RETRANSMITS_MAX
    assert more_frames - frames < 8 * SIZE / SUPER_PACKET  # one by one: 47 times as many
    assert statistic(target, "TcpInCsumErrors") == 0


@pytest.mark.parametrize("address", [f"{LAN4['right']}.2", f"{LAN6['right']}::2"])
def test_a_stream_from_behind_the_gateway_crosses_whole(
    gateways: tuple[Side, Side, Namespace, Namespace], address: str
) -> None:
    _, _, source, target = gateways
    check_whole(gateways, lambda: transfer(source, target, address, SIZE))


def test_a_masqueraded_stream_crosses_whole(
    gateways: tuple[Side, Side, Namespace, Namespace],
) -> None:
    left, _, source, target = gateways
    rule = f"oifname {left.interface} masquerade"
    chain = f"type nat hook postrouting priority srcnat; {rule};"
    left.host.run("nft", "-f", "-", stdin=f"table ip forward {{ chain out {{ {chain}\n}}\n}}\n")
    try:
        check_whole(gateways, lambda: transfer(source, target, f"{LAN4['right']}.2", SIZE))
    finally:
        left.host.run("nft", "delete table ip forward")


def test_a_stream_to_a_published_port_crosses_whole(
    gateways: tuple[Side, Side, Namespace, Namespace],
) -> None:
    """DNAT: the right gateway's address in the tunnel stands for the host behind it."""
    _, right, source, target = gateways
    rule = f"ip daddr {right.inner4} tcp dport 5201 dnat to {LAN4['right']}.2"
    chain = f"type nat hook prerouting priority dstnat; {rule};"
    right.host.run("nft", "-f", "-", stdin=f"table ip forward {{ chain in {{ {chain}\n}}\n}}\n")
    left = gateways[0]
    left.host.run("ip", "route", "replace", f"{right.inner4}/32", "dev", left.interface)
    try:
        check_whole(
            gateways,
            lambda: transfer(source, target, right.inner4, SIZE, listen=f"{LAN4['right']}.2"),
        )
    finally:
        right.host.run("nft", "delete table ip forward")
