"""Two devices with the real data plane, over loopback; a socket pair stands for each TUN.

Time is real, but for the jumps that a test makes.  Nobody sleeps: `until` serves both devices until
something has come true.
"""

import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from heapq import heappop, heappush
from itertools import count

import pytest
from fakes import FakeHandle, S

from wgpy.config import AllowedIP, DeviceChange, Endpoint, PeerChange, PeerSnapshot
from wgpy.dataplane.plane import SESSION_CURRENT, PeerStats, Plane
from wgpy.device import Device
from wgpy.noise import StaticKey
from wgpy.sockets import open_sockets

pytestmark = pytest.mark.threads

PATIENCE_S = 10  # until a test fails
EPOCH_NS = 1_700_000_000 * S
LOOPBACK = {4: socket.inet_aton("127.0.0.1"), 6: socket.inet_pton(socket.AF_INET6, "::1")}
IPV4 = struct.Struct("!BBHHHBBH4s4s")
NO_NEXT_HEADER = 59


def packet(source: bytes, destination: bytes, payload: bytes) -> bytes:
    """An IPv4 packet of a protocol that nobody looks into."""
    length = IPV4.size + len(payload)
    fields = (0x45, 0, length, 0, 0, 64, NO_NEXT_HEADER)
    words = struct.unpack("!10H", IPV4.pack(*fields, 0, source, destination))
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return IPV4.pack(*fields, checksum, source, destination) + payload


class Loop:
    """Serves the devices' events and timers, on the planes' clock."""

    def __init__(self) -> None:
        self.planes: list[Plane] = []
        self._devices: dict[int, Device] = {}
        self._poll = select.poll()
        self._order = count()
        self._calls: list[tuple[int, int, FakeHandle]] = []

    def add(self, plane: Plane, device: Device) -> None:
        self.planes.append(plane)
        self._devices[plane.event_fd] = device
        self._poll.register(plane.event_fd, select.POLLIN)

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> FakeHandle:
        handle = FakeHandle(callback)
        heappush(self._calls, (when_ns, next(self._order), handle))
        return handle

    def advance(self, seconds: float) -> None:
        """Jump; what has become due happens in the next `until`."""
        for plane in self.planes:
            plane.advance_clock(round(seconds * S))

    def until(self, condition: Callable[[], object]) -> None:
        end_ns = self.planes[0].now_ns() + PATIENCE_S * S
        while not condition():
            assert self.planes[0].now_ns() < end_ns, "it did not come true"
            for fd, _ in self._poll.poll(5):
                self._devices[fd].on_events()
            self._make_calls()

    def _make_calls(self) -> None:
        while self._calls and self._calls[0][0] <= self.planes[0].now_ns():
            _, _, handle = heappop(self._calls)
            if handle.callback is not None:
                handle.callback()


class Host:
    """A device whose tunnel address is 10.0.0.NUMBER."""

    def __init__(self, stack: ExitStack, loop: Loop, number: int) -> None:
        self.private_key = bytes([number]) * 32
        self.public_key = StaticKey(self.private_key).public_key
        self.address = bytes([10, 0, 0, number])
        inside, self.tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (inside, self.tun):
            end.setblocking(False)
            stack.enter_context(closing(end))
        self.plane = stack.enter_context(closing(Plane()))
        self.device = Device(
            self.plane,
            open_sockets,
            loop,
            inside.fileno(),
            tun_features=0,
            wall_clock=lambda: EPOCH_NS + self.plane.now_ns(),  # it makes the same jumps
        )
        stack.enter_context(closing(self.device))
        self.received: list[bytes] = []
        loop.add(self.plane, self.device)

    def configure(self, *peers: PeerChange, **changes: object) -> None:
        self.device.configure(DeviceChange(peers=peers, **changes))  # type: ignore[arg-type]

    def send(self, other: "Host", payload: bytes, source: bytes = b"") -> None:
        self.tun.send(packet(source or self.address, other.address, payload))

    def read(self) -> list[bytes]:
        """All payloads that came out of the tunnel so far."""
        while True:
            try:
                frame = self.tun.recv(65535)
            except BlockingIOError:
                return self.received
            self.received.append(frame[IPV4.size :])

    @property
    def port(self) -> int:
        return self.device.snapshot().listen_port

    @property
    def peer(self) -> PeerSnapshot:
        [peer] = self.device.snapshot().peers
        return peer

    @property
    def stats(self) -> PeerStats:
        return self.plane.stats(0)


class World:
    """Two hosts that are each other's peers, up."""

    def __init__(self, stack: ExitStack, version: int) -> None:
        self.loop = Loop()
        self.loopback = LOOPBACK[version]
        self.a = Host(stack, self.loop, 1)
        self.b = Host(stack, self.loop, 2)
        for host in (self.a, self.b):
            host.configure(private_key=host.private_key)
            host.device.up()
        for host, other in (self.a, self.b), (self.b, self.a):
            endpoint = Endpoint(self.loopback, other.port)
            allowed = (AllowedIP(other.address, 32),)
            host.configure(PeerChange(other.public_key, endpoint=endpoint, allowed_ips=allowed))

    def pass_payload(self, sender: Host, receiver: Host, payload: bytes) -> None:
        sender.send(receiver, payload)
        self.loop.until(lambda: payload in receiver.read())

    def converse(self) -> None:
        self.pass_payload(self.a, self.b, b"ping")
        self.pass_payload(self.b, self.a, b"pong")


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def any_world(request: pytest.FixtureRequest) -> Iterator[World]:
    version: int = request.param
    with ExitStack() as stack:
        yield World(stack, version)


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, 4)


