# SPDX-License-Identifier: MIT
"""Hosts with real devices over fake data planes, and a network between them that misbehaves.

Everything happens in one thread on a fake clock, and chance comes from seeds only, so a run can be
repeated.  A monitor looks on and fails the run when a rule of the protocol is broken.
"""

from collections.abc import Callable
from random import Random

from core_numbers import EVENT_RING, MESSAGE_INITIATION, MESSAGE_RESPONSE, REKEY_TIMEOUT_S
from fake_peer import FakeKeypair, FakePeer
from fake_plane import STAGED_MAX, FakePlane
from fakes import FakeHandle, FakeLoop, FakeSockets, S
from sim.monitor import PAYLOAD, Monitor, require
from sim.network import SimNetwork

from wgpy.config import ZERO_KEY, AllowedIP, DeviceChange, Endpoint, PeerChange
from wgpy.dataplane.types import Session
from wgpy.device import Device
from wgpy.ports import Feature
from wgpy.protocol.noise import StaticKey
from wgpy.protocol.timers import INITIATION_INTERVAL_NS

EPOCH_NS = 1_700_000_000 * S
KEYPAIRS = 3  # current, previous, next


class HostClock:
    """The world's clock as one running host has it: while it sleeps or is dead, nothing is called.

    What became due meanwhile is called when it wakes up.
    """

    def __init__(self, loop: FakeLoop) -> None:
        self.asleep = False
        self.dead = False
        self._loop = loop
        self._scheduled: set[FakeHandle] = set()
        self._late: list[FakeHandle] = []

    @property
    def now_ns(self) -> int:
        return self._loop.now_ns

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> FakeHandle:
        handle = self._call(when_ns, callback)
        self._scheduled.add(handle)
        return handle

    def call_soon(self, callback: Callable[[], None]) -> FakeHandle:
        """For the data plane, whose events are not counted."""
        return self._call(self._loop.now_ns, callback)

    def advance(self, seconds: float) -> None:
        """Let time pass, for the whole world."""
        self._loop.advance(seconds)

    def _call(self, when_ns: int, callback: Callable[[], None]) -> FakeHandle:
        handle = FakeHandle(callback)
        self._loop.call_at(when_ns, lambda: self._due(handle))
        return handle

    def _due(self, handle: FakeHandle) -> None:
        if self.asleep:
            self._late.append(handle)
        elif handle.callback is not None and not self.dead:
            callback, handle.callback = handle.callback, None
            callback()

    def wake_up(self) -> None:
        self.asleep = False
        late, self._late = self._late, []
        for handle in late:
            self._due(handle)

    @property
    def waiting(self) -> int:
        """How many calls the device waits for."""
        self._scheduled = {handle for handle in self._scheduled if handle.callback is not None}
        return len(self._scheduled)


