"""The control plane of whole devices, over fake data planes, a fake clock and a fake network."""

import errno
import logging
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2s
from ipaddress import ip_network
from random import Random

import pytest
from fakes import (
    Datagram,
    FakeLoop,
    FakeNetwork,
    FakePeer,
    FakePlane,
    FakeSockets,
    S,
    cookie_reply,
)

from wgpy.config import (
    ZERO_KEY,
    AllowedIP,
    DeviceChange,
    DeviceSnapshot,
    Endpoint,
    PeerChange,
    PeerSnapshot,
)
from wgpy.cookie import CookieGenerator, cookie_key, mac1_key
from wgpy.dataplane.plane import (
    MESSAGE_INITIATION,
    MESSAGE_RESPONSE,
    MESSAGE_TRANSPORT,
    SESSION_CURRENT,
    SESSION_NEXT,
    SESSION_PREVIOUS,
    Feature,
    MessageEvent,
    Plane,
    Queue,
)
from wgpy.device import EVENTS_PER_TURN, Device
from wgpy.errors import ConfigError
from wgpy.noise import RemoteStatic, StaticKey, write_initiation
from wgpy.peer import HANDSHAKE_TOS
from wgpy.tai64n import tai64n
from wgpy.timers import MAX_RETRIES

EPOCH_NS = 1_700_000_000 * S
STRANGER = StaticKey(b"\x99" * 32)
ELSEWHERE = Endpoint(b"\xcb\x00\x71\x07", 7777)


class Host:
    """A device and what is around it."""

    def __init__(self, loop: FakeLoop, network: FakeNetwork, number: int) -> None:
        self.private_key = bytes([number]) * 32
        self.identity = StaticKey(self.private_key)
        self.public_key = self.identity.public_key
        self.port = 51820 + number
        self.endpoint = Endpoint(bytes([192, 0, 2, number]), self.port)
        self.sockets = FakeSockets(self.endpoint.address)
        self.plane = FakePlane(loop, network, self.sockets, seed=number)
        self.random = Random(number)
        self.loop = loop
        self.device = Device(
            self.plane,
            self.sockets,
            loop,
            tun_fds=(3,),
            tun_features=1,
            wall_clock=lambda: EPOCH_NS + loop.now_ns,
            randbelow=self.random.randrange,
        )
        self.plane.on_readable = self.device.on_events

    def configure(self, *peers: PeerChange, **changes: object) -> None:
        self.device.configure(DeviceChange(peers=peers, **changes))  # type: ignore[arg-type]

    def peer(self, other: "Host", **changes: object) -> None:
        """Configure one peer."""
        self.configure(PeerChange(other.public_key, **changes))  # type: ignore[arg-type]

    def send(self, payload: bytes, slot: int = 0) -> None:
        self.plane.send_payload(slot, payload)

    @property
    def state(self) -> FakePeer:
        """The data plane's only peer."""
        [peer] = self.plane.peers.values()
        return peer

    @property
    def sessions(self) -> int:
        return self.plane.stats(self.state.slot).sessions

    @property
    def snapshot(self) -> DeviceSnapshot:
        return self.device.snapshot()

    @property
    def peer_snapshot(self) -> PeerSnapshot:
        [peer] = self.snapshot.peers
        return peer


