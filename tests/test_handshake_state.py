# SPDX-License-Identifier: MIT
"""Where a handshake stands, as the table of ARCHITECTURE has it; see fake_hosts.py."""

import pytest
from core_numbers import MESSAGE_INITIATION, MESSAGE_RESPONSE, MESSAGE_TRANSPORT
from fake_hosts import World
from seen import peer_status

from wgpy.protocol.handshake import Handshake


@pytest.fixture
def world() -> World:
    return World()


def lose(world: World, *kinds: int) -> None:
    world.network.lose = lambda datagram: datagram.kind in kinds


def test_nothing_has_happened_at_first(world: World) -> None:
    assert world.a.handshake == world.b.handshake == Handshake.IDLE


def test_an_initiation_waits_for_its_response(world: World) -> None:
    lose(world, MESSAGE_INITIATION)
    world.a.send(b"ping")
    world.loop.run()
    assert (world.a.handshake, world.b.handshake) == (Handshake.INITIATED, Handshake.IDLE)


def test_a_response_waits_for_what_confirms_it(world: World) -> None:
    lose(world, MESSAGE_TRANSPORT)
    world.a.send(b"ping")
    world.loop.run()
    assert world.a.handshake == Handshake.ESTABLISHED
    assert world.b.handshake == Handshake.RESPONDED


def test_responses_are_counted_until_one_is_confirmed(world: World) -> None:
    lose(world, MESSAGE_RESPONSE)
    world.a.send(b"ping")
    world.loop.advance(21)
    status = peer_status(world.b.device)
    assert (status.responses, status.responses_age_s) == (world.count(MESSAGE_RESPONSE), 21)
    lose(world)
    world.loop.advance(6)
    status = peer_status(world.b.device)
    assert (status.responses, status.responses_age_s) == (0, None)


def test_both_sides_get_there(world: World) -> None:
    world.converse()
    assert world.a.handshake == world.b.handshake == Handshake.ESTABLISHED


def test_silence_under_a_session_begins_another(world: World) -> None:
    world.converse()
    lose(world, MESSAGE_INITIATION, MESSAGE_RESPONSE, MESSAGE_TRANSPORT)
    world.a.send(b"ping")
    world.loop.advance(16)
    assert world.a.handshake == Handshake.INITIATED


def test_it_is_given_up_when_nobody_answers_and_begun_again_for_new_traffic(world: World) -> None:
    lose(world, MESSAGE_RESPONSE)
    world.a.send(b"ping")
    world.loop.advance(100)
    stood = [world.a.handshake]
    world.a.send(b"ping")
    world.loop.run()
    stood.append(world.a.handshake)
    world.network.lose = lambda datagram: False
    world.loop.advance(6)
    stood.append(world.a.handshake)
    assert stood == [Handshake.GIVEN_UP, Handshake.INITIATED, Handshake.ESTABLISHED]


def test_it_is_forgotten_with_the_keys(world: World) -> None:
    world.converse()
    world.loop.advance(600)
    assert world.a.handshake == world.b.handshake == Handshake.IDLE


def test_it_is_forgotten_when_the_link_goes_down(world: World) -> None:
    world.converse()
    world.a.device.down()
    assert world.a.handshake == Handshake.IDLE


def test_it_is_forgotten_with_the_identity(world: World) -> None:
    world.converse()
    world.a.configure(private_key=b"\x77" * 32)
    assert world.a.handshake == Handshake.IDLE
