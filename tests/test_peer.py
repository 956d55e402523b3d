# SPDX-License-Identifier: MIT
"""What two devices do about their handshakes; see fake_hosts.py."""

import errno
import logging
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2s

import pytest
from core_numbers import (
    MESSAGE_INITIATION,
    MESSAGE_RESPONSE,
    MESSAGE_TRANSPORT,
    SESSION_CURRENT,
    SESSION_NEXT,
)
from fake_hosts import ELSEWHERE, EPOCH_NS, World, initiation, key
from fake_plane import cookie_reply
from fakes import Datagram, S
from seen import refusals

from wgpy.config import PeerChange
from wgpy.dataplane.types import MessageEvent
from wgpy.peer import HANDSHAKE_TOS
from wgpy.protocol.noise import StaticKey

STRANGER = StaticKey(b"\x99" * 32)


@pytest.fixture
def world() -> World:
    return World()


def kind_is(kind: int) -> Callable[[Datagram], bool]:
    return lambda datagram: datagram.kind == kind


# ---- handshake ----


def test_traffic_makes_a_session_and_passes(world: World) -> None:
    world.a.send(b"ping")
    world.loop.run()
    assert world.b.plane.payloads == [(0, b"ping")]
    assert world.network.kinds() == [MESSAGE_INITIATION, MESSAGE_RESPONSE, MESSAGE_TRANSPORT]
    assert world.a.sessions == world.b.sessions == SESSION_CURRENT


def test_handshake_messages_carry_their_dscp(world: World) -> None:
    world.a.send(b"ping")
    world.loop.run()
    assert [datagram.tos for datagram in world.network.log] == [HANDSHAKE_TOS, HANDSHAKE_TOS, 0]


def test_the_initiator_confirms_the_session_with_a_keepalive_if_nothing_waits(
    world: World,
) -> None:
    world.a.send(b"ping")
    world.a.plane.drop_staged(0)
    world.loop.run()
    assert world.network.log[-1].is_keepalive
    assert world.b.sessions == SESSION_CURRENT


def test_the_responder_waits_for_confirmation(world: World) -> None:
    world.network.lose = kind_is(MESSAGE_TRANSPORT)
    world.a.send(b"ping")
    world.loop.run()
    assert world.b.sessions == SESSION_NEXT
    assert world.b.peer_snapshot.last_handshake_ns == 0


def test_what_the_responder_staged_goes_out_on_confirmation(world: World) -> None:
    world.network.lose = kind_is(MESSAGE_INITIATION)
    world.b.send(b"staged")
    world.loop.run()
    world.network.lose = lambda datagram: False
    world.a.send(b"ping")
    world.loop.run()
    assert world.a.plane.payloads == [(0, b"staged")]


def test_the_last_handshake_is_shown_by_the_wall_clock(world: World) -> None:
    world.converse()
    for host in (world.a, world.b):
        assert host.peer_snapshot.last_handshake_ns == EPOCH_NS + world.loop.now_ns


def test_both_sides_may_initiate_at_once(world: World) -> None:
    world.a.send(b"from a")
    world.b.send(b"from b")
    world.loop.run()
    assert world.a.plane.payloads == [(0, b"from b")]
    assert world.b.plane.payloads == [(0, b"from a")]


def test_a_preshared_key_must_be_the_same(world: World) -> None:
    world.a.peer(world.b, preshared_key=b"\x05" * 32)
    world.a.send(b"ping")
    world.loop.run()
    assert refusals(world.a.device) == {"bad-response": 1}
    assert world.a.sessions == 0
    world.b.peer(world.a, preshared_key=b"\x05" * 32)
    world.loop.advance(6)
    assert world.b.plane.payloads == [(0, b"ping")]


def test_a_response_to_no_initiation_is_refused(world: World) -> None:
    world.a.send(b"ping")
    world.loop.run()
    [response] = world.sent_by(world.b, MESSAGE_RESPONSE)
    event = MessageEvent(0, response.data, response.source)
    world.a.plane.inject(event)
    world.loop.run()
    assert refusals(world.a.device) == {"no-initiation": 1}
    assert world.a.sessions == SESSION_CURRENT


def test_a_forged_response_does_not_spoil_the_handshake(world: World) -> None:
    world.network.lose = kind_is(MESSAGE_RESPONSE)
    world.a.send(b"ping")
    world.loop.run()
    [response] = world.sent_by(world.b, MESSAGE_RESPONSE)
    forged = response.data[:50] + bytes(10) + response.data[60:]
    for data in (forged, response.data):
        world.a.plane.inject(MessageEvent(0, data, response.source))
    world.loop.run()
    assert refusals(world.a.device) == {"bad-response": 1}
    assert world.a.sessions == SESSION_CURRENT


def test_an_initiation_from_a_stranger_is_refused(world: World) -> None:
    message = initiation(STRANGER, world.b, EPOCH_NS)
    world.network.send(Datagram(ELSEWHERE, world.b.endpoint, message, 0))
    world.loop.run()
    assert refusals(world.b.device) == {"unknown-initiator": 1}
    assert world.network.kinds() == [MESSAGE_INITIATION]


def test_a_replayed_initiation_is_refused(world: World) -> None:
    world.a.send(b"ping")
    world.loop.run()
    [message] = world.sent_by(world.a, MESSAGE_INITIATION)
    world.loop.advance(1)
    world.network.send(replace(message, source=ELSEWHERE))
    world.loop.run()
    assert refusals(world.b.device) == {"old-timestamp": 1}
    assert world.count(MESSAGE_RESPONSE) == 1
    assert world.b.peer_snapshot.endpoint == world.a.endpoint


