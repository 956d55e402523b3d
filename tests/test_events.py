# SPDX-License-Identifier: MIT
"""What programs are told, and what becomes of those who do not listen; see fake_hosts.py."""

import asyncio

import pytest
from core_numbers import MESSAGE_TRANSPORT
from fake_hosts import ELSEWHERE, World
from fakes import Datagram

from wgpy.addresses import format_endpoint
from wgpy.config import Endpoint, PeerChange
from wgpy.events import (
    EVENTS_WAITING,
    EndpointMoved,
    Event,
    EventHub,
    EventsLost,
    EventStream,
    HandshakeDone,
    PeerAdded,
    PeerRemoved,
)

KEY = bytes(range(32))


@pytest.fixture
def world() -> World:
    return World()


def told(world: World) -> list[Event]:
    """What b's device tells from now on."""
    events: list[Event] = []
    world.b.device.on_event = events.append
    return events


async def all_of(stream: EventStream) -> list[Event]:
    return [event async for event in stream]


# ---- what happens ----


def test_peers_come_and_go(world: World) -> None:
    events = told(world)
    world.b.configure(PeerChange(KEY))
    world.b.configure(PeerChange(KEY))
    world.b.configure(PeerChange(KEY, remove=True))
    world.b.configure(PeerChange(KEY, remove=True))
    assert events == [PeerAdded(KEY), PeerRemoved(KEY)]


def test_a_handshake_is_done_once_on_each_side(world: World) -> None:
    events = told(world)
    world.converse()
    assert events == [HandshakeDone(world.a.public_key)]


def test_a_peer_that_is_heard_from_elsewhere_has_moved(world: World) -> None:
    world.converse()
    events = told(world)
    move(world, ELSEWHERE)
    assert events == [EndpointMoved(world.a.public_key, ELSEWHERE)]


def test_the_log_tells_where_it_speaks_from_now(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.converse()
    caplog.set_level("INFO", "wgpy")
    move(world, ELSEWHERE)
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        f"speaks from {format_endpoint(ELSEWHERE)} now"
    ]


def test_a_peer_that_moves_all_the_time_is_told_of_once_a_second(world: World) -> None:
    world.converse()
    events = told(world)
    for port in range(1, 31):
        move(world, Endpoint(ELSEWHERE.address, port))
        world.loop.advance(0.1)
    ports = [event.endpoint.port for event in events if isinstance(event, EndpointMoved)]
    assert ports == [1, 10, 20, 30]
    world.loop.advance(10)
    assert len(events) == len(ports)
    move(world, ELSEWHERE)
    assert events[-1] == EndpointMoved(world.a.public_key, ELSEWHERE)


def test_a_peer_that_is_configured_elsewhere_has_not_moved(world: World) -> None:
    events = told(world)
    world.b.peer(world.a, endpoint=ELSEWHERE)
    world.loop.advance(2)
    assert events == []


def test_a_peer_that_moved_and_is_removed_is_not_looked_at_again(world: World) -> None:
    world.converse()
    move(world, ELSEWHERE)
    events = told(world)
    world.b.configure(PeerChange(world.a.public_key, remove=True))
    world.loop.advance(2)
    assert events == [PeerRemoved(world.a.public_key)]


def move(world: World, to: Endpoint) -> None:
    """Let the next message of a come from there."""
    world.network.lose = lambda datagram: datagram.source == world.a.endpoint
    world.network.log.clear()
    world.a.send(b"here")
    world.loop.run()
    [message] = world.sent_by(world.a, MESSAGE_TRANSPORT)
    world.network.send(Datagram(to, world.b.endpoint, message.data, 0))
    world.loop.run()


# ---- streams ----


def test_each_listener_gets_all_that_happens_while_it_listens() -> None:
    async def scenario() -> None:
        hub = EventHub()
        hub.tell(PeerAdded(bytes(32)))
        first = hub.listen()
        hub.tell(PeerAdded(KEY))
        second = hub.listen()
        hub.tell(PeerRemoved(KEY))
        hub.close()
        assert await all_of(first) == [PeerAdded(KEY), PeerRemoved(KEY)]
        assert await all_of(second) == [PeerRemoved(KEY)]
        assert await all_of(hub.listen()) == []

    asyncio.run(scenario())


def test_a_slow_listener_loses_the_oldest_and_is_told_how_many() -> None:
    async def scenario() -> None:
        hub = EventHub()
        stream = hub.listen()
        events = [PeerAdded(number.to_bytes(32, "big")) for number in range(EVENTS_WAITING + 7)]
        for event in events:
            hub.tell(event)
        assert await anext(stream) == EventsLost(7)
        hub.close()
        assert await all_of(stream) == events[7:]

    asyncio.run(scenario())


def test_a_listener_that_waits_is_woken() -> None:
    async def scenario() -> None:
        hub = EventHub()
        stream = hub.listen()
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        assert not waiting.done()
        hub.tell(PeerAdded(KEY))
        assert await waiting == PeerAdded(KEY)
        ending = asyncio.create_task(all_of(stream))
        await asyncio.sleep(0)
        hub.close()
        assert await ending == []

    asyncio.run(scenario())


def test_a_closed_stream_has_nothing_and_costs_nothing() -> None:
    async def scenario() -> None:
        hub = EventHub()
        stream = hub.listen()
        hub.tell(PeerAdded(KEY))
        stream.close()
        hub.tell(PeerAdded(KEY))
        assert await all_of(stream) == []

    asyncio.run(scenario())
