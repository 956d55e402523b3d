# SPDX-License-Identifier: MIT
"""loops.c: what we sent to a peer comes out of the TUN, to be sent to that peer once more.

And what comes of the word of control that it does.
"""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from ipaddress import ip_address
from itertools import product
from socket import AF_INET, AF_INET6, AddressFamily, inet_pton

import pytest
from core_numbers import (
    INITIATION_LEN,
    MESSAGE_COOKIE_REPLY,
    MESSAGE_INITIATION,
    MESSAGE_RESPONSE,
    MESSAGE_TRANSPORT,
    RESPONSE_LEN,
)

from wgpy.config import AllowedIP, Endpoint
from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import PendingEvent, Session
from wgpy.ports import Feature

from .ends import NO_FEATURES, start
from .packets import MF, UDP, Packet, vnet

pytestmark = pytest.mark.threads

IP_RECVTTL = 12  # <linux/in.h>
LOOPBACK = {AF_INET: inet_pton(AF_INET, "127.0.0.1"), AF_INET6: inet_pton(AF_INET6, "::1")}
V4 = Packet(4, UDP, dst=int(ip_address("10.9.0.1")))
V6 = Packet(6, UDP, src=int(ip_address("fd77::1")), dst=int(ip_address("fd09::1")))
WITNESS = Packet(4, UDP, dst=int(ip_address("10.8.0.1")))
WITNESS_INDEX = 0xFFFFFFFF
INDEX = 0x01020304  # of the peer's session
FRAGMENT = 44


def message(kind: int, index: int, length: int = 64) -> bytes:
    head = kind.to_bytes(4, "little") + index.to_bytes(4, "little")
    return head + bytes(length - len(head))


OURS = message(MESSAGE_TRANSPORT, INDEX)


class Tunnel:
    """A running plane with a peer behind V4 and V6, and one more behind WITNESS."""

    def __init__(
        self, stack: ExitStack, features: Feature = NO_FEATURES, family: AddressFamily = AF_INET
    ) -> None:
        self.plane = stack.enter_context(closing(Plane()))
        self._vnet = vnet() if features & Feature.VNET_HDR else b""
        self.tun, self.udp = start(self.plane, stack, features, family)
        self.peer = self.add_peer("10.9.0.0", "fd09::")
        self.install(self.peer, INDEX)
        self.install(self.add_peer("10.8.0.0"), WITNESS_INDEX)

    def add_peer(self, *networks: str) -> int:
        slot = self.plane.add_peer()
        self.plane.set_endpoint(slot, self.endpoint)
        prefixes = [AllowedIP(ip_address(network).packed, 16) for network in networks]
        self.plane.change_allowed_ips(slot, prefixes)
        return slot

    def install(self, slot: int, remote_index: int, *, initiator: bool = True) -> int:
        index = self.plane.reserve_index(slot)
        session = Session(bytes(32), bytes(32), index, remote_index, self.plane.now_ns(), initiator)
        self.plane.install_keypair(slot, session)
        return index

    def sends(self, frame: bytes) -> int:
        """How many datagrams leave for a frame."""
        self.tun.send(frame)
        self.tun.send(self._vnet + bytes(WITNESS))
        count = 0
        while self.udp.recv(65535)[4:8] != WITNESS_INDEX.to_bytes(4, "little"):
            count += 1
        return count

    def judge(self, *, looped: bool) -> None:
        self.plane.set_looped(self.peer, self.endpoint, looped)

    @property
    def endpoint(self) -> Endpoint:
        family: AddressFamily = self.udp.family
        return Endpoint(LOOPBACK[family], self.udp.getsockname()[1])

    @property
    def looped(self) -> int:
        return self.plane.counters()["tx_looped"]


@pytest.fixture
def tunnel() -> Iterator[Tunnel]:
    with ExitStack() as stack:
        yield Tunnel(stack)


def fragment(packet: Packet, offset: int) -> bytes:
    """An IPv6 packet as a fragment with more to follow; offset: bytes."""
    whole = bytearray(bytes(packet))
    whole[6] = FRAGMENT
    whole[4:6] = (len(whole) - 40 + 8).to_bytes(2, "big")
    return (
        bytes(whole[:40])
        + bytes([UDP, 0])
        + (offset | 1).to_bytes(2, "big")
        + bytes(4)
        + whole[40:]
    )


