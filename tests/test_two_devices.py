# SPDX-License-Identifier: MIT
"""Two devices with the real data plane, over loopback (see loopback.py)."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from core_numbers import INITIATION_LEN, LOAD, SESSION_CURRENT
from fakes import S
from loopback import LOOPBACK, PATIENCE_S, Host, Loop
from seen import refusals

from wgpy.config import AllowedIP, Endpoint, PeerChange
from wgpy.protocol.cookie import CookieGenerator
from wgpy.protocol.noise import StaticKey

pytestmark = pytest.mark.threads


class World:
    """Two hosts that are each other's peers, up."""

    def __init__(
        self, stack: ExitStack, version: int = 4, workers: int = 1, lanes: int = 1
    ) -> None:
        self.loop = Loop()
        self.loopback = LOOPBACK[version]
        self.a = Host(stack, self.loop, 1, workers, lanes)
        self.b = Host(stack, self.loop, 2, workers, lanes)
        for host in (self.a, self.b):
            host.configure(private_key=host.private_key)
            host.device.up()
        for host, other in (self.a, self.b), (self.b, self.a):
            endpoint = Endpoint(self.loopback, other.port)
            allowed = (AllowedIP(other.address, 32),)
            host.configure(PeerChange(other.public_key, endpoint=endpoint, allowed_ips=allowed))

    def pass_payload(self, sender: Host, receiver: Host, payload: bytes) -> None:
        sender.send(receiver, payload)
        self.loop.until(lambda: payload in receiver.read())

    def converse(self) -> None:
        self.pass_payload(self.a, self.b, b"ping")
        self.pass_payload(self.b, self.a, b"pong")


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def any_world(request: pytest.FixtureRequest) -> Iterator[World]:
    version: int = request.param
    with ExitStack() as stack:
        yield World(stack, version)


