"""A gateway: what containers and a LAN behind the hosts send goes through the tunnel."""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from netns.lab import Namespace, Side, join_two, namespaces, plan_sides, statistic, transfer

LAN4 = {"left": "10.81.0", "right": "10.82.0"}
LAN6 = {"left": "fd81", "right": "fd82"}
BRIDGE4 = "10.83.0"
SIZE = 64 << 20  # bytes
SUPER_PACKET = 65535
RETRANSMITS_MAX = 1000  # of about 46,000 segments; a gateway that splits has tens of thousands

# argv: address, bytes per datagram, datagrams per send, sends.  Each has to come back as it was,
# when hosts have learned how long packets may be, which may cost one each way.
ECHO_CLIENT = """
import contextlib, os, socket, sys
address, size, train, sends = sys.argv[1], *map(int, sys.argv[2:])
with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(0.5)
    for _ in range(10):
        with contextlib.suppress(TimeoutError):
            s.sendto(bytes(size), (address, 5202))
            s.recv(65535)
            break
    s.settimeout(5)
    if train > 1:
        s.setsockopt(socket.SOL_UDP, 103, size)  # UDP_SEGMENT
    for _ in range(sends):
        sent = [b"\1" + os.urandom(size - 1) for _ in range(train)]
        s.sendto(b"".join(sent), (address, 5202))
        came = []
        while len(came) < train:
            came += [data for data in [s.recv(65535)] if data[0]]
        assert sorted(came) == sorted(sent)
"""
# argv: address
ECHO_SERVER = """
import socket, sys
address = sys.argv[1]
with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind((address, 5202))
    print("ready", flush=True)
    while True:
        s.sendto(*s.recvfrom(65535))
"""


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


Gateways = tuple[Side, Side, Namespace, Namespace]


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
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


def check_whole(left: Side, source: Namespace, target: Namespace, move: Callable[[], None]) -> None:
    """What moves SIZE bytes from source to target crosses the left's tunnel in super-packets."""
    frames, dropped = counters(left)
    retransmits = statistic(source, "TcpRetransSegs")
    move()
    more_frames, more_dropped = counters(left)
    assert statistic(source, "TcpRetransSegs") - retransmits <= RETRANSMITS_MAX
    assert more_dropped - dropped <= RETRANSMITS_MAX
    assert more_frames - frames < 8 * SIZE / SUPER_PACKET  # one by one: 47 times as many
    assert statistic(target, "TcpInCsumErrors") == 0


@pytest.mark.parametrize("address", [f"{LAN4['right']}.2", f"{LAN6['right']}::2"])
def test_a_stream_from_behind_the_gateway_crosses_whole(gateways: Gateways, address: str) -> None:
    left, _, source, target = gateways
    check_whole(left, source, target, lambda: transfer(source, target, address, SIZE))


def test_a_masqueraded_stream_crosses_whole(
    gateways: Gateways,
) -> None:
    left, _, source, target = gateways
    rule = f"oifname {left.interface} masquerade"
    chain = f"type nat hook postrouting priority srcnat; {rule};"
    left.host.run("nft", "-f", "-", stdin=f"table ip forward {{ chain out {{ {chain}\n}}\n}}\n")
    try:
        to = f"{LAN4['right']}.2"
        check_whole(left, source, target, lambda: transfer(source, target, to, SIZE))
    finally:
        left.host.run("nft", "delete table ip forward")


def test_a_stream_to_a_published_port_crosses_whole(
    gateways: Gateways,
) -> None:
    """DNAT: the right gateway's address in the tunnel stands for the host behind it."""
    left, right, source, target = gateways
    rule = f"ip daddr {right.inner4} tcp dport 5201 dnat to {LAN4['right']}.2"
    chain = f"type nat hook prerouting priority dstnat; {rule};"
    right.host.run("nft", "-f", "-", stdin=f"table ip forward {{ chain in {{ {chain}\n}}\n}}\n")
    left.host.run("ip", "route", "replace", f"{right.inner4}/32", "dev", left.interface)
    try:
        check_whole(
            left,
            source,
            target,
            lambda: transfer(source, target, right.inner4, SIZE, listen=f"{LAN4['right']}.2"),
        )
    finally:
        right.host.run("nft", "delete table ip forward")


