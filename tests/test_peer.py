"""What two devices do about their handshakes, timers and sessions; see fake_hosts.py."""

import errno
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2s

import pytest
from fake_hosts import ELSEWHERE, EPOCH_NS, Host, World, key
from fake_plane import cookie_reply
from fakes import Datagram, S

from wgpy.config import PeerChange
from wgpy.dataplane.plane import (
    MESSAGE_INITIATION,
    MESSAGE_RESPONSE,
    MESSAGE_TRANSPORT,
    SESSION_CURRENT,
    SESSION_NEXT,
    SESSION_PREVIOUS,
    MessageEvent,
)
from wgpy.log import NOTICE
from wgpy.peer import HANDSHAKE_TOS
from wgpy.protocol.cookie import CookieGenerator
from wgpy.protocol.noise import RemoteStatic, StaticKey, write_initiation
from wgpy.protocol.tai64n import tai64n
from wgpy.protocol.timers import MAX_RETRIES

STRANGER = StaticKey(b"\x99" * 32)


@pytest.fixture
def world() -> World:
    return World()


def kind_is(kind: int) -> Callable[[Datagram], bool]:
    return lambda datagram: datagram.kind == kind


def initiation(sender: StaticKey, to: Host, unix_ns: int, index: int = 77) -> bytes:
    """A genuine first message."""
    remote = RemoteStatic(to.public_key, sender.exchange(to.public_key))
    message, _ = write_initiation(sender, remote, index, tai64n(unix_ns))
    return CookieGenerator(to.public_key).add_macs(message, 0)


# ---- handshake -----------------------------------------------------------------------------------


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
    assert world.a.device.bad_messages == 1
    assert world.a.sessions == 0
    world.b.peer(world.a, preshared_key=b"\x05" * 32)
    world.loop.advance(6)
    assert world.b.plane.payloads == [(0, b"ping")]


def test_a_response_to_no_initiation_is_refused(world: World) -> None:
    world.a.send(b"ping")
    world.loop.run()
    [response] = world.sent_by(world.b, MESSAGE_RESPONSE)
    event = MessageEvent(0, response.data, response.source, world.loop.now_ns)
    world.a.plane.inject(event)
    world.loop.run()
    assert world.a.device.bad_messages == 1
    assert world.a.sessions == SESSION_CURRENT


def test_a_forged_response_does_not_spoil_the_handshake(world: World) -> None:
    world.network.lose = kind_is(MESSAGE_RESPONSE)
    world.a.send(b"ping")
    world.loop.run()
    [response] = world.sent_by(world.b, MESSAGE_RESPONSE)
    forged = response.data[:50] + bytes(10) + response.data[60:]
    for data in (forged, response.data):
        world.a.plane.inject(MessageEvent(0, data, response.source, world.loop.now_ns))
    world.loop.run()
    assert world.a.device.bad_messages == 1
    assert world.a.sessions == SESSION_CURRENT


def test_an_initiation_from_a_stranger_is_refused(world: World) -> None:
    message = initiation(STRANGER, world.b, EPOCH_NS)
    world.network.send(Datagram(ELSEWHERE, world.b.endpoint, message, 0))
    world.loop.run()
    assert world.b.device.bad_messages == 1
    assert world.network.kinds() == [MESSAGE_INITIATION]


def test_a_replayed_initiation_is_refused(world: World) -> None:
    world.a.send(b"ping")
    world.loop.run()
    [message] = world.sent_by(world.a, MESSAGE_INITIATION)
    world.loop.advance(1)
    world.network.send(replace(message, source=ELSEWHERE))
    world.loop.run()
    assert world.b.device.bad_messages == 1
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
        assert max(map(len, message.split())) <= len("established")


# ---- timers --------------------------------------------------------------------------------------


def test_an_unanswered_initiation_is_retried_18_times_then_given_up(world: World) -> None:
    world.network.lose = lambda datagram: True
    world.a.send(b"ping")
    world.loop.advance(200)
    assert world.count(MESSAGE_INITIATION) == 1 + MAX_RETRIES
    assert world.a.state.staged == []


