# SPDX-License-Identifier: MIT
"""Load and requests, as a whole device takes them; see fake_hosts.py."""

import errno
from dataclasses import replace
from ipaddress import ip_network

import pytest
from changes import DeviceFields
from core_numbers import MESSAGE_INITIATION, MESSAGE_RESPONSE, MESSAGE_TRANSPORT, SESSION_CURRENT
from fake_hosts import ELSEWHERE, Host, World, host_that_is_down, key
from fake_plane import FakePlane
from fakes import FakeLoop, FakeNetwork
from seen import refusals

from wgpy.config import (
    ZERO_KEY,
    AllowedIP,
    DeviceSnapshot,
    PeerChange,
    PeerSnapshot,
)
from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import MessageEvent
from wgpy.device import EVENTS_PER_TURN
from wgpy.errors import ConfigError
from wgpy.protocol.cookie import cookie_key, mac1_key
from wgpy.protocol.noise import StaticKey


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def host() -> Host:
    return host_that_is_down()


def prefixes(*texts: str, remove: bool = False) -> tuple[AllowedIP, ...]:
    networks = [ip_network(text) for text in texts]
    return tuple(AllowedIP(n.network_address.packed, n.prefixlen, remove) for n in networks)


# ---- under load ----


def flood(host: Host) -> None:
    """Fill the ring with rubbish that costs a handshake."""
    rubbish = MessageEvent(None, b"\x01" + bytes(147), ELSEWHERE)
    for _ in range(16 * EVENTS_PER_TURN):
        host.plane.inject(rubbish)


def refused(host: Host) -> int:
    """How much of it was handled."""
    return sum(refusals(host.device).values())


def test_a_flood_leaves_the_loop_its_turns(world: World) -> None:
    flood(world.b)
    turns: list[int] = []
    handled = refused(world.b)

    def turn() -> None:
        nonlocal handled
        turns.append(refused(world.b) - handled)
        handled = refused(world.b)
        if len(turns) < 5:
            world.loop.call_soon(turn)

    world.loop.call_soon(turn)
    world.loop.run()
    assert max(turns) <= EVENTS_PER_TURN


def test_established_peers_go_before_a_flood(world: World) -> None:
    flood(world.b)
    world.b.send(b"ping")
    world.b.device.on_events()
    assert len(world.sent_by(world.b, MESSAGE_INITIATION)) == 1


# ---- configure: device ----


def test_a_new_device_is_empty() -> None:
    loop = FakeLoop()
    assert Host(loop, FakeNetwork(loop), 1).snapshot == DeviceSnapshot(ZERO_KEY, 0, 0, ())


def test_a_private_key_makes_the_data_plane_listen_to_its_mac1(host: Host) -> None:
    assert host.snapshot.private_key == host.private_key
    assert host.plane.mac1_key == mac1_key(host.public_key)
    assert host.plane.cookie_key == cookie_key(host.public_key)


def test_a_zero_private_key_clears_the_identity(world: World) -> None:
    world.a.configure(private_key=ZERO_KEY)
    assert world.a.snapshot.private_key == ZERO_KEY
    assert world.a.plane.mac1_key is None
    assert world.a.plane.cookie_key is None
    world.a.send(b"ping")
    world.b.send(b"pong")
    world.loop.advance(20)
    assert world.sent_by(world.a, MESSAGE_INITIATION) == []
    assert world.count(MESSAGE_RESPONSE) == 0


def test_the_same_private_key_changes_nothing(world: World) -> None:
    world.converse()
    world.a.configure(private_key=world.a.private_key)
    world.a.send(b"ping")
    world.loop.run()
    assert world.network.kinds() == [MESSAGE_TRANSPORT]


def test_another_private_key_ends_the_sessions(world: World) -> None:
    world.converse()
    other = Host(world.loop, world.network, 3)
    world.b.configure(PeerChange(other.public_key))
    world.loop.advance(1)
    world.a.configure(private_key=other.private_key)
    world.a.send(b"who am I?")
    world.loop.run()
    assert world.count(MESSAGE_INITIATION) == 1
    assert world.b.plane.payloads[-1] == (1, b"who am I?")