WAYS = {
    "ipv4": bytes(replace(V4, payload=OURS)),
    "ipv6": bytes(replace(V6, payload=OURS)),
    "ipv4 with options": bytes(replace(V4, payload=OURS, ip_options=bytes([1, 1, 1, 0]))),
    "ipv4, first fragment": bytes(replace(V4, payload=OURS, fragment=MF)),
    "ipv6, first fragment": fragment(replace(V6, payload=OURS), 0),
    "no more than its beginning": bytes(replace(V4, payload=OURS[:8])),
}
OTHERS = {
    "another session's": bytes(replace(V4, payload=message(MESSAGE_TRANSPORT, INDEX + 1))),
    "another type": bytes(replace(V4, payload=message(0x10004, INDEX))),
    "a cookie reply": bytes(replace(V4, payload=message(MESSAGE_COOKIE_REPLY, INDEX))),
    "another protocol": bytes(replace(V4, payload=OURS, protocol=136)),
    "ipv4, later fragment": bytes(replace(V4, payload=OURS, fragment=MF | 100)),
    "ipv6, later fragment": fragment(replace(V6, payload=OURS), 800),
    "ipv6, cut off in the fragment header": fragment(V6, 0)[:46],
    "cut off before the index ends": bytes(replace(V4, payload=OURS[:7])),
    "nothing in it": bytes(V4),
}


@pytest.mark.parametrize("frame", WAYS.values(), ids=WAYS.keys())
def test_a_message_to_the_peer_goes_to_the_peer_no_more(tunnel: Tunnel, frame: bytes) -> None:
    assert tunnel.sends(frame) == 0
    assert tunnel.looped == 1
    assert PendingEvent(tunnel.peer, False, False, False, True) in tunnel.plane.take_events()


@pytest.mark.parametrize("frame", OTHERS.values(), ids=OTHERS.keys())
def test_what_others_sent_does(tunnel: Tunnel, frame: bytes) -> None:
    if frame[0] >> 4 == 6:
        frame = frame[:4] + (len(frame) - 40).to_bytes(2, "big") + frame[6:]
    assert tunnel.sends(frame) == 1
    assert tunnel.looped == 0


def test_a_message_to_one_peer_may_go_through_the_tunnel_of_another(tunnel: Tunnel) -> None:
    tunnel.install(tunnel.add_peer(), INDEX + 1)
    assert tunnel.sends(bytes(replace(V4, payload=message(MESSAGE_TRANSPORT, INDEX + 1)))) == 1
    assert tunnel.looped == 0


@pytest.mark.parametrize("kind", [MESSAGE_INITIATION, MESSAGE_RESPONSE])
def test_so_it_is_with_handshakes(tunnel: Tunnel, kind: int) -> None:
    length = INITIATION_LEN if kind == MESSAGE_INITIATION else RESPONSE_LEN
    for slot, sent in ((tunnel.peer, 0), (tunnel.add_peer(), 1)):
        handshake = message(kind, tunnel.plane.reserve_index(slot), length)
        assert tunnel.sends(bytes(replace(V4, payload=handshake))) == sent
    assert tunnel.sends(bytes(replace(V4, payload=message(kind, 0, length)))) == 1
    assert tunnel.looped == 1


def test_a_message_of_the_session_before_is_known_too(tunnel: Tunnel) -> None:
    tunnel.install(tunnel.peer, INDEX + 1)
    tunnel.install(tunnel.peer, INDEX + 2, initiator=False)
    for index in (INDEX + 1, INDEX + 2):
        assert tunnel.sends(bytes(replace(V4, payload=message(MESSAGE_TRANSPORT, index)))) == 0
    assert tunnel.looped == 2


def test_a_train_of_messages_goes_nowhere() -> None:
    with ExitStack() as stack:
        tunnel = Tunnel(stack, Feature.VNET_HDR | Feature.TUN_USO)
        for packet in (V4, V6):
            for index, sent in ((INDEX, 0), (INDEX + 1, 3)):
                train = message(MESSAGE_TRANSPORT, index, 1000) * 3
                assert tunnel.sends(replace(packet, payload=train).frame(1000)) == sent
        assert tunnel.looped == 2 * 3


# ---- messages of others ----