class SimPlane(FakePlane):
    """Tells the monitor what it does, and finds peers by the addresses behind them."""

    def __init__(self, host: "Host", clock: HostClock, sockets: FakeSockets, seed: int) -> None:
        super().__init__(clock, host.world.network, sockets, seed)
        self._host = host
        self._monitor = host.world.monitor
        self._spoken_ns: dict[int, int] = {}  # slot -> when it was sent message 1 or 2
        self._initiated_ns: dict[int, int] = {}  # slot, whoever is in it -> when it was message 1
        self._answered: dict[int, set[bytes]] = {}  # slot -> indexes of initiations

    def move(self, here: Endpoint) -> None:
        """Send and receive at another address from now on."""
        self._sockets.address = here.address
        self._network.detach(self.here)
        self.here = here
        if self.io is not None:
            self._network.attach(here, self)

    def forget_handshakes(self) -> None:
        """From now on the device may start a handshake at once."""
        self._spoken_ns.clear()

    def jump_counters(self, counter: int) -> None:
        """As if each session had sealed so many messages."""
        for peer in self.peers.values():
            for keypair in (peer.current, peer.next):
                if keypair is not None:
                    keypair.send_counter = max(counter, keypair.send_counter)

    def check_bounds(self) -> None:
        require(self._inbox.messages <= EVENT_RING, "the ring of messages is bounded")
        require(
            all(len(peer.staged) <= STAGED_MAX for peer in self.peers.values()),
            "staged packets are bounded",
        )
        require(
            len(self.indexes) <= len(self.peers) * (KEYPAIRS + 1),
            "a peer has three sessions and one handshake at most",
        )
        require(self.readable or not self.waiting, "an event that waits is announced")

    # ---- what FakePlane does, looked at ----

    def remove_peer(self, slot: int) -> None:
        super().remove_peer(slot)
        self._spoken_ns.pop(slot, None)
        self._answered.pop(slot, None)

    def install_keypair(self, slot: int, session: Session) -> None:
        super().install_keypair(slot, session)
        self._monitor.derived(session)

    def send_message(self, slot: int, data: bytes, tos: int, now_ns: int) -> None:
        self._look_at_handshake(slot, data)
        super().send_message(slot, data, tos, now_ns)

    def _look_at_handshake(self, slot: int, message: bytes) -> None:
        now_ns = self._loop.now_ns
        if message[0] == MESSAGE_INITIATION:
            require(
                now_ns >= self._spoken_ns.get(slot, 0) + REKEY_TIMEOUT_S * S,
                "an initiation follows our last handshake message after 5 s at the earliest",
            )
            require(
                now_ns >= self._initiated_ns.get(slot, 0) + INITIATION_INTERVAL_NS,
                "an initiation is never too soon after another for its responder",
            )
            self._initiated_ns[slot] = now_ns
        else:
            assert message[0] == MESSAGE_RESPONSE
            answered = self._answered.setdefault(slot, set())
            require(message[8:12] not in answered, "an initiation is answered once")
            answered.add(message[8:12])
        self._spoken_ns[slot] = now_ns

    def _seal(self, peer: FakePeer, keypair: FakeKeypair, payload: bytes) -> None:
        self._monitor.seal(keypair.session.send_key, keypair.send_counter)
        super()._seal(peer, keypair, payload)

    def _open(self, keypair: FakeKeypair, message: bytes) -> bytes | None:
        payload = super()._open(keypair, message)
        if payload is not None:
            self._monitor.accept(keypair.session.receive_key, payload, self._host.number)
        return payload