def test_a_peer_with_our_own_new_key_is_removed(host: Host) -> None:
    other = StaticKey(b"\x07" * 32)
    host.configure(PeerChange(other.public_key), PeerChange(key(8)))
    host.configure(private_key=b"\x07" * 32)
    assert [peer.public_key for peer in host.snapshot.peers] == [key(8)]


def test_a_peer_section_with_our_own_key_is_skipped(host: Host) -> None:
    host.configure(PeerChange(host.public_key), PeerChange(key(8)))
    assert [peer.public_key for peer in host.snapshot.peers] == [key(8)]


def test_a_listen_port_is_tried_and_let_go_while_down(host: Host) -> None:
    host.configure(listen_port=51999)
    assert host.snapshot.listen_port == 51999
    assert [bound.port for bound in host.sockets.opened] == [51999]
    assert host.sockets.live == []


def test_a_listen_port_in_use_is_refused_while_down_too(host: Host) -> None:
    host.configure(listen_port=51998)
    host.sockets.busy.add(51999)
    with pytest.raises(ConfigError) as caught:
        host.configure(listen_port=51999, fwmark=7)
    assert caught.value.errno == errno.EADDRINUSE
    assert (host.snapshot.listen_port, host.snapshot.fwmark) == (51998, 0)


def test_a_fwmark_that_is_not_permitted_is_refused_while_down_too(host: Host) -> None:
    host.sockets.fwmark_error = PermissionError(errno.EPERM, "not permitted")
    with pytest.raises(ConfigError) as caught:
        host.configure(fwmark=7)
    assert caught.value.errno == errno.EPERM
    host.configure(fwmark=0)


def test_a_new_listen_port_takes_over_at_once(world: World) -> None:
    world.converse()
    world.a.configure(listen_port=50000)
    assert [bound.port for bound in world.a.sockets.live] == [50000]
    world.a.send(b"ping")
    world.loop.run()
    assert world.network.kinds() == [MESSAGE_TRANSPORT]
    assert world.b.peer_snapshot.endpoint == replace(world.a.endpoint, port=50000)


def test_the_same_listen_port_is_kept(world: World) -> None:
    bound = world.a.sockets.live
    world.a.configure(listen_port=world.a.port)
    assert world.a.sockets.live == bound


def test_a_listen_port_in_use_is_refused_and_the_old_one_goes_on(world: World) -> None:
    world.a.sockets.busy.add(50000)
    with pytest.raises(ConfigError) as error:
        world.a.configure(listen_port=50000)
    assert error.value.errno == errno.EADDRINUSE
    assert world.a.snapshot.listen_port == world.a.port
    world.converse()


def test_listen_port_0_is_a_random_port_chosen_at_up(host: Host) -> None:
    host.configure(listen_port=0)
    assert host.snapshot.listen_port == 0
    host.device.up()
    assert host.snapshot.listen_port == 40000


def test_a_fwmark_is_set_on_the_open_sockets(world: World) -> None:
    [bound] = world.a.sockets.live
    world.a.configure(fwmark=51820)
    assert world.a.sockets.live == [bound]
    assert bound.fwmark == 51820
    assert world.a.snapshot.fwmark == 51820
    world.a.configure(listen_port=50000)
    assert [bound.fwmark for bound in world.a.sockets.live] == [51820]


def test_a_fwmark_is_stored_while_down(host: Host) -> None:
    host.configure(fwmark=7)
    host.device.up()
    assert [bound.fwmark for bound in host.sockets.live] == [7]


def test_a_fwmark_that_is_not_permitted_is_refused(world: World) -> None:
    world.a.sockets.fwmark_error = PermissionError(errno.EPERM, "Operation not permitted")
    with pytest.raises(ConfigError) as error:
        world.a.configure(fwmark=5)
    assert error.value.errno == errno.EPERM
    assert world.a.snapshot.fwmark == 0


