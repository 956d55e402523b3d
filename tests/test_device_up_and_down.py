# SPDX-License-Identifier: MIT
"""The link, as a whole device takes it; see fake_hosts.py."""

import logging

import pytest
from core_numbers import SESSION_CURRENT
from fake_hosts import ELSEWHERE, Host, World, host_that_is_down, key
from seen import refusals

from wgpy.config import ZERO_KEY, DeviceSnapshot, PeerChange
from wgpy.dataplane.types import MessageEvent, WorkerIO
from wgpy.device import EVENTS_PER_TURN
from wgpy.errors import ConfigError
from wgpy.ports import Feature


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def host() -> Host:
    return host_that_is_down()


def test_up_lends_the_descriptors_to_the_data_plane(host: Host) -> None:
    host.device.up()
    assert host.plane.io is not None
    assert host.plane.io.workers == (WorkerIO(3, 4, 6),)
    assert host.plane.io.features == 1 | 8
    host.device.up()
    assert len(host.sockets.opened) == 1


def test_up_says_which_offloads_are_on(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "wgpy"):
        host.configure(listen_port=50001)
        host.device.up()
    assert caplog.messages == ["listens on UDP port 50001: UDP_GSO"]
    assert str(Feature.VNET_HDR | Feature.TUN_TSO) == "VNET_HDR TUN_TSO"
    assert str(Feature(0)) == "none"


def test_down_closes_the_sockets_and_forgets_the_sessions(world: World) -> None:
    world.converse()
    world.a.device.down()
    assert world.a.sockets.live == []
    assert not world.a.plane.running
    assert world.a.sessions == 0
    assert world.a.plane.indexes == {}
    assert world.a.snapshot.listen_port == world.a.port
    world.a.device.down()


def test_down_drops_staged_packets_and_the_handshake(world: World) -> None:
    world.network.lose = lambda datagram: True
    world.a.send(b"ping")
    world.loop.advance(1)
    world.a.device.down()
    assert world.a.state.staged == []
    assert world.a.plane.indexes == {}
    assert world.loop.deadlines() == []


def test_what_is_left_over_from_before_down_is_not_handled(world: World) -> None:
    world.a.plane.inject(MessageEvent(None, bytes(148), ELSEWHERE))
    world.a.send(b"ping")
    world.a.device.down()
    world.loop.advance(20)
    assert world.network.log == []
    assert refusals(world.a.device) == {}


def test_messages_that_wait_for_their_turn_are_dropped_by_down(world: World) -> None:
    for _ in range(2 * EVENTS_PER_TURN):
        world.b.plane.inject(MessageEvent(None, b"\x01" + bytes(147), ELSEWHERE))
    world.b.device.on_events()
    handled = sum(refusals(world.b.device).values())
    assert 0 < handled <= EVENTS_PER_TURN
    world.b.device.down()
    world.b.device.up()
    world.loop.run()
    assert sum(refusals(world.b.device).values()) == handled


def test_after_down_and_up_a_handshake_may_start_at_once(world: World) -> None:
    world.converse()
    world.loop.advance(1)
    world.a.device.down()
    world.a.device.up()
    world.a.send(b"again")
    world.loop.run()
    assert world.b.plane.payloads[-1] == (0, b"again")


def test_traffic_from_before_down_asks_for_nothing_after_up(world: World) -> None:
    world.converse()  # a has not answered the pong
    world.a.device.down()
    world.a.peer(world.b, persistent_keepalive_s=1000)
    world.b.device.down()
    world.a.state.kicks.clear()
    world.a.device.up()
    world.loop.advance(90)
    assert world.a.state.kicks == [True]


def test_up_sends_persistent_keepalives(world: World) -> None:
    world.a.device.down()
    world.a.peer(world.b, persistent_keepalive_s=25)
    world.loop.advance(100)
    assert world.network.log == []
    world.a.device.up()
    world.loop.run()
    assert world.b.sessions == SESSION_CURRENT


def test_up_with_the_port_in_use_waits_for_another_port(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.configure(PeerChange(key(5), endpoint=ELSEWHERE, persistent_keepalive_s=5))
    host.configure(listen_port=50000)
    host.sockets.busy.add(50000)
    host.device.up()
    assert "50000" in caplog.text
    assert not host.plane.running
    with pytest.raises(ConfigError):
        host.configure(listen_port=50000)
    host.configure(listen_port=50001)
    assert host.plane.running
    assert host.state.kicks == [True]
    host.sockets.busy.clear()
    host.loop.advance(60)
    assert [bound.port for bound in host.sockets.live] == [50001]


def test_up_with_the_port_in_use_waits_until_it_is_free(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.configure(listen_port=50000)
    host.sockets.busy.add(50000)
    host.device.up()
    host.configure(PeerChange(key(5), endpoint=ELSEWHERE, persistent_keepalive_s=5), fwmark=7)
    host.loop.advance(3600)
    (record,) = caplog.records  # once
    assert record.levelno == logging.ERROR
    assert "50000" in record.message
    host.sockets.busy.clear()
    host.loop.advance(1)
    assert host.plane.running
    assert [(bound.port, bound.fwmark) for bound in host.sockets.live] == [(50000, 7)]
    assert host.state.kicks == [True]


def test_down_waits_for_no_port(host: Host) -> None:
    host.configure(listen_port=50000)
    host.sockets.busy.add(50000)
    host.device.up()
    host.device.down()
    host.sockets.busy.clear()
    host.loop.advance(60)
    assert host.sockets.live == []
    assert not host.plane.running


def test_close_forgets_everything(world: World) -> None:
    world.converse()
    world.a.device.close()
    assert world.a.snapshot == DeviceSnapshot(ZERO_KEY, world.a.port, 0, ())
    assert world.a.sockets.live == []
    assert world.a.plane.peers == {}
    assert world.a.plane.indexes == {}
    assert world.a.plane.mac1_key is None
    assert world.a.plane.cookie_key is None