def test_packets_pass_both_ways(any_world: World) -> None:
    any_world.converse()
    for host, other in (any_world.a, any_world.b), (any_world.b, any_world.a):
        assert host.peer.last_handshake_ns > 0
        assert host.peer.endpoint == Endpoint(any_world.loopback, other.port)
        assert host.stats.sessions == SESSION_CURRENT


def test_staged_packets_arrive_in_order(world: World) -> None:
    payloads = [number.to_bytes(2, "big") * 50 for number in range(100)]
    for payload in payloads:
        world.a.send(world.b, payload)
    world.loop.until(lambda: len(world.b.read()) == len(payloads))
    assert world.b.received == payloads


def test_both_sides_may_initiate_at_once(world: World) -> None:
    world.a.send(world.b, b"from a")
    world.b.send(world.a, b"from b")
    begin = world.a.plane.now_ns()
    world.loop.until(lambda: world.b.read() and world.a.read())
    assert world.a.plane.now_ns() - begin < 5 * S
    assert (world.a.received, world.b.received) == ([b"from b"], [b"from a"])
    world.converse()


def test_an_inner_source_that_is_not_allowed_is_dropped(world: World) -> None:
    world.converse()
    world.a.send(world.b, b"forged", source=bytes([10, 0, 0, 9]))
    world.pass_payload(world.a, world.b, b"genuine")
    assert world.b.received == [b"ping", b"genuine"]
    assert world.b.plane.counters()["rx_not_allowed"] == 1


def test_another_preshared_key_lets_nothing_pass(world: World) -> None:
    world.a.configure(PeerChange(world.b.public_key, preshared_key=b"\x05" * 32))
    world.a.send(world.b, b"ping")
    world.loop.until(lambda: world.a.device.bad_messages == 1)
    world.b.configure(PeerChange(world.a.public_key, preshared_key=b"\x05" * 32))
    world.loop.advance(6)
    world.loop.until(lambda: world.b.read() == [b"ping"])


def test_a_peer_is_followed_to_another_port(world: World) -> None:
    world.converse()
    port, handshake_ns = world.a.port, world.a.peer.last_handshake_ns
    world.a.configure(listen_port=0)
    assert world.a.port != port
    world.pass_payload(world.a, world.b, b"moved")
    assert world.b.peer.endpoint == Endpoint(world.loopback, world.a.port)
    world.pass_payload(world.b, world.a, b"followed")
    assert world.a.peer.last_handshake_ns == handshake_ns


def test_payload_is_answered_by_a_keepalive(world: World) -> None:
    world.converse()
    before = world.b.stats.rx_any_ns
    world.loop.advance(10)
    world.loop.until(lambda: world.b.stats.rx_any_ns > before)
    assert world.b.stats.tx_unanswered_since_ns == 0


def test_traffic_renews_a_session_after_120_s(world: World) -> None:
    world.converse()
    before = world.b.peer.last_handshake_ns
    world.loop.advance(121)
    world.pass_payload(world.a, world.b, b"renew")
    world.loop.until(lambda: world.b.peer.last_handshake_ns > before)
    world.converse()


def test_an_expired_session_is_replaced(world: World) -> None:
    world.converse()
    world.loop.advance(181)
    world.pass_payload(world.b, world.a, b"later")


def test_keys_are_zeroed_after_540_s(world: World) -> None:
    world.converse()
    world.loop.advance(541)
    world.loop.until(lambda: world.a.stats.sessions == world.b.stats.sessions == 0)
    world.pass_payload(world.b, world.a, b"much later")


def test_a_lost_initiation_is_repeated(world: World) -> None:
    world.b.device.down()
    world.a.send(world.b, b"ping")
    world.loop.until(lambda: world.a.stats.tx_bytes)
    world.b.device.up()
    world.loop.advance(6)
    world.loop.until(lambda: world.b.read() == [b"ping"])


def test_a_peer_that_restarted_is_found_again(world: World) -> None:
    world.converse()
    world.b.device.down()
    world.b.device.up()
    world.a.send(world.b, b"lost")
    world.loop.until(lambda: world.a.stats.tx_unanswered_since_ns)
    world.loop.advance(16)
    world.loop.until(lambda: world.b.stats.sessions == SESSION_CURRENT)
    world.pass_payload(world.a, world.b, b"found")


def test_switching_a_persistent_keepalive_on_makes_a_session(world: World) -> None:
    world.a.configure(PeerChange(world.b.public_key, persistent_keepalive_s=25))
    world.loop.until(lambda: world.b.stats.sessions == SESSION_CURRENT)
    before = world.b.stats.rx_any_ns
    world.loop.advance(25)
    world.loop.until(lambda: world.b.stats.rx_any_ns > before)


def test_another_private_key_ends_the_sessions(world: World) -> None:
    world.converse()
    other_key = b"\x07" * 32
    world.a.configure(private_key=other_key)
    allowed = (AllowedIP(world.a.address, 32),)
    world.b.configure(PeerChange(StaticKey(other_key).public_key, allowed_ips=allowed))
    world.pass_payload(world.a, world.b, b"who am I?")