CHANGES: list[DeviceFields] = [{"fwmark": 5}, {"listen_port": 50000}]


@pytest.mark.parametrize("change", CHANGES)
def test_port_and_fwmark_changes_forget_source_addresses(
    world: World, change: DeviceFields
) -> None:
    sticky = replace(world.b.endpoint, source=b"\xc0\x00\x02\x01", source_ifindex=2)
    world.a.plane.set_endpoint(0, sticky)
    world.a.configure(**change)
    assert world.a.peer_snapshot.endpoint is not None
    assert world.a.peer_snapshot.endpoint.source == b""


# ---- configure: peers ----


def test_a_peer_shows_what_was_set(host: Host) -> None:
    allowed = prefixes("10.0.0.0/8", "fd00::/64", "10.1.2.3/32")
    host.configure(
        PeerChange(
            key(5),
            preshared_key=b"\x06" * 32,
            endpoint=ELSEWHERE,
            persistent_keepalive_s=25,
            allowed_ips=allowed,
        )
    )
    assert host.peer_snapshot == PeerSnapshot(
        public_key=key(5),
        preshared_key=b"\x06" * 32,
        endpoint=ELSEWHERE,
        last_handshake_ns=0,
        tx_bytes=0,
        rx_bytes=0,
        persistent_keepalive_s=25,
        allowed_ips=allowed,
    )


def test_what_a_request_does_not_name_stays(host: Host) -> None:
    host.configure(
        PeerChange(key(5), preshared_key=b"\x06" * 32, endpoint=ELSEWHERE),
        listen_port=50000,
        fwmark=5,
    )
    before = host.snapshot
    host.configure(PeerChange(key(5)))
    assert host.snapshot == before


def test_peers_are_shown_in_order_of_creation(host: Host) -> None:
    numbers = [5, 3, 9, 1]
    host.configure(*(PeerChange(key(number)) for number in numbers))
    host.configure(PeerChange(key(9), persistent_keepalive_s=1))
    assert [peer.public_key for peer in host.snapshot.peers] == [key(n) for n in numbers]


def test_the_same_key_twice_in_a_request_is_one_peer(host: Host) -> None:
    host.configure(
        PeerChange(key(5), persistent_keepalive_s=1, allowed_ips=prefixes("10.0.0.0/8")),
        PeerChange(key(5), persistent_keepalive_s=2, allowed_ips=prefixes("11.0.0.0/8")),
    )
    assert host.peer_snapshot.persistent_keepalive_s == 2
    assert host.peer_snapshot.allowed_ips == prefixes("10.0.0.0/8", "11.0.0.0/8")


def test_update_only_makes_no_peer(host: Host) -> None:
    host.configure(PeerChange(key(5), update_only=True))
    assert host.snapshot.peers == ()
    host.configure(PeerChange(key(5)))
    host.configure(PeerChange(key(5), update_only=True, persistent_keepalive_s=3))
    assert host.peer_snapshot.persistent_keepalive_s == 3


def test_a_removed_peer_is_gone(world: World) -> None:
    world.converse()
    world.a.peer(world.b, remove=True)
    assert world.a.snapshot.peers == ()
    assert world.a.plane.peers == {}
    assert world.a.plane.indexes == {}
    world.b.send(b"pong")
    world.loop.advance(20)
    assert world.sent_by(world.a, MESSAGE_RESPONSE) == []


def test_removing_an_unknown_peer_is_fine(host: Host) -> None:
    host.configure(PeerChange(key(5), remove=True))
    assert host.snapshot.peers == ()


def test_replace_peers_starts_afresh(world: World) -> None:
    world.converse()
    world.a.configure(PeerChange(key(5)), PeerChange(world.b.public_key), replace_peers=True)
    assert [p.public_key for p in world.a.snapshot.peers] == [key(5), world.b.public_key]
    assert [p.last_handshake_ns for p in world.a.snapshot.peers] == [0, 0]
    assert world.a.plane.indexes == {}


