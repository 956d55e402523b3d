# SPDX-License-Identifier: MIT
"""Changes while the tunnel is in use: of settings, of the link, and of the host around it."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice

import pytest
from netns.lab import Namespace, Side, ask, eventually, key_pair, ping, taken, transfer

STREAM_PORT = "5300"
# Sends numbered datagrams, 2000 per second, until it is told to stop.
STREAM = """
import select, socket, sys
target = sys.argv[1], int(sys.argv[2])
with socket.socket(type=socket.SOCK_DGRAM) as s:
    number = 0
    while number < 500 or not select.select([sys.stdin], [], [], 0.002)[0]:
        for _ in range(4):
            s.sendto(number.to_bytes(4, "big"), target)
            number += 1
    for _ in range(9):
        s.sendto(b"end", target)
print(number)
"""
COLLECT = """
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as s:
    s.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    s.bind((sys.argv[1], int(sys.argv[2])))
    print("listening", flush=True)
    s.settimeout(20)
    numbers = []
    while (data := s.recv(64)) != b"end":
        numbers.append(int.from_bytes(data, "big"))
print(len(set(numbers)), len(numbers), numbers == sorted(numbers))
"""
# Runs a command on a host whose kernel lacks an address family; argv: family, command.
LACKING = """
import ctypes, os, platform, struct, sys
SYS_SOCKET = {"x86_64": 41, "aarch64": 198}[platform.machine()]
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
program = [
    (LOAD, 0, 0, 0), (EQUAL, 0, 3, SYS_SOCKET),
    (LOAD, 0, 0, 16), (EQUAL, 0, 1, int(sys.argv[1])),
    (RETURN, 0, 0, 0x00050000 | 97),  # EAFNOSUPPORT
    (RETURN, 0, 0, 0x7FFF0000),
]
code = b"".join(struct.pack("=HBBI", *step) for step in program)
filter = struct.pack("@HP", len(program), ctypes.cast(code, ctypes.c_void_p).value)
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filter):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Streams:
    """Datagrams both ways between two sides, from the start until `lost` is asked."""

    def __init__(self, left: Side, right: Side) -> None:
        self._collectors = []
        self._senders = []
        for source, target in ((left, right), (right, left)):
            arguments = target.inner4, STREAM_PORT
            collector = target.host.popen(sys.executable, "-c", COLLECT, *arguments)
            assert collector.stdout is not None
            assert collector.stdout.readline() == "listening\n"
            self._collectors.append(collector)
            self._senders.append(
                subprocess.Popen(
                    source.host.argv(sys.executable, "-c", STREAM, *arguments),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )

    def lost(self) -> list[int]:
        """Stops, and tells how many were lost each way."""
        result = []
        for sender, collector in zip(self._senders, self._collectors, strict=True):
            sent = int(sender.communicate("\n", timeout=20)[0])
            different, received, in_order = collector.communicate(timeout=30)[0].split()
            assert different == received, "packets arrived twice"
            assert in_order == "True", "packets were reordered"
            result.append(sent - int(received))
        return result

    def kill(self) -> None:
        for process in self._senders + self._collectors:
            process.kill()
            process.communicate()


@contextmanager
def streams(left: Side, right: Side) -> Iterator[Streams]:
    for side in (left, right):  # room for the time in which a busy machine runs something else
        side.host.run("ip", "link", "set", side.interface, "txqueuelen", "10000")
    both = Streams(left, right)
    try:
        yield both
    finally:
        both.kill()


def handshake_ns(side: Side) -> int:
    """When the last handshake with the first peer was, to the nanosecond."""
    times = re.search(r"last_handshake_time_sec=(\d+)\n.*_nsec=(\d+)\n", ask(side, "get=1\n\n"))
    assert times is not None
    return int(times[1]) * 10**9 + int(times[2])


def is_open(host: Namespace, port: str = "51820") -> bool:
    return f":{port} " in host.run("ss", "-uln")


# ---- peers ----


def test_syncconf_loses_not_one_packet_of_a_peer_that_stays(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    first_handshake = handshake_ns(left)
    others = [key_pair()[1] for _ in range(3)]
    sections = [
        f"[Peer]\nPublicKey = {key}\nAllowedIPs = 10.{number}.0.0/16, fd0{number}::/32\n"
        for number, key in enumerate(others)
    ]
    edits = [
        left.settings(right),
        left.settings(right) + "".join(sections[:2]),
        left.settings(right) + "".join(sections[1:]),
        left.settings(right) + "".join(sections).replace("10.0.0.0/16", "10.0.0.0/8"),
    ]
    with streams(left, right) as both:
        for settings in islice(cycle(edits), 60):
            left.host.run("wg", "syncconf", left.interface, "/dev/stdin", stdin=settings)
        assert both.lost() == [0, 0]
    assert handshake_ns(left) == first_handshake


def test_a_peer_can_be_removed_in_the_middle_of_a_transfer(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    with streams(left, right) as both:
        eventually(lambda: int(left.show("transfer").split()[2]) > 50_000, "packets")
        left.set("peer", right.public_key, "remove")
        assert left.show("peers") == ""
        left.setconf(left.settings(right))
        ping(left.host, right.inner4)
        both.lost()


def test_replacing_all_peers_ends_their_sessions(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    before = handshake_ns(left)
    left.setconf(left.settings(right))
    assert handshake_ns(left) == 0
    ping(left.host, right.inner4)
    assert handshake_ns(left) > before


def test_an_endpoint_makes_no_handshake_by_itself(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    left.set("peer", right.public_key, "endpoint", f"[{right.host.outer6}]:51820")
    assert left.show("transfer") == f"{right.public_key}\t0\t0"
    ping(left.host, right.inner4)
    assert right.show("endpoints") == f"{left.public_key}\t[{left.host.outer6}]:51820"


def test_switching_the_persistent_keepalive_on_sends_one_at_once(
    tunnel: tuple[Side, Side],
) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    received = right.show("transfer").split()[1]
    assert received == "532"
    left.set("peer", right.public_key, "persistent-keepalive", "60")
    eventually(lambda: right.show("transfer").split()[1] == "564", "a keepalive of 32 bytes")


# ---- identity ----


def test_another_private_key_ends_the_sessions_and_handshakes_follow(
    tunnel: tuple[Side, Side],
) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    private_key, public_key = key_pair()
    right.set("peer", public_key, "allowed-ips", "192.0.2.200/32")
    left.set("private-key", "/dev/stdin", stdin=private_key)
    left.host.run("ping", "-c", "1", "-W", "0.2", right.inner4, check=False)
    handshakes = dict(line.split("\t") for line in right.show("latest-handshakes").splitlines())
    assert int(handshakes[public_key]) > 0
    right.set("peer", public_key, "allowed-ips", f"{left.inner4}/32")
    ping(left.host, right.inner4)
    ping(right.host, left.inner4)


def test_the_same_private_key_is_no_change(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    before = handshake_ns(left)
    left.set("private-key", "/dev/stdin", stdin=left.private_key)
    ping(left.host, right.inner4)
    assert handshake_ns(left) == before


def test_a_peer_that_we_become_disappears(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    private_key, public_key = key_pair()
    left.set("peer", public_key, "allowed-ips", "10.9.0.0/16")
    left.set("private-key", "/dev/stdin", stdin=private_key)
    assert left.show("public-key") == public_key
    assert left.show("peers") == right.public_key


# ---- port and mark ----


def test_the_peer_follows_to_another_listen_port(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    before = handshake_ns(left)
    left.set("listen-port", "51999")
    ping(left.host, right.inner4)
    ping(right.host, left.inner4)
    assert not is_open(left.host)
    assert right.show("endpoints").endswith(f"\t{left.host.outer4}:51999")
    assert handshake_ns(left) == before


def test_the_same_listen_port_loses_nothing(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    with streams(left, right) as both:
        for _ in range(20):
            left.set("listen-port", "51820", "fwmark", "off")
        assert both.lost() == [0, 0]


def test_a_listen_port_in_use_leaves_the_old_one_and_all_packets(
    tunnel: tuple[Side, Side],
) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    with taken(left.host, 51999), streams(left, right) as both:
        for _ in range(10):
            command = left.host.argv("wg", "set", left.interface, "listen-port", "51999")
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 1
            assert "Address already in use" in done.stderr
        assert left.show("listen-port") == "51820"
        assert both.lost() == [0, 0]


def test_packets_carry_the_fwmark_as_soon_as_it_is_set(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    rules = """
        table inet marks {
            counter marked {}
            counter others {}
            chain out {
                type filter hook output priority 0;
                udp dport 51820 meta mark 0x2a counter name marked accept
                udp dport 51820 counter name others
            }
        }"""
    left.set("fwmark", "0x2a")
    left.host.run("nft", "-f", "-", stdin=rules)

    def packets(counter: str) -> int:
        text = left.host.run("nft", "list", "counter", "inet", "marks", counter)
        return int(text.split("packets ")[1].split()[0])

    try:
        ping(left.host, right.inner4)
        assert (packets("marked"), packets("others")) == (3, 0)
        left.set("fwmark", "off")
        ping(left.host, right.inner4)
        assert (packets("marked"), packets("others")) == (3, 3)
    finally:
        left.host.run("nft", "delete", "table", "inet", "marks")


# ---- link ----


@pytest.mark.parametrize("who", ["the initiator", "the responder"])
def test_a_link_that_was_down_forgot_its_sessions_and_starts_anew(
    tunnel: tuple[Side, Side], who: str
) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    before = handshake_ns(left)
    side, peer = (left, right) if who == "the initiator" else (right, left)
    side.host.run("ip", "link", "set", side.interface, "down")
    eventually(lambda: not is_open(side.host), "a closed port")
    side.host.run("ip", "link", "set", side.interface, "up")
    side.host.run("ip", "address", "replace", f"{side.inner6}/64", "dev", side.interface, "nodad")
    eventually(lambda: is_open(side.host), "an open port")
    ping(side.host, peer.inner4)
    assert handshake_ns(left) > before


def flap(side: Side, times: int) -> None:
    """Down and up at a pace at which each is noticed, and the peer would refuse to be so often.

    The persistent keepalive asks for a session at once, each time.
    """
    states = (f"ip link set {side.interface} {state}; sleep 0.004" for state in ("down", "up"))
    side.host.run("sh", "-euc", f"for i in $(seq {times}); do {'; '.join(states)}; done")


def ping_without_a_retry(host: Namespace, address: str) -> None:
    """One answer has to come before an unanswered initiation is repeated, which is after 5 s."""
    host.run("ping", "-n", "-c", "1", "-i", "0.02", "-w", "4", address)


def test_flaps_of_the_link_cost_no_retry(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    left.set("peer", right.public_key, "persistent-keepalive", "1000")
    for times in [2] * 10 + [30]:
        flap(left, times)
        ping_without_a_retry(left.host, right.inner4)


def test_another_listen_port_right_after_flaps_costs_no_retry(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    left.set("peer", right.public_key, "persistent-keepalive", "1000")
    for port in range(52000, 52010):
        flap(left, 2)
        left.set("listen-port", str(port))
        ping_without_a_retry(left.host, right.inner4)


def test_the_mtu_may_change_during_a_transfer(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(transfer, left.host, right.host, right.inner4, 32 << 20)
        mtus = cycle(["1280", "1420", "9000", "1420"])
        while not busy.done():
            for side in tunnel:
                side.host.run("ip", "link", "set", side.interface, "mtu", next(mtus))
        busy.result()
    for side in tunnel:
        side.host.run("ip", "link", "set", side.interface, "mtu", "1420")


@pytest.mark.parametrize("mtu", [68, 576, 65455])
def test_any_mtu_will_do(tunnel: tuple[Side, Side], mtu: int) -> None:
    left, right = tunnel
    try:
        for side in tunnel:
            side.host.run("ip", "link", "set", side.interface, "mtu", str(mtu))
        ping(left.host, right.inner4, size=mtu - 28)
    finally:
        for side in tunnel:
            side.host.run("ip", "link", "set", side.interface, "mtu", "1420")
            address = f"{side.inner6}/64"  # an MTU below 1280 took it away
            side.host.run("ip", "address", "replace", address, "dev", side.interface, "nodad")


# ---- name and namespace ----


@pytest.fixture
def fresh(sides: tuple[Side, Side]) -> tuple[Side, Side]:
    """A tunnel of this test's own."""
    left, right = sides
    for side, peer in (sides, sides[::-1]):
        side.host.run("wgpy", side.interface)
        side.configure(side.settings(peer))
    ping(left.host, right.inner4)
    return sides


def assert_alive(left: Side, right: Side, host: Namespace, name: str) -> None:
    """The interface follows its link under this name on this host, and dies with it."""
    ping(host, right.inner4)
    for side, where, link in ((left, host, name), (right, right.host, right.interface)):
        where.run("ip", "link", "set", link, "mtu", "9000")
        assert side.show("listen-port") == "51820"
    ping(host, right.inner4, size=8900)
    host.run("ip", "link", "set", name, "down")
    eventually(lambda: not is_open(left.host), "a closed port")
    host.run("ip", "link", "set", name, "up")
    eventually(lambda: is_open(left.host), "an open port")
    ping(host, right.inner4)
    host.run("ip", "link", "delete", name)
    eventually(lambda: not left.host.pids(), "the end of the daemon", 3)
    assert not left.socket.exists()


def test_an_interface_in_use_may_be_renamed(fresh: tuple[Side, Side]) -> None:
    left, right = fresh
    left.host.run("ip", "link", "set", left.interface, "down")
    left.host.run("ip", "link", "set", left.interface, "name", "renamed")
    left.host.run("ip", "link", "set", "renamed", "up")
    assert_alive(left, right, left.host, "renamed")


def test_an_interface_in_use_may_move_to_another_namespace(
    fresh: tuple[Side, Side], namespace: Callable[[], Namespace]
) -> None:
    left, right = fresh
    inside = namespace()
    left.host.run("ip", "link", "set", left.interface, "netns", inside.name)
    inside.run("ip", "address", "add", f"{left.inner4}/24", "dev", left.interface)
    inside.run("ip", "link", "set", left.interface, "up")
    assert_alive(left, right, inside, left.interface)


def test_an_interface_may_come_back_to_the_namespace_of_its_daemon(
    fresh: tuple[Side, Side], namespace: Callable[[], Namespace]
) -> None:
    left, right = fresh
    inside = namespace()
    left.host.run("ip", "link", "set", left.interface, "netns", inside.name)
    inside.run("ip", "link", "set", left.interface, "up")
    inside.run("ip", "link", "set", left.interface, "netns", left.host.name)
    left.host.run("ip", "address", "add", f"{left.inner4}/24", "dev", left.interface)
    left.host.run("ip", "link", "set", left.interface, "up")
    assert_alive(left, right, left.host, left.interface)


# ---- a host without one of the families ----


def bring_up_ipv4(side: Side, peer: Side, outside: int = 4) -> None:
    allowed = f"{peer.inner4}/32"
    side.setconf(side.settings(peer, outside=outside, allowed=allowed))
    side.host.run("ip", "address", "add", f"{side.inner4}/24", "dev", side.interface)
    side.host.run("ip", "link", "set", side.interface, "up")
    eventually(lambda: is_open(side.host), "an open port")


def test_ipv4_works_where_ipv6_is_disabled(sides: tuple[Side, Side]) -> None:
    left, right = sides
    for scope in ("all", "default"):
        left.host.run("sysctl", "-q", "-w", f"net.ipv6.conf.{scope}.disable_ipv6=1")
    for side, peer in (sides, sides[::-1]):
        side.host.run("wgpy", side.interface)
        bring_up_ipv4(side, peer)
    ping(left.host, right.inner4)
    assert left.show("listen-port") == "51820"
    left.set("listen-port", "0")
    assert is_open(left.host, left.show("listen-port"))
    ping(left.host, right.inner4)


@pytest.mark.parametrize("outside", [4, 6])
def test_one_family_works_where_the_kernel_lacks_the_other(
    sides: tuple[Side, Side], outside: int
) -> None:
    left, right = sides
    lacking = {4: "10", 6: "2"}[outside]  # AF_INET6, AF_INET
    left.host.run(sys.executable, "-c", LACKING, lacking, "wgpy", left.interface)
    right.host.run("wgpy", right.interface)
    bring_up_ipv4(left, right, outside)
    bring_up_ipv4(right, left, outside)
    assert left.show("listen-port") == "51820"
    ping(left.host, right.inner4)
    left.set("listen-port", "0")
    assert is_open(left.host, left.show("listen-port"))
    ping(left.host, right.inner4)
