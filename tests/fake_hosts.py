# SPDX-License-Identifier: MIT
"""Whole devices over fake data planes, a fake clock and a fake network."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from changes import DeviceFields, PeerFields
from fake_peer import FakePeer
from fake_plane import FakePlane
from fakes import Datagram, FakeLoop, FakeNetwork, FakeSockets, S

from wgpy.config import DeviceChange, DeviceSnapshot, Endpoint, PeerChange, PeerSnapshot
from wgpy.device import Device
from wgpy.ports import Feature
from wgpy.protocol.cookie import CookieGenerator
from wgpy.protocol.handshake import Handshake
from wgpy.protocol.noise import HandshakeSecrets, RemoteStatic, StaticKey, write_initiation
from wgpy.protocol.tai64n import tai64n

if TYPE_CHECKING:
    from typing_extensions import Unpack

KeyLog = Callable[[HandshakeSecrets], None]
EPOCH_NS = 1_700_000_000 * S
ELSEWHERE = Endpoint(b"\xcb\x00\x71\x07", 7777)


class Host:
    """A device and what is around it."""

    def __init__(
        self, loop: FakeLoop, network: FakeNetwork, number: int, key_log: KeyLog | None = None
    ) -> None:
        self.private_key = bytes([number]) * 32
        self.identity = StaticKey(self.private_key)
        self.public_key = self.identity.public_key
        self.port = 51820 + number
        self.endpoint = Endpoint(bytes([192, 0, 2, number]), self.port)
        self.sockets = FakeSockets(self.endpoint.address)
        self.plane = FakePlane(loop, network, self.sockets, seed=number)
        self.random = Random(number)
        self.loop = loop
        self.epoch_ns = EPOCH_NS  # what the wall clock showed when the loop's showed 0
        self.device = Device(
            self.plane,
            self.sockets,
            loop,
            tun_fds=(3,),
            tun_features=Feature.VNET_HDR,
            wall_clock=lambda: self.epoch_ns + loop.now_ns,
            randbelow=self.random.randrange,
            key_log=key_log,
        )
        self.plane.on_readable = self.device.on_events

    def configure(self, *peers: PeerChange, **changes: "Unpack[DeviceFields]") -> None:
        self.device.configure(DeviceChange(peers=peers, **changes))

    def peer(self, other: "Host", **changes: "Unpack[PeerFields]") -> None:
        """Configure one peer."""
        self.configure(PeerChange(other.public_key, **changes))

    def send(self, payload: bytes, slot: int = 0) -> None:
        self.plane.send_payload(slot, payload)

    @property
    def state(self) -> FakePeer:
        """The data plane's only peer."""
        [peer] = self.plane.peers.values()
        return peer

    @property
    def handshake(self) -> Handshake:
        """Where it stands with the only peer."""
        [peer] = self.device._peers.values()
        return peer.handshake

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


def host_that_is_down() -> Host:
    """A device with a private key."""
    loop = FakeLoop()
    host = Host(loop, FakeNetwork(loop), 1)
    host.configure(private_key=host.private_key)
    return host


class World:
    """Two hosts that are each other's peers, up."""

    def __init__(self, key_log: KeyLog | None = None) -> None:
        self.loop = FakeLoop()
        self.network = FakeNetwork(self.loop)
        self.a = Host(self.loop, self.network, 1, key_log)
        self.b = Host(self.loop, self.network, 2, key_log)
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


def key(number: int) -> bytes:
    """The public key of some peer."""
    return StaticKey(number.to_bytes(32, "big")).public_key


def initiation(sender: StaticKey, to: Host, unix_ns: int, index: int = 77) -> bytes:
    """A genuine first message."""
    remote = RemoteStatic(to.public_key, sender.exchange(to.public_key))
    message, _ = write_initiation(sender, remote, index, tai64n(unix_ns))
    return CookieGenerator(to.public_key).add_macs(message, 0)