class Host:
    """A computer: it may crash, sleep, move and have a wrong clock; its configuration stays."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.number = number
        self.become(bytes([number]) * 32)
        self.inside = bytes([10, 9, 0, number])
        self.port = 50000 + number
        self.address = bytes([10, number, 0, 1])
        self.wall_offset_ns = 0
        self._greatest_wall_offset_ns = 0
        self._clock_corrected = False
        self.keepalive_s = 0
        self.knows_endpoints = True  # by configuration
        self._boots = 0
        self._configured = False
        self.boot()

    @property
    def name(self) -> str:
        return "?ABCDEFGH"[self.number]

    def become(self, private_key: bytes) -> None:
        self.private_key = private_key
        self.public_key = StaticKey(private_key).public_key

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.address, self.port)

    @property
    def others(self) -> list["Host"]:
        """Whom it is configured to talk to."""
        return [host for host in self.world.hosts if self.world.are_peers(self, host)]

    # ---- life ----

    def boot(self) -> None:
        """Start from nothing; `sync` configures."""
        self._boots += 1
        seed = self.world.seed << 16 | self._boots << 8 | self.number
        self.clock = HostClock(self.world.loop)
        self.plane = SimPlane(self, self.clock, FakeSockets(self.address), seed)
        random = Random(seed)
        self.device = Device(
            self.plane,
            self.plane._sockets,
            self.clock,
            tun_fds=(3,),
            tun_features=Feature(0),
            wall_clock=lambda: EPOCH_NS + self.world.loop.now_ns + self.wall_offset_ns,
            randbelow=random.randrange,
        )
        self.plane.on_readable = self._on_events
        self.device.configure(DeviceChange(listen_port=self.port))
        self.device.up()

    def _on_events(self) -> None:
        self.device.on_events()
        self.plane.check_bounds()

    def crash(self) -> None:
        self.clock.dead = True
        self.plane.stop()

    @property
    def alive(self) -> bool:
        return not (self.clock.dead or self.clock.asleep)

    def fall_asleep(self) -> None:
        self.clock.asleep = True
        self.plane._network.detach(self.plane.here)

    def wake_up(self) -> None:
        if self.clock.asleep:
            if self.plane.running:
                self.plane._network.attach(self.plane.here, self.plane)
            self.clock.wake_up()

    def link_down(self) -> None:
        self.device.down()
        self.plane.forget_handshakes()

    def link_up(self) -> None:
        self.device.up()

    def listen(self, port: int) -> None:
        self.port = port
        self.plane.forget_handshakes()
        self.device.configure(DeviceChange(listen_port=port))

    def move(self, address: bytes) -> None:
        self.address = address
        self.plane.move(self.endpoint)

    def step_clock(self, by_ns: int) -> None:
        """Set the wall clock, unless `correct_clock` has."""
        if self._clock_corrected:
            return
        self.wall_offset_ns += by_ns
        self._greatest_wall_offset_ns = max(self._greatest_wall_offset_ns, self.wall_offset_ns)

    def correct_clock(self) -> None:
        """Wind it forward to where it ever was, for good.

        A device that has forgotten its handshakes with a peer that has not needs that.
        """
        self._clock_corrected = True
        self.wall_offset_ns = self._greatest_wall_offset_ns

    # ---- configuration ----

    def sync(self) -> None:
        """Configure the device as the world has it, like `wg syncconf`."""
        there = {peer.public_key for peer in self.device.snapshot().peers}
        wanted = {host.public_key: host for host in self.others}
        if self._configured and set(wanted) - there:
            self.correct_clock()
        self._configured = True
        removed = [PeerChange(key, remove=True) for key in there - set(wanted)]
        edited = [self._section(host) for host in wanted.values()]
        self.configure(*sorted(removed, key=lambda peer: peer.public_key), *edited)

    def configure(self, *peers: PeerChange) -> None:
        """Change these peers, and become who we are by now."""
        if self.device.snapshot().private_key != self.private_key:
            self.plane.forget_handshakes()
        self.device.configure(DeviceChange(private_key=self.private_key, peers=peers))

    def _section(self, other: "Host") -> PeerChange:
        return PeerChange(
            other.public_key,
            preshared_key=self.world.preshared_key(self, other),
            endpoint=other.endpoint if self.knows_endpoints else None,
            persistent_keepalive_s=self.keepalive_s,
            allowed_ips=(AllowedIP(other.inside, 32),),
        )

    # ---- traffic ----

    def send(self, other: "Host") -> int | None:
        """Send a payload; -> its number, None if the host cannot."""
        slot = self.plane.lookup(other.inside) if self.alive else None
        if slot is None or not self.plane.running:
            return None
        payload = self.world.monitor.new_payload(self.number, other.number)
        self.plane.send_payload(slot, payload)
        self.plane.check_bounds()
        number: int = PAYLOAD.unpack(payload)[2]
        return number


class World:
    """Hosts around a server, to which all others talk."""

    def __init__(self, seed: int = 0, hosts: int = 2) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.loop = FakeLoop()
        self.monitor = Monitor(self.loop)
        self.network = SimNetwork(self.loop, Random(seed + 1))
        self.say: Callable[[str], None] = lambda text: None
        self._preshared_keys: dict[tuple[int, int], bytes] = {}
        self.hosts: list[Host] = []
        self.hosts += [Host(self, number) for number in range(1, hosts + 1)]
        for host in self.hosts:
            host.sync()

    @property
    def server(self) -> Host:
        return self.hosts[0]

    @property
    def clients(self) -> list[Host]:
        return self.hosts[1:]

    @property
    def pairs(self) -> list[tuple[Host, Host]]:
        return [(self.server, client) for client in self.clients]

    def are_peers(self, host: Host, other: Host) -> bool:
        return (host is self.server) != (other is self.server)

    def preshared_key(self, host: Host, other: Host) -> bytes:
        numbers = sorted((host.number, other.number))
        return self._preshared_keys.get((numbers[0], numbers[1]), ZERO_KEY)

    def set_preshared_key(self, host: Host, other: Host, key: bytes) -> None:
        numbers = sorted((host.number, other.number))
        self._preshared_keys[numbers[0], numbers[1]] = key

    @property
    def now_s(self) -> float:
        return self.loop.now_ns / S

    def at(self, when_s: float, callback: Callable[[], None]) -> None:
        self.loop.call_at(round(when_s * S), callback)

    def until(self, when_s: float) -> None:
        self.loop.advance(when_s - self.now_s)

    def advance(self, seconds: float) -> None:
        self.loop.advance(seconds)