class World:
    """Two hosts that are each other's peers, up."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.network = FakeNetwork(self.loop)
        self.a = Host(self.loop, self.network, 1)
        self.b = Host(self.loop, self.network, 2)
        for host, other in (self.a, self.b), (self.b, self.a):
            host.configure(private_key=host.private_key, listen_port=host.port)
            host.peer(other, endpoint=other.endpoint)
            host.device.up()
        self.loop.run()

    def converse(self) -> None:
        """A handshake by a, and one payload each way."""
        self.a.send(b"ping")
        self.loop.run()
        self.b.send(b"pong")
        self.loop.run()
        assert self.a.plane.payloads[-1:] == [(0, b"pong")]
        assert self.b.plane.payloads[-1:] == [(0, b"ping")]
        self.network.log.clear()

    def count(self, kind: int) -> int:
        return self.network.kinds().count(kind)

    def sent_by(self, host: Host, kind: int) -> list[Datagram]:
        return [d for d in self.network.log if d.source == host.endpoint and d.kind == kind]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def host() -> Host:
    """A device with a private key that is down."""
    loop = FakeLoop()
    host = Host(loop, FakeNetwork(loop), 1)
    host.configure(private_key=host.private_key)
    return host


def kind_is(kind: int) -> Callable[[Datagram], bool]:
    return lambda datagram: datagram.kind == kind


def prefixes(*texts: str, remove: bool = False) -> tuple[AllowedIP, ...]:
    networks = [ip_network(text) for text in texts]
    return tuple(AllowedIP(n.network_address.packed, n.prefixlen, remove) for n in networks)


def key(number: int) -> bytes:
    """The public key of some peer."""
    return StaticKey(number.to_bytes(32, "big")).public_key


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
    with caplog.at_level(logging.DEBUG, "wgpy.device"):
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


# ---- under load ----------------------------------------------------------------------------------


def flood(host: Host) -> None:
    """Fill the ring with rubbish that costs a handshake."""
    rubbish = MessageEvent(None, b"\x01" + bytes(147), ELSEWHERE, 0)
    for _ in range(16 * EVENTS_PER_TURN):
        host.plane.inject(rubbish)


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


def test_a_flood_leaves_the_loop_its_turns(world: World) -> None:
    flood(world.b)
    turns: list[int] = []
    handled = world.b.device.bad_messages

    def turn() -> None:
        nonlocal handled
        turns.append(world.b.device.bad_messages - handled)
        handled = world.b.device.bad_messages
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


# ---- configure: device ---------------------------------------------------------------------------


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


def test_a_listen_port_is_only_stored_while_down(host: Host) -> None:
    host.sockets.busy.add(51999)
    host.configure(listen_port=51999)
    assert host.snapshot.listen_port == 51999
    assert host.sockets.opened == []


def test_a_new_listen_port_takes_over_at_once(world: World) -> None:
    world.converse()
    world.a.configure(listen_port=50000)
    assert [bound.port for bound in world.a.sockets.live] == [50000]
    world.a.send(b"ping")
    world.loop.run()
    assert world.network.kinds() == [MESSAGE_TRANSPORT]
    assert world.b.peer_snapshot.endpoint == replace(world.a.endpoint, port=50000)


def test_the_same_listen_port_is_kept(world: World) -> None:
    world.a.configure(listen_port=world.a.port)
    assert len(world.a.sockets.opened) == 1


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
    world.a.configure(fwmark=51820)
    assert [bound.fwmark for bound in world.a.sockets.opened] == [51820]
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


@pytest.mark.parametrize("change", [{"fwmark": 5}, {"listen_port": 50000}])
def test_port_and_fwmark_changes_forget_source_addresses(
    world: World, change: dict[str, int]
) -> None:
    sticky = replace(world.b.endpoint, source=b"\xc0\x00\x02\x01", source_ifindex=2)
    world.a.plane.set_endpoint(0, sticky)
    world.a.configure(**change)
    assert world.a.peer_snapshot.endpoint is not None
    assert world.a.peer_snapshot.endpoint.source == b""


# ---- configure: peers ----------------------------------------------------------------------------


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


BAD_CHANGES = {
    "short private key": DeviceChange(private_key=bytes(31)),
    "port": DeviceChange(listen_port=65536),
    "fwmark": DeviceChange(fwmark=-1),
    "short public key": DeviceChange(peers=(PeerChange(b"short"),)),
    "preshared key": DeviceChange(peers=(PeerChange(key(6), preshared_key=bytes(33)),)),
    "keepalive": DeviceChange(peers=(PeerChange(key(6), persistent_keepalive_s=65536),)),
    "endpoint": DeviceChange(peers=(PeerChange(key(6), endpoint=Endpoint(b"abc", 1)),)),
    "prefix": DeviceChange(peers=(PeerChange(key(6), allowed_ips=(AllowedIP(bytes(4), 33),)),)),
    "port in use": DeviceChange(listen_port=50000),
}


@pytest.mark.parametrize("bad", BAD_CHANGES.values(), ids=BAD_CHANGES)
def test_a_request_that_fails_leaves_everything_as_it_was(world: World, bad: DeviceChange) -> None:
    world.converse()
    world.a.sockets.busy.add(50000)
    before = world.a.snapshot
    good = DeviceChange(
        private_key=b"\x09" * 32,
        fwmark=7,
        replace_peers=True,
        peers=(PeerChange(key(5)), *bad.peers),
    )
    given = {
        name: getattr(bad, name)
        for name in ("private_key", "listen_port", "fwmark")
        if getattr(bad, name) is not None
    }
    with pytest.raises(ConfigError):
        world.a.device.configure(replace(good, **given))
    assert world.a.snapshot == before
    assert len(world.a.sockets.opened) == 1
    assert [bound.fwmark for bound in world.a.sockets.live] == [0]
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


# ---- up and down ---------------------------------------------------------------------------------


def test_up_lends_the_descriptors_to_the_data_plane(host: Host) -> None:
    host.device.up()
    assert host.plane.io is not None
    assert host.plane.io.queues == (Queue(3, 4, 6),)
    assert host.plane.io.features == 1 | 8
    host.device.up()
    assert len(host.sockets.opened) == 1


def test_up_says_which_offloads_are_on(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "wgpy.device"):
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
    world.a.plane.inject(MessageEvent(None, bytes(148), ELSEWHERE, 0))
    world.a.send(b"ping")
    world.a.device.down()
    world.loop.advance(20)
    assert world.network.log == []
    assert world.a.device.bad_messages == 0


def test_messages_that_wait_for_their_turn_are_dropped_by_down(world: World) -> None:
    for _ in range(2 * EVENTS_PER_TURN):
        world.b.plane.inject(MessageEvent(None, b"\x01" + bytes(147), ELSEWHERE, 0))
    world.b.device.on_events()
    world.b.device.down()
    world.b.device.up()
    world.loop.run()
    assert world.b.device.bad_messages == EVENTS_PER_TURN


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


def test_close_forgets_everything(world: World) -> None:
    world.converse()
    world.a.device.close()
    assert world.a.snapshot == DeviceSnapshot(ZERO_KEY, world.a.port, 0, ())
    assert world.a.sockets.live == []
    assert world.a.plane.peers == {}
    assert world.a.plane.indexes == {}
    assert world.a.plane.mac1_key is None
    assert world.a.plane.cookie_key is None


# ---- the fakes -----------------------------------------------------------------------------------


def test_the_fake_plane_has_every_method_of_the_plane() -> None:
    public = {name for name in vars(Plane) if not name.startswith("_")}
    assert public - set(vars(FakePlane)) == set()