@pytest.fixture(params=[(1, 1), (3, 1), (1, 3)], ids=["one worker", "three workers", "three lanes"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    workers, lanes = request.param
    with ExitStack() as stack:
        yield World(stack, workers=workers, lanes=lanes)


def has_shaken_hands(host: Host) -> bool:
    return host.peer.last_handshake_ns > 0


def test_packets_pass_both_ways(any_world: World) -> None:
    any_world.converse()
    for host, other in (any_world.a, any_world.b), (any_world.b, any_world.a):
        any_world.loop.until(partial(has_shaken_hands, host))
        assert host.peer.endpoint == Endpoint(any_world.loopback, other.port)
        assert host.stats.sessions == SESSION_CURRENT


def test_staged_packets_arrive_in_order(world: World) -> None:
    payloads = [number.to_bytes(2, "big") * 50 for number in range(100)]
    for payload in payloads:
        world.a.send(world.b, payload)
    world.loop.until(lambda: len(world.b.read()) == len(payloads))
    assert world.b.received == payloads


def test_both_sides_may_initiate_at_once(world: World) -> None:
    world.a.send(world.b, b"from a")
    world.b.send(world.a, b"from b")
    begin = world.a.plane.now_ns()
    world.loop.until(lambda: world.b.read() and world.a.read())
    assert world.a.plane.now_ns() - begin < 5 * S
    assert (world.a.received, world.b.received) == ([b"from b"], [b"from a"])
    world.converse()


def test_an_inner_source_that_is_not_allowed_is_dropped(world: World) -> None:
    world.converse()
    world.a.send(world.b, b"forged", source=bytes([10, 0, 0, 9]))
    world.pass_payload(world.a, world.b, b"genuine")
    assert world.b.received == [b"ping", b"genuine"]
    assert world.b.plane.counters()["rx_not_allowed"] == 1


def test_another_preshared_key_lets_nothing_pass(world: World) -> None:
    world.a.configure(PeerChange(world.b.public_key, preshared_key=b"\x05" * 32))
    world.a.send(world.b, b"ping")
    world.loop.until(lambda: refusals(world.a.device) == {"bad-response": 1})
    world.b.configure(PeerChange(world.a.public_key, preshared_key=b"\x05" * 32))
    world.loop.advance(6)
    world.loop.until(lambda: world.b.read() == [b"ping"])


def test_a_peer_is_followed_to_another_port(world: World) -> None:
    world.converse()
    port, handshake_ns = world.a.port, world.a.peer.last_handshake_ns
    world.a.configure(listen_port=0)
    assert world.a.port != port
    world.pass_payload(world.a, world.b, b"moved")
    assert world.b.peer.endpoint == Endpoint(world.loopback, world.a.port)
    world.pass_payload(world.b, world.a, b"followed")
    assert world.a.peer.last_handshake_ns == handshake_ns


def test_payload_is_answered_by_a_keepalive(world: World) -> None:
    world.converse()
    before = world.b.stats.rx_any_ns
    world.loop.advance(10)
    world.loop.until(lambda: world.b.stats.rx_any_ns > before)
    assert world.b.stats.tx_unanswered_since_ns == 0


def test_traffic_renews_a_session_after_120_s(world: World) -> None:
    world.converse()
    world.pass_payload(world.a, world.b, b"answer")  # else b had reason to initiate as well
    before = world.b.peer.last_handshake_ns
    world.loop.advance(121)
    world.pass_payload(world.a, world.b, b"renew")
    world.loop.until(lambda: world.b.peer.last_handshake_ns > before)
    world.converse()


def test_an_expired_session_is_replaced(world: World) -> None:
    world.converse()
    world.loop.advance(181)
    world.pass_payload(world.b, world.a, b"later")


def test_keys_are_zeroed_after_540_s(world: World) -> None:
    world.converse()
    world.loop.advance(541)
    world.loop.until(lambda: world.a.stats.sessions == world.b.stats.sessions == 0)
    world.pass_payload(world.b, world.a, b"much later")


def test_a_lost_initiation_is_repeated(world: World) -> None:
    world.b.device.down()
    world.a.send(world.b, b"ping")
    world.loop.until(lambda: world.a.stats.tx_bytes)
    world.b.device.up()
    world.loop.advance(6)
    world.loop.until(lambda: world.b.read() == [b"ping"])


def test_a_peer_that_restarted_is_found_again(world: World) -> None:
    world.converse()
    world.b.device.down()
    world.b.device.up()
    world.a.send(world.b, b"lost")
    world.loop.until(lambda: world.a.stats.tx_unanswered_since_ns)
    world.loop.advance(16)
    world.loop.until(lambda: world.b.stats.sessions == SESSION_CURRENT)
    world.pass_payload(world.a, world.b, b"found")


def test_switching_a_persistent_keepalive_on_makes_a_session(world: World) -> None:
    world.a.configure(PeerChange(world.b.public_key, persistent_keepalive_s=25))
    world.loop.until(lambda: world.b.stats.sessions == SESSION_CURRENT)
    before = world.b.stats.rx_any_ns
    world.loop.advance(25)
    world.loop.until(lambda: world.b.stats.rx_any_ns > before)


def test_another_private_key_ends_the_sessions(world: World) -> None:
    world.converse()
    other_key = b"\x07" * 32
    world.a.configure(private_key=other_key)
    allowed = (AllowedIP(world.a.address, 32),)
    world.b.configure(PeerChange(StaticKey(other_key).public_key, allowed_ips=allowed))
    world.pass_payload(world.a, world.b, b"who am I?")


def flood(world: World) -> None:
    """Fill b's ring with initiations that cost a handshake, while b has no time for them."""
    cookies = CookieGenerator(world.b.public_key)
    before = world.b.plane.counters()["rx_under_load"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect(("127.0.0.1", world.b.port))
        for number in range(2 * LOAD):
            rubbish = b"\x01\0\0\0" + number.to_bytes(4, "little") + b"\xe1" * 108
            udp.send(cookies.add_macs(rubbish, 0))
    end_ns = world.b.plane.now_ns() + PATIENCE_S * S
    while world.b.plane.counters()["rx_under_load"] == before:
        assert world.b.plane.now_ns() < end_ns, "no load"


def get_in_with_a_cookie(world: World) -> None:
    flood(world)
    world.a.send(world.b, b"ping")
    world.loop.until(lambda: world.a.stats.tx_bytes == INITIATION_LEN)
    world.loop.until(lambda: world.a.plane.counters()["rx_datagrams"] == 1)  # it has its cookie
    world.loop.advance(5.4)
    flood(world)
    world.loop.until(lambda: world.b.read() == [b"ping"])
    assert world.a.stats.tx_bytes > 2 * INITIATION_LEN
    assert refusals(world.a.device) == {}


def test_under_load_a_peer_gets_in_with_its_second_attempt(world: World) -> None:
    get_in_with_a_cookie(world)


def test_a_cookie_is_for_either_family(any_world: World) -> None:
    get_in_with_a_cookie(any_world)


def test_a_flood_leaves_a_session_alone(world: World) -> None:
    world.converse()
    flood(world)
    world.converse()