def test_giving_up_is_said_once_until_there_is_a_session(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> int:
        """-> how often it was said"""
        caplog.clear()
        world.network.lose = lambda datagram: True
        world.loop.advance(200)
        for _ in range(2):
            world.a.send(b"ping")
            world.loop.advance(200)
        return max(Counter(caplog.messages).values(), default=0)

    with caplog.at_level(NOTICE, "wgpy"):
        assert fail() == 1
        assert fail() == 0
        world.network.lose = lambda datagram: False
        world.converse()
        assert fail() == 1


def test_new_traffic_after_giving_up_starts_again_from_0(world: World) -> None:
    world.network.lose = lambda datagram: True
    for _ in range(2):
        world.network.log.clear()
        world.a.send(b"ping")
        world.loop.advance(200)
        assert world.count(MESSAGE_INITIATION) == 1 + MAX_RETRIES


def test_a_retry_forgets_the_source_address(world: World) -> None:
    world.network.lose = lambda datagram: True
    sticky = replace(world.b.endpoint, source=b"\xc0\x00\x02\x01", source_ifindex=2)
    world.a.plane.set_endpoint(0, sticky)
    world.a.send(b"ping")
    world.loop.advance(1)
    assert world.a.state.stats.endpoint is not None
    assert world.a.state.stats.endpoint.source
    world.loop.advance(5)
    assert not world.a.state.stats.endpoint.source


def test_a_retry_waits_for_5_s_after_a_response(world: World) -> None:
    world.network.lose = lambda datagram: datagram.source == world.a.endpoint
    world.a.send(b"ping")
    world.loop.advance(3)
    message = initiation(world.b.identity, world.a, EPOCH_NS)
    world.network.send(Datagram(world.b.endpoint, world.a.endpoint, message, 0))
    world.loop.advance(4.9)
    assert len(world.sent_by(world.a, MESSAGE_INITIATION)) == 1
    world.loop.advance(0.2)
    assert len(world.sent_by(world.a, MESSAGE_INITIATION)) == 2


def test_an_initiation_after_a_flap_is_no_retry(world: World) -> None:
    sticky = replace(world.b.endpoint, source=b"\xc0\x00\x02\x01", source_ifindex=2)
    world.a.plane.set_endpoint(0, sticky)
    world.network.lose = lambda datagram: True
    world.a.send(b"ping")
    world.loop.run()
    world.a.device.down()
    world.a.device.up()
    world.a.send(b"ping")
    world.loop.advance(1)
    assert world.count(MESSAGE_INITIATION) == 2
    assert world.a.state.stats.endpoint is not None
    assert world.a.state.stats.endpoint.source
    world.loop.advance(200)
    assert world.count(MESSAGE_INITIATION) == 2 + MAX_RETRIES


def test_payload_is_answered_by_a_keepalive_after_10_s(world: World) -> None:
    world.converse()
    world.a.send(b"ping")
    world.loop.advance(9.9)
    assert world.count(MESSAGE_TRANSPORT) == 1
    world.loop.advance(0.2)
    [keepalive] = [datagram for datagram in world.network.log if datagram.is_keepalive]
    assert keepalive.source == world.b.endpoint
    world.loop.advance(60)
    assert world.count(MESSAGE_TRANSPORT) == 2


def test_payload_during_the_wait_brings_another_keepalive(world: World) -> None:
    world.a.send(b"ping")
    world.loop.run()
    world.network.log.clear()
    for _ in range(2):
        world.a.send(b"ping")
        world.loop.advance(1)
    world.loop.advance(60)
    assert len([d for d in world.network.log if d.is_keepalive]) == 2


def test_a_conversation_needs_no_keepalives(world: World) -> None:
    world.converse()
    for _ in range(20):
        world.a.send(b"ping")
        world.b.send(b"pong")
        world.loop.advance(4)
    assert not any(datagram.is_keepalive for datagram in world.network.log)


def test_silence_brings_a_new_handshake_after_15_s(world: World) -> None:
    world.converse()
    world.loop.advance(20)
    world.network.log.clear()
    world.network.lose = lambda datagram: True
    world.a.send(b"anybody there?")
    world.loop.advance(14.9)
    assert world.count(MESSAGE_INITIATION) == 0
    world.loop.advance(0.5)
    assert world.count(MESSAGE_INITIATION) == 1


def test_a_peer_that_restarted_is_found_again(world: World) -> None:
    world.converse()
    world.b.device.down()
    world.b.device.up()
    world.loop.advance(10)
    world.a.send(b"lost")
    world.loop.advance(16)
    world.a.send(b"found")
    world.loop.run()
    assert world.b.plane.payloads[-1] == (0, b"found")


def test_keys_are_zeroed_after_540_s(world: World) -> None:
    world.converse()
    world.loop.advance(539)
    assert world.a.sessions == SESSION_CURRENT
    world.loop.advance(2)
    assert world.a.sessions == world.b.sessions == 0
    assert world.a.plane.indexes == {}
    assert world.loop.deadlines() == []


def test_an_idle_device_never_wakes_up(world: World) -> None:
    assert world.loop.deadlines() == []
    world.loop.advance(10_000)
    assert world.network.log == []


def test_a_persistent_keepalive_follows_each_interval(world: World) -> None:
    world.a.peer(world.b, persistent_keepalive_s=25)
    world.loop.run()
    assert world.network.log[-1].is_keepalive
    world.network.log.clear()
    world.loop.advance(75.5)
    assert len([d for d in world.network.log if d.is_keepalive]) == 3


def test_a_persistent_keepalive_never_gives_up(world: World) -> None:
    world.network.lose = lambda datagram: True
    world.a.peer(world.b, persistent_keepalive_s=25)
    world.loop.advance(1000)
    world.network.lose = lambda datagram: False
    world.loop.advance(30)
    assert world.b.sessions == SESSION_CURRENT


def test_a_persistent_keepalive_waits_for_an_endpoint(world: World) -> None:
    world.a.configure(PeerChange(world.b.public_key, persistent_keepalive_s=25), replace_peers=True)
    world.loop.advance(100)
    assert world.network.log == []
    world.a.plane.set_endpoint(0, world.b.endpoint)
    world.loop.advance(26)
    assert world.b.sessions == SESSION_CURRENT


def test_a_persistent_keepalive_can_be_switched_off(world: World) -> None:
    world.a.peer(world.b, persistent_keepalive_s=25)
    world.loop.run()
    world.a.peer(world.b, persistent_keepalive_s=0)
    world.network.log.clear()
    world.loop.advance(100)
    assert world.network.log == []


def test_traffic_while_timers_are_armed_is_not_overlooked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.converse()
    world.loop.advance(20)
    set_wake = world.b.plane.set_wake
    deaf = world.b.state

    def set_wake_late(slot: int, wake_ns: int | None) -> None:
        """Payload comes after the stamps were read and before C knows the wake time."""
        monkeypatch.undo()
        deaf.wake_ns = 0
        world.a.send(b"in between")
        world.loop.run()
        set_wake(slot, wake_ns)

    monkeypatch.setattr(world.b.plane, "set_wake", set_wake_late)
    world.b.peer(world.a, persistent_keepalive_s=0)
    world.network.log.clear()
    assert deaf.wake_ns == world.loop.now_ns + 10 * S
    world.loop.advance(10)
    assert [datagram.is_keepalive for datagram in world.network.log] == [True]


# ---- rotation ------------------------------------------------------------------------------------


def test_traffic_renews_a_session_after_120_s(world: World) -> None:
    world.converse()
    world.loop.advance(121)
    world.network.log.clear()
    world.a.send(b"ping")
    world.loop.run()
    assert world.count(MESSAGE_INITIATION) == 1
    assert world.a.sessions == world.b.sessions == SESSION_CURRENT | SESSION_PREVIOUS


def test_the_responder_leaves_the_renewal_to_the_initiator(world: World) -> None:
    world.converse()
    world.loop.advance(121)
    world.network.log.clear()
    world.b.send(b"pong")
    world.loop.run()
    assert world.count(MESSAGE_INITIATION) == 0


def test_receiving_renews_a_session_after_165_s(world: World) -> None:
    world.converse()
    world.loop.advance(166)
    world.network.log.clear()
    world.b.send(b"pong")
    world.loop.run()
    assert len(world.sent_by(world.a, MESSAGE_INITIATION)) == 1


def test_an_hour_of_traffic_loses_nothing(world: World) -> None:
    for number in range(720):
        world.a.send(number.to_bytes(2, "big"))
        world.loop.advance(5)
    assert len(world.b.plane.payloads) == 720
    assert 30 <= world.count(MESSAGE_INITIATION) <= 31
    assert len(world.a.plane.indexes) <= 2


# ---- cookies -------------------------------------------------------------------------------------


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
    assert world.a.device.bad_messages == 0
    assert world.a.peer_snapshot.endpoint == world.b.endpoint
