# SPDX-License-Identifier: MIT
"""What two devices do as time goes by, with timers and sessions; see fake_hosts.py."""

from collections import Counter
from dataclasses import replace

import pytest
from core_numbers import MESSAGE_INITIATION, MESSAGE_TRANSPORT, SESSION_CURRENT, SESSION_PREVIOUS
from fake_hosts import EPOCH_NS, World, initiation
from fakes import Datagram, S

from wgpy.config import PeerChange
from wgpy.log import NOTICE
from wgpy.protocol.timers import MAX_RETRIES


@pytest.fixture
def world() -> World:
    return World()


# ---- timers ----


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


# ---- rotation ----


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
