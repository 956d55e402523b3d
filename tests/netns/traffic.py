# SPDX-License-Identifier: MIT
"""What goes through a tunnel, compared where it comes out, and what its way cost; attacks."""

import json
import sys
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2s
from random import Random

from netns.lab import Namespace, Side, statistic

from wgpy.protocol.cookie import mac1_key

SUPER_PACKET = 65535  # bytes
STREAM = 64 << 20  # bytes
RETRANSMITS_MAX = 1000  # of its 46,000 segments; a gateway that splits has tens of thousands
FEW_PACKETS = 128 << 10  # bytes of a window; even in single packets they fit the TUN's queue
CHECKSUM_ERRORS = ("TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors", "IcmpInCsumErrors")

# Both print the SHA-256 of datagrams in order; argv: address, port, bytes of each, datagrams of a
# burst, bursts, 1 for UDP_SEGMENT.  The next burst comes when the one before has arrived whole.
# IPv4 is not to do path MTU discovery, so that its fragments may be fragmented on the way.
SEND_DATAGRAMS = """
import hashlib, os, socket, sys
size, burst, bursts, train = map(int, sys.argv[3:])
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
digest = hashlib.sha256()
with socket.socket(family, socket.SOCK_DGRAM) as s:
    s.settimeout(5)
    if family == socket.AF_INET:
        s.setsockopt(socket.IPPROTO_IP, 10, 5)  # IP_MTU_DISCOVER, IP_PMTUDISC_OMIT
    if train:
        s.setsockopt(socket.SOL_UDP, 103, size)  # UDP_SEGMENT
    s.connect((sys.argv[1], int(sys.argv[2])))
    for _ in range(bursts):
        data = os.urandom(size * burst)
        digest.update(data)
        step = len(data) if train else size
        for at in range(0, len(data), step):
            s.send(data[at:at + step])
        s.recv(1)
print(digest.hexdigest())
"""
RECEIVE_DATAGRAMS = """
import hashlib, socket, sys
size, burst, bursts, train = map(int, sys.argv[3:])
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
digest = hashlib.sha256()
with socket.socket(family, socket.SOCK_DGRAM) as s:
    s.settimeout(5)
    s.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
    s.bind((sys.argv[1], int(sys.argv[2])))
    print("listening", flush=True)
    for i in range(bursts):
        for j in range(burst):
            try:
                data, source = s.recvfrom(1 << 16)
            except TimeoutError:
                sys.exit(f"datagram {j} of burst {i} did not come")
            assert len(data) == size, len(data)
            digest.update(data)
        s.sendto(b".", source)
print(digest.hexdigest())
"""


@dataclass(frozen=True)
class Cost:
    """What the way of some traffic cost."""

    frames: int  # that left by the tunnel's interface: TUN reads
    dropped: int  # by the interface's queue
    retransmits: int  # of TCP segments at the source
    checksum_errors: int  # at the target, any protocol

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(
            self.frames - other.frames,
            self.dropped - other.dropped,
            self.retransmits - other.retransmits,
            self.checksum_errors - other.checksum_errors,
        )


def cost_of(move: Callable[[], None], by: Side, source: Namespace, target: Namespace) -> Cost:
    """What it costs to move something from the source to the target by a tunnel's end."""
    before = cost_so_far(by, source, target)
    move()
    return cost_so_far(by, source, target) - before


def cost_so_far(by: Side, source: Namespace, target: Namespace) -> Cost:
    shown = by.host.run("ip", "-j", "-s", "link", "show", "dev", by.interface)
    sent = json.loads(shown)[0]["stats64"]["tx"]
    errors = sum(statistic(target, name) for name in CHECKSUM_ERRORS)
    return Cost(sent["packets"], sent["dropped"], statistic(source, "TcpRetransSegs"), errors)


def check_whole(
    move: Callable[[], None], by: Side, source: Namespace, target: Namespace, size: int = STREAM
) -> None:
    """What moves a stream of so many bytes crosses in super-packets."""
    cost = cost_of(move, by, source, target)
    few = RETRANSMITS_MAX * size / STREAM
    assert cost.retransmits <= few
    assert cost.dropped <= few
    assert cost.frames < 8 * size / SUPER_PACKET  # one by one: 47 times as many
    assert cost.checksum_errors == 0


def send_datagrams(
    source: Namespace,
    target: Namespace,
    address: str,
    size: int,
    *,
    burst: int,
    bursts: int,
    train: bool = False,
) -> None:
    """Sends UDP datagrams of random content, a burst at a time; all have to come out, in order.

    train: a burst is one send with UDP_SEGMENT.
    """
    arguments = address, "5202", str(size), str(burst), str(bursts), str(int(train))
    receiver = target.popen(sys.executable, "-c", RECEIVE_DATAGRAMS, *arguments)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "listening\n", receiver.communicate(timeout=30)
    sender = source.popen(sys.executable, "-c", SEND_DATAGRAMS, *arguments)
    sent, failure = sender.communicate(timeout=30)
    received, errors = receiver.communicate(timeout=30)
    assert receiver.returncode == sender.returncode == 0, failure + errors
    assert received == sent


def junk_initiations(responder_key: str) -> bytes:
    """Messages of 148 bytes that cost the responder a Diffie-Hellman each, before it can tell."""
    random = Random(1)
    key, messages = mac1_key(b64decode(responder_key)), []
    for _ in range(512):
        body = b"\x01\0\0\0" + random.randbytes(112)
        messages.append(body + blake2s(body, key=key, digest_size=16).digest() + bytes(16))
    return b"".join(messages)