def test_an_initiation_with_an_older_timestamp_is_refused(world: World) -> None:
    for age, responses in (0, 1), (1, 1), (-1, 2):
        world.loop.advance(1)
        message = initiation(world.a.identity, world.b, EPOCH_NS - age * S)
        world.network.send(Datagram(world.a.endpoint, world.b.endpoint, message, 0))
        world.loop.run()
        assert world.count(MESSAGE_RESPONSE) == responses


def test_initiations_of_a_peer_are_20_ms_apart(world: World) -> None:
    for number, (wait, responses) in enumerate([(0.0, 1), (0.019, 1), (0.001, 2)]):
        world.loop.advance(wait)
        message = initiation(world.a.identity, world.b, EPOCH_NS + number * S)
        world.network.send(Datagram(world.a.endpoint, world.b.endpoint, message, 0))
        world.loop.run()
        assert world.count(MESSAGE_RESPONSE) == responses


def test_an_authentic_initiation_roams(world: World) -> None:
    message = initiation(world.a.identity, world.b, EPOCH_NS)
    world.network.send(Datagram(ELSEWHERE, world.b.endpoint, message, 0))
    world.loop.run()
    assert world.b.peer_snapshot.endpoint == ELSEWHERE
    assert world.network.log[-1].to == ELSEWHERE


def test_a_handshake_starts_at_most_every_5_s(world: World) -> None:
    world.network.lose = lambda datagram: True
    for _ in range(49):
        world.a.send(b"ping")
        world.loop.advance(0.1)
    assert world.count(MESSAGE_INITIATION) == 1


def test_a_response_counts_as_a_handshake_of_ours(world: World) -> None:
    world.network.lose = kind_is(MESSAGE_TRANSPORT)
    world.a.send(b"ping")
    world.loop.run()
    world.b.send(b"pong")
    world.loop.advance(4.9)
    assert world.sent_by(world.b, MESSAGE_INITIATION) == []


def test_without_an_endpoint_there_is_no_handshake(world: World) -> None:
    world.a.configure(PeerChange(key(9)))
    world.a.send(b"ping", slot=1)
    world.loop.advance(20)
    assert world.network.log == []


def test_an_endpoint_lets_what_is_staged_go(world: World) -> None:
    world.b.configure(PeerChange(world.a.public_key), replace_peers=True)
    world.b.send(b"staged")
    world.b.peer(world.a, endpoint=world.a.endpoint)
    world.loop.run()
    assert world.a.plane.payloads == [(0, b"staged")]


def test_a_failure_to_send_is_like_a_loss(world: World) -> None:
    world.a.plane.send_error = OSError(errno.ENETUNREACH, "Network is unreachable")
    world.a.send(b"ping")
    world.loop.run()
    world.a.plane.send_error = None
    world.loop.advance(6)
    assert world.b.plane.payloads == [(0, b"ping")]


def test_a_public_key_of_low_order_gets_no_handshake(world: World) -> None:
    world.a.configure(PeerChange(bytes(32), endpoint=ELSEWHERE))
    world.a.send(b"ping", slot=1)
    world.loop.advance(20)
    assert world.network.log == []


def test_a_confirmed_session_ends_our_own_attempt(world: World) -> None:
    world.network.lose = lambda datagram: datagram.source == world.b.endpoint
    world.b.send(b"pong")
    world.loop.advance(1)
    world.network.lose = lambda datagram: False
    world.a.send(b"ping")
    world.loop.run()
    assert len(world.b.plane.indexes) == 1
    world.loop.advance(60)
    assert len(world.sent_by(world.b, MESSAGE_INITIATION)) == 1


def test_handshake_indexes_are_given_back(world: World) -> None:
    world.network.lose = lambda datagram: True
    for _ in range(30):
        world.a.send(b"ping")
        world.loop.advance(60)
    assert len(world.a.plane.indexes) == 1
    world.network.lose = lambda datagram: False
    world.loop.advance(10)
    world.a.send(b"ping")
    world.loop.advance(1)
    assert len(world.a.plane.indexes) == world.a.sessions == SESSION_CURRENT


def test_no_secret_shows_in_a_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "wgpy"):
        world.converse()
    assert len(caplog.messages) >= 3
    for message in caplog.messages:
        assert max(map(len, message.split())) <= len("192.0.2.1:51821")


# ---- cookies ----


def test_a_cookie_goes_with_the_retry(world: World) -> None:
    world.network.lose = kind_is(MESSAGE_RESPONSE)
    world.a.send(b"ping")
    world.loop.run()
    initiation = world.network.log[0]
    cookie = bytes(range(16))
    reply = cookie_reply(initiation.data, world.b.public_key, cookie)
    world.network.deliver(Datagram(ELSEWHERE, world.a.endpoint, reply, 0))
    world.loop.advance(5.4)
    retry = world.sent_by(world.a, MESSAGE_INITIATION)[-1].data
    assert retry[-16:] == blake2s(retry[:-16], key=cookie, digest_size=16).digest()


def test_a_cookie_reply_does_not_roam(world: World) -> None:
    world.network.lose = kind_is(MESSAGE_RESPONSE)
    world.a.send(b"ping")
    world.loop.run()
    reply = cookie_reply(world.network.log[0].data, world.b.public_key, bytes(16))
    world.network.deliver(Datagram(ELSEWHERE, world.a.endpoint, reply, 0))
    world.loop.run()
    assert refusals(world.a.device) == {}
    assert world.a.peer_snapshot.endpoint == world.b.endpoint