def test_replace_allowed_ips_clears_them_first(host: Host) -> None:
    host.configure(PeerChange(key(5), allowed_ips=prefixes("10.0.0.0/8")))
    host.configure(PeerChange(key(5), allowed_ips=prefixes("11.0.0.0/8")))
    assert host.peer_snapshot.allowed_ips == prefixes("10.0.0.0/8", "11.0.0.0/8")
    change = PeerChange(key(5), replace_allowed_ips=True, allowed_ips=prefixes("12.0.0.0/8"))
    host.configure(change)
    assert host.peer_snapshot.allowed_ips == prefixes("12.0.0.0/8")


def test_an_allowed_ip_moves_from_another_peer(host: Host) -> None:
    for number in (5, 6):
        host.configure(PeerChange(key(number), allowed_ips=prefixes("10.0.0.0/8")))
    assert [p.allowed_ips for p in host.snapshot.peers] == [(), prefixes("10.0.0.0/8")]


def test_an_allowed_ip_is_removed_only_from_its_owner(host: Host) -> None:
    gone = prefixes("10.0.0.0/8", remove=True)
    host.configure(PeerChange(key(5), allowed_ips=prefixes("10.0.0.0/8")))
    host.configure(PeerChange(key(6), allowed_ips=gone))
    assert host.snapshot.peers[0].allowed_ips == prefixes("10.0.0.0/8")
    host.configure(PeerChange(key(5), allowed_ips=gone))
    assert host.snapshot.peers[0].allowed_ips == ()


def test_an_endpoint_change_starts_no_handshake(world: World) -> None:
    world.a.peer(world.b, endpoint=ELSEWHERE)
    world.loop.advance(20)
    assert world.network.log == []


def test_switching_the_persistent_keepalive_on_sends_one_at_once(world: World) -> None:
    world.converse()
    world.a.peer(world.b, persistent_keepalive_s=25)
    world.loop.run()
    assert [datagram.is_keepalive for datagram in world.network.log] == [True]
    world.a.peer(world.b, persistent_keepalive_s=20)
    world.loop.run()
    assert len(world.network.log) == 1


def test_a_new_peer_of_a_running_device_takes_part_at_once(world: World) -> None:
    c = Host(world.loop, world.network, 3)
    c.configure(private_key=c.private_key, listen_port=c.port)
    c.peer(world.a)
    c.device.up()
    world.a.peer(c, endpoint=c.endpoint, persistent_keepalive_s=25)
    world.loop.run()
    assert c.sessions == SESSION_CURRENT


def test_a_request_that_fails_leaves_everything_as_it_was(world: World) -> None:
    world.converse()
    world.a.sockets.busy.add(50000)
    before, bound = world.a.snapshot, world.a.sockets.live
    with pytest.raises(ConfigError):
        world.a.configure(
            PeerChange(key(5)),
            private_key=b"\x09" * 32,
            listen_port=50000,  # is in use
            fwmark=7,
            replace_peers=True,
        )
    assert world.a.snapshot == before
    assert world.a.sockets.live == bound
    assert bound[0].fwmark == 0
    world.a.send(b"still here")
    world.loop.run()
    assert world.b.plane.payloads[-1] == (0, b"still here")


def test_more_peers_than_the_maximum_are_refused(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wgpy.device.MAX_PEERS", 3)
    four = [PeerChange(key(number)) for number in range(1, 5)]
    host.configure(*four[:3])
    host.configure(*four[:3])
    with pytest.raises(ConfigError) as error:
        host.configure(four[3])
    assert error.value.errno == errno.ENOMEM
    host.configure(*four[1:], replace_peers=True)
    assert len(host.snapshot.peers) == 3


# ---- the fakes ----


def test_the_fake_plane_has_every_method_of_the_plane() -> None:
    public = {name for name in vars(Plane) if not name.startswith("_")}
    assert public - set(vars(FakePlane)) == set()