@pytest.fixture
def containers(
    gateways: Gateways, namespace: Callable[..., Namespace]
) -> Iterator[tuple[Namespace, Namespace]]:
    """Two containers on a bridge of the left gateway, whose traffic netfilter sees."""
    gateway = gateways[0].host
    hosts = namespace(), namespace()
    gateway.run("ip", "link", "add", "bridge", "type", "bridge")
    gateway.run("ip", "address", "add", f"{BRIDGE4}.1/24", "dev", "bridge")
    gateway.run("ip", "link", "set", "bridge", "up")
    for number, host in enumerate(hosts, 2):
        port = f"port{number}"
        gateway.run(
            *("ip", "link", "add", port, "type", "veth", "peer", "name", "lan"),
            *("netns", host.name),
        )
        gateway.run("ip", "link", "set", port, "master", "bridge", "up")
        host.run("ip", "address", "add", f"{BRIDGE4}.{number}/24", "dev", "lan")
        host.run("ip", "link", "set", "lan", "up")
        host.run("ip", "route", "add", "default", "via", f"{BRIDGE4}.1")
    gateway.run("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
    masquerade = f"ip saddr {BRIDGE4}.0/24 masquerade"
    chain = f"type nat hook postrouting priority srcnat; {masquerade};"
    gateway.run("nft", "-f", "-", stdin=f"table ip containers {{ chain out {{ {chain}\n}}\n}}\n")
    yield hosts
    gateway.run("nft", "delete table ip containers")
    gateway.run("ip", "link", "delete", "bridge")


@pytest.mark.skipif(
    not Path("/proc/sys/net/bridge").exists(), reason="this kernel has no br_netfilter"
)
def test_streams_of_containers_on_a_bridge_cross_whole(
    gateways: Gateways, containers: tuple[Namespace, Namespace]
) -> None:
    left, _, _, target = gateways
    for source in containers:
        to = f"{LAN4['right']}.2"
        check_whole(left, source, target, partial(transfer, source, target, to, SIZE))


@pytest.mark.parametrize("to", [f"{LAN4['right']}.2", f"{LAN6['right']}::2"])
@pytest.mark.parametrize(("size", "train"), [(1372, 1), (1352, 45), (8000, 1)])
def test_datagrams_from_behind_the_gateway_come_as_they_were(
    gateways: Gateways, to: str, size: int, train: int
) -> None:
    *_, source, target = gateways
    server = target.popen(sys.executable, "-c", ECHO_SERVER, to)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n", server.communicate(timeout=5)
        arguments = (to, str(size), str(train), "20")
        source.run(sys.executable, "-c", ECHO_CLIENT, *arguments)
    finally:
        server.kill()
        server.communicate()


@pytest.fixture
def jumbo(gateways: Gateways) -> Iterator[None]:
    """LANs whose packets are six times as long as what the tunnel takes."""
    for mtu in ("9000", "1500"):
        for host in (gateways[0].host, gateways[1].host, gateways[2], gateways[3]):
            host.run("ip", "link", "set", "lan", "mtu", mtu)
        if mtu == "9000":
            yield


@pytest.mark.usefixtures("jumbo")
@pytest.mark.parametrize("address", [f"{LAN4['right']}.2", f"{LAN6['right']}::2"])
def test_a_stream_from_a_lan_of_jumbo_frames_crosses_whole(
    gateways: Gateways, address: str
) -> None:
    left, _, source, target = gateways
    check_whole(left, source, target, lambda: transfer(source, target, address, SIZE))


@pytest.fixture
def fraglist(gateways: Gateways) -> Iterator[None]:
    """Gateways that chain what belongs together, to forward it as it came, not as super-packets."""
    for state in ("on", "off"):
        for side in gateways[:2]:
            side.host.run("ethtool", "-K", "lan", "gro", state, "rx-gro-list", state)
        for host in gateways[2:]:
            host.run("ethtool", "-K", "lan", "tso", "off" if state == "on" else "on")
        if state == "on":
            yield


@pytest.mark.usefixtures("fraglist")
@pytest.mark.parametrize("address", [f"{LAN4['right']}.2", f"{LAN6['right']}::2"])
def test_a_stream_over_ports_with_fraglist_gro_comes_as_it_was(
    gateways: Gateways, address: str
) -> None:
    """It comes to the TUN in single packets, so TCP fills its queue and has to repeat some."""
    *_, source, target = gateways
    transfer(source, target, address, SIZE)
    assert statistic(target, "TcpInCsumErrors") == 0