def hops_of(tunnel: Tunnel, packet: Packet) -> int | None:
    """The TTL with which a packet leaves in a message, None if it does not."""
    if not tunnel.sends(bytes(packet)):
        return None
    tunnel.tun.send(bytes(packet))
    [(_, _, ttl)] = tunnel.udp.recvmsg(65535, 64)[1]
    return int.from_bytes(ttl, "little")


@pytest.fixture(params=[AF_INET, AF_INET6], ids=["outside ipv4", "outside ipv6"])
def tunnel_with_hops(request: pytest.FixtureRequest) -> Iterator[Tunnel]:
    """The test's end of the socket tells the TTL of what came."""
    with ExitStack() as stack:
        try:
            tunnel = Tunnel(stack, family=request.param)
        except OSError:
            pytest.skip("the host has no IPv6")
        if request.param == AF_INET:
            tunnel.udp.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        else:
            tunnel.udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        yield tunnel


def test_what_carries_a_message_has_fewer_hops_left_than_that(tunnel_with_hops: Tunnel) -> None:
    kinds = (MESSAGE_INITIATION, MESSAGE_RESPONSE, MESSAGE_COOKIE_REPLY, MESSAGE_TRANSPORT)
    for kind, packet in product(kinds, (V4, V6)):
        nested = replace(packet, payload=message(kind, INDEX + 1))
        for ttl, hops in ((64, 56), (255, 56), (30, 22), (9, 1)):
            assert hops_of(tunnel_with_hops, replace(nested, ttl=ttl)) == hops


def test_a_message_that_is_nested_too_deep_is_carried_no_further(tunnel_with_hops: Tunnel) -> None:
    nested = replace(V4, payload=message(MESSAGE_TRANSPORT, INDEX + 1))
    for ttl in (0, 1, 8):
        assert hops_of(tunnel_with_hops, replace(nested, ttl=ttl)) is None
    assert tunnel_with_hops.looped == 3


def test_what_carries_anything_else_has_hops_of_its_own(tunnel_with_hops: Tunnel) -> None:
    for payload in (b"", message(0, INDEX), message(5, INDEX), message(0x10004, INDEX)):
        assert hops_of(tunnel_with_hops, replace(V4, ttl=3, payload=payload)) == 64


# ---- known loops ----


def test_nothing_is_sent_to_an_endpoint_that_is_looped_and_the_host_hears_of_it(
    tunnel: Tunnel,
) -> None:
    tunnel.judge(looped=True)
    for packet in (V4, V6):
        assert tunnel.sends(bytes(packet)) == 0
        assert tunnel.tun.recv(65535).endswith(bytes(packet))
    assert tunnel.looped == 2
    assert tunnel.plane.counters()["tx_unreachables"] == 2
    with pytest.raises(OSError, match=rf"\[Errno {errno.ELOOP}\]"):
        tunnel.plane.send_message(tunnel.peer, bytes(148), 0, tunnel.plane.now_ns())
    tunnel.judge(looped=False)
    assert tunnel.sends(bytes(V4)) == 1


def test_what_waits_for_a_looped_endpoint_goes_on_waiting(tunnel: Tunnel) -> None:
    tunnel.judge(looped=True)
    tunnel.plane.kick(tunnel.peer, keepalive=True)
    assert tunnel.sends(bytes(V4)) == 0
    assert tunnel.plane.stats(tunnel.peer).staged == 1
    tunnel.judge(looped=False)
    assert tunnel.sends(bytes(V4)) == 2


def test_it_lasts_as_long_as_the_peer_is_there(tunnel: Tunnel) -> None:
    elsewhere = replace(tunnel.endpoint, address=bytes([127, 0, 0, 2]))
    other_port = replace(tunnel.endpoint, port=9)
    for other in (elsewhere, other_port):
        tunnel.judge(looped=True)
        tunnel.plane.set_endpoint(tunnel.peer, replace(tunnel.endpoint, source=LOOPBACK[AF_INET]))
        tunnel.plane.clear_source(tunnel.peer)
        assert tunnel.sends(bytes(V4)) == 0
        tunnel.plane.set_endpoint(tunnel.peer, other)
        tunnel.plane.set_endpoint(tunnel.peer, tunnel.endpoint)
        assert tunnel.sends(bytes(V4)) == 1


def test_a_verdict_on_another_endpoint_is_none(tunnel: Tunnel) -> None:
    tunnel.plane.set_looped(tunnel.peer, replace(tunnel.endpoint, port=9), True)
    assert tunnel.sends(bytes(V4)) == 1
