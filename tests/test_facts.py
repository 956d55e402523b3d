# SPDX-License-Identifier: MIT
"""What a device tells of itself and its peers; see fake_hosts.py."""

import pytest
from core_numbers import MESSAGE_INITIATION, MESSAGE_RESPONSE
from fake_hosts import ELSEWHERE, World, key
from fakes import Datagram
from seen import peer_status, refusals

from wgpy.config import AllowedIP, PeerChange
from wgpy.dataplane.types import Counted, MessageEvent
from wgpy.device import STATUSES_PER_TURN
from wgpy.protocol.handshake import Handshake
from wgpy.status import Tally
from wgpy.tallies import tallies


@pytest.fixture
def world() -> World:
    return World()


def lose(world: World, *kinds: int) -> None:
    world.network.lose = lambda datagram: datagram.kind in kinds


# ---- the device ----


def test_the_head_says_who_and_where_we_are(world: World) -> None:
    head = world.a.device.status_head("wg0")
    assert (head.interface, head.public_key) == ("wg0", world.a.public_key)
    assert (head.listen_port, head.fwmark) == (world.a.port, 0)
    assert (head.up, head.listening) == (True, True)
    assert (head.aead, head.workers) == ("fake", 1)
    assert head.features == ("VNET_HDR", "UDP_GSO")
    assert (head.receive_buffer, head.send_buffer) == (7 << 20, 32 << 20)


def test_a_device_that_cannot_listen_is_told_from_one_that_is_down(world: World) -> None:
    world.a.device.down()
    head = world.a.device.status_head("wg0")
    assert (head.up, head.listening, head.features) == (False, False, ("VNET_HDR",))
    world.a.sockets.busy.add(world.a.port)
    world.a.device.up()
    head = world.a.device.status_head("wg0")
    assert (head.up, head.listening, head.receive_buffer) == (True, False, None)


def test_peers_come_in_pieces_without_those_that_went_meanwhile(world: World) -> None:
    keys = [key(number) for number in range(100, 100 + STATUSES_PER_TURN)]
    world.a.configure(*(PeerChange(public_key) for public_key in keys))
    pieces = world.a.device.peer_statuses()
    assert len(next(pieces)) == STATUSES_PER_TURN
    world.a.configure(PeerChange(keys[-1], remove=True))
    assert list(pieces) == [[]]


# ---- a peer ----


def test_a_peer_that_was_never_spoken_to_has_no_ages(world: World) -> None:
    world.a.peer(world.b, allowed_ips=(AllowedIP(bytes(4), 0),), persistent_keepalive_s=0)
    status = peer_status(world.a.device)
    assert (status.public_key, status.endpoint) == (world.b.public_key, world.b.endpoint)
    assert status.allowed_ips == (AllowedIP(bytes(4), 0),)
    assert status.handshake is Handshake.IDLE
    assert status.attempts == 0
    ages = (status.attempts_age_s, status.last_handshake_age_s, status.session_age_s)
    assert ages == (None, None, None)
    assert (status.last_received_age_s, status.last_sent_age_s) == (None, None)


def test_after_a_conversation_it_has(world: World) -> None:
    world.converse()
    world.loop.advance(3)
    status = peer_status(world.a.device)
    assert (status.last_handshake_age_s, status.session_age_s) == (3, 3)
    assert (status.last_received_age_s, status.last_sent_age_s) == (3, 3)
    assert (status.rx_packets, status.tx_packets) == (1, 1)


def test_the_age_of_a_handshake_does_not_follow_the_wall_clock(world: World) -> None:
    world.converse()
    world.a.epoch_ns -= 10**18
    world.loop.advance(3)
    assert peer_status(world.a.device).last_handshake_age_s == 3


def test_attempts_are_counted_until_one_succeeds(world: World) -> None:
    lose(world, MESSAGE_INITIATION)
    world.a.send(b"ping")
    world.loop.advance(21)
    status = peer_status(world.a.device)
    assert (status.attempts, status.attempts_age_s) == (5, 21)
    lose(world)
    world.loop.advance(6)
    status = peer_status(world.a.device)
    assert (status.attempts, status.attempts_age_s) == (0, None)


def test_new_traffic_does_not_hide_how_long_nobody_has_answered(world: World) -> None:
    lose(world, MESSAGE_RESPONSE)
    for _ in range(5):
        world.a.send(b"ping")
        world.loop.advance(5.5)
    status = peer_status(world.a.device)
    assert (status.attempts, status.attempts_age_s) == (world.count(MESSAGE_INITIATION), 27.5)


def test_attempts_that_were_given_up_are_told_until_the_next(world: World) -> None:
    lose(world, MESSAGE_INITIATION)
    world.a.send(b"ping")
    world.loop.advance(200)
    status = peer_status(world.a.device)
    assert (status.handshake, status.attempts_age_s) == (Handshake.GIVEN_UP, 200)
    assert status.attempts is not None
    assert status.attempts > 15
    world.a.send(b"ping")
    world.loop.run()
    status = peer_status(world.a.device)
    assert (status.attempts, status.attempts_age_s) == (1, 0)


def test_a_peer_whose_route_leads_into_the_tunnel_is_looped(world: World) -> None:
    world.a.peer(world.b, allowed_ips=(AllowedIP(bytes(4), 0),))
    world.a.plane.see_loop(0)
    world.loop.run()
    world.a.device.set_leads_in(0, world.b.endpoint, leads_in=True)
    world.a.send(b"ping")
    status = peer_status(world.a.device)
    assert status.looped
    assert [(tally.reason, tally.count) for tally in status.drops] == [("looped", 1)]


# ---- refusals ----


def test_a_replay_is_counted_as_the_peers_with_where_it_came_from(world: World) -> None:
    world.converse()
    world.loop.advance(130)
    world.network.log.clear()
    world.a.send(b"again")
    world.loop.run()
    [initiation] = world.sent_by(world.a, MESSAGE_INITIATION)
    world.loop.advance(1)
    world.network.send(Datagram(ELSEWHERE, world.b.endpoint, initiation.data, 0))
    world.loop.advance(2)
    [tally] = peer_status(world.b.device).refusals
    assert tally == Tally("old-timestamp", 1, 2, address="203.0.113.7:7777")


def test_a_flood_of_refusals_leaves_one_entry_and_the_exact_number(world: World) -> None:
    world.converse()
    rubbish = MessageEvent(0, b"\x02\0\0\0" + bytes(88), ELSEWHERE)
    for _ in range(5000):
        world.a.plane.inject(rubbish)
        world.loop.run()
    assert refusals(world.a.device) == {"no-initiation": 5000}
    [tally] = peer_status(world.a.device).refusals
    assert tally.address == "203.0.113.7:7777"


def test_what_two_counted_is_one_entry() -> None:
    counted = [Counted("no-private-key", 3, 10), Counted("no-private-key", 2, 20, ELSEWHERE)]
    [tally] = tallies(counted, 2_000_000_020)
    assert tally == Tally("no-private-key", 5, 2.0, address="203.0.113.7:7777")
