# SPDX-License-Identifier: MIT
"""FakePlane against the C data plane: the simulation is worth as much as they are alike.

Two real planes over loopback and two fake ones take the same random steps, one at a time, and after
each step they must come to agree on everything that control can see.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from random import Random

import pytest
from core import advance_clock
from fake_plane import FakePlane
from fakes import FakeLoop, FakeNetwork, FakeSockets, S
from loopback import IPV4, LOOPBACK, packet

from wgpy.config import AllowedIP, Endpoint
from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import PendingEvent, PlaneIO, Session, WorkerIO
from wgpy.linux.sockets import open_sockets
from wgpy.ports import Feature

pytestmark = pytest.mark.threads

PATIENCE_S = 10
STEPS = 60
ADVANCE_S = 50  # no age limit is a multiple of it, for the real clock goes on between steps


class Side:
    """A real and a fake data plane with a peer in slot 0."""

    def __init__(
        self, stack: ExitStack, loop: FakeLoop, network: FakeNetwork, number: int, lanes: int
    ) -> None:
        self.inside = bytes([10, 0, 0, number])
        theirs, self.tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (theirs, self.tun):
            end.setblocking(False)
            stack.enter_context(closing(end))
        bound = stack.enter_context(closing(open_sockets(0, 0)))
        self.real = stack.enter_context(closing(Plane(lanes=lanes)))
        sockets = FakeSockets(bytes([192, 0, 2, number]))
        sockets(number, 0)
        self.fake = FakePlane(loop, network, sockets, seed=number)
        self.real.start(PlaneIO((WorkerIO(theirs.fileno(), *bound.fds[0]),), Feature(0)))
        self.fake.start(PlaneIO((), Feature(0)))
        self.here = {
            self.real: Endpoint(LOOPBACK[4], bound.port),
            self.fake: Endpoint(sockets.address, number),
        }
        self.received: list[bytes] = []
        self.looped = 0  # packets that went nowhere, for the peer was a loop then
        self.events: dict[Plane, set[str]] = {self.real: set(), self.fake: set()}
        self.fake.on_readable = lambda: self.take_events(self.fake)
        for plane in self.planes:
            assert plane.add_peer() == 0

    @property
    def planes(self) -> tuple[Plane, Plane]:
        return self.real, self.fake

    def know(self, other: "Side") -> None:
        for mine, its in zip(self.planes, other.planes, strict=True):
            mine.set_endpoint(0, other.here[its])
            mine.change_allowed_ips(0, [AllowedIP(other.inside, 32)])

    def send(self, other: "Side", payload: bytes) -> None:
        self.looped += self.fake.peers[0].is_looped
        self.tun.send(packet(self.inside, other.inside, payload))
        self.fake.send_payload(0, payload)

    def both(self, step: Callable[[Plane], None]) -> None:
        for plane in self.planes:
            step(plane)

    def take_events(self, plane: Plane) -> None:
        for event in plane.take_events():
            assert isinstance(event, PendingEvent)
            names = ("want_handshake", "key_confirmed", "timer_armed")
            self.events[plane] |= {name for name in names if getattr(event, name)}

    def seen(self, plane: Plane) -> dict[str, object]:
        """What control can see."""
        self.take_events(plane)
        stats = plane.stats(0)
        return {
            "sessions": stats.sessions,
            "staged": stats.staged,
            "tx_unanswered": stats.tx_unanswered_since_ns > 0,
            "rx_unanswered": stats.rx_unanswered_since_ns > 0,
            "events": sorted(self.events[plane]),
        }

    def read(self) -> list[bytes]:
        while True:
            try:
                frame = self.tun.recv(65535)
            except BlockingIOError:
                return self.received
            if frame[9] != socket.IPPROTO_ICMP:  # the fake sends no errors
                self.received.append(frame[IPV4.size :])


def set_looped(plane: Plane, *, looped: bool) -> None:
    endpoint = plane.stats(0).endpoint
    assert endpoint is not None
    plane.set_looped(0, endpoint, looped)


class Likeness:
    """Two sides, and the steps that they can take."""

    def __init__(self, stack: ExitStack, seed: int) -> None:
        self.random = Random(seed)
        self.loop = FakeLoop()
        self.network = FakeNetwork(self.loop)
        lanes = 3 if seed % 2 else 1
        self.sides = [Side(stack, self.loop, self.network, number, lanes) for number in (1, 2)]
        self.sides[0].know(self.sides[1])
        self.sides[1].know(self.sides[0])
        self.payloads = 0
        self.steps: dict[str, Callable[[Side, Side], None]] = {
            "handshake": lambda a, b: self.handshake(a, b, complete=True),
            "half a handshake": lambda a, b: self.handshake(a, b, complete=False),
            "send": self.send,
            "reply": lambda a, b: self.send(b, a),
            "keepalive": lambda a, b: a.both(lambda plane: plane.kick(0, keepalive=True)),
            "confirm": lambda a, b: a.both(lambda plane: plane.confirm_keypair(0)),
            "expire": lambda a, b: a.both(lambda plane: plane.expire_keypairs(0)),
            "drop": lambda a, b: a.both(lambda plane: plane.drop_keypairs(0)),
            "drop staged": lambda a, b: a.both(lambda plane: plane.drop_staged(0)),
            "loop": lambda a, b: a.both(lambda plane: set_looped(plane, looped=True)),
            "no loop": lambda a, b: a.both(lambda plane: set_looped(plane, looped=False)),
            "wake": lambda a, b: a.both(lambda plane: plane.set_wake(0, None)),
            "advance": lambda a, b: self.advance(),
        }
        self.weights = [4, 2, 8, 6, 4, 4, 1, 1, 1, 1, 2, 2, 3]

    def handshake(self, a: Side, b: Side, *, complete: bool) -> None:
        """A session of which b is the responder; a gets it unless the response is lost."""
        keys = self.random.randbytes(32), self.random.randbytes(32)
        for here, there in zip(a.planes, b.planes, strict=True):
            ours, theirs = here.reserve_index(0), there.reserve_index(0)
            now_ns = here.now_ns()
            there.install_keypair(0, Session(keys[1], keys[0], theirs, ours, now_ns, False))
            if complete:
                here.install_keypair(0, Session(keys[0], keys[1], ours, theirs, now_ns, True))
            else:
                here.release_index(ours)

    def send(self, a: Side, b: Side) -> None:
        self.payloads += 1
        a.send(b, b"payload %d" % self.payloads)

    def advance(self) -> None:
        self.loop.advance(ADVANCE_S)
        advance_clock(ADVANCE_S * S)

    def step(self) -> str:
        [name] = self.random.choices(list(self.steps), self.weights)
        a, b = self.random.sample(self.sides, 2)
        for side in self.sides:
            for events in side.events.values():
                events.clear()
        self.steps[name](a, b)
        self.loop.run()
        return name

    def datagrams(self) -> tuple[int, int]:
        """How many reached a plane, really and in the fake network."""
        real = sum(side.real.counters()["rx_datagrams"] for side in self.sides)
        return real, len(self.network.log)

    def differences(self) -> list[str]:
        found = []
        for side in self.sides:
            real, fake = side.seen(side.real), side.seen(side.fake)
            found += [f"{key}: {real[key]}, {fake[key]}" for key in real if real[key] != fake[key]]
            looped = side.real.counters()["tx_looped"]
            if looped != side.looped:
                found.append(f"looped: {looped}, {side.looped}")
            received = [payload for _, payload in side.fake.payloads]
            if side.read() != received:
                found.append(f"received: {side.received[-3:]}, {received[-3:]}")
        real_datagrams, fake_datagrams = self.datagrams()
        if real_datagrams != fake_datagrams:
            found.append(f"datagrams: {real_datagrams}, {fake_datagrams}")
        return found

    def agree(self) -> list[str]:
        """Wait until nothing differs, but not for ever; -> what does."""
        begin_ns = self.sides[0].real.now_ns()
        while found := self.differences():
            if self.sides[0].real.now_ns() > begin_ns + PATIENCE_S * S:
                break
        return found


@pytest.fixture(params=range(12))
def likeness(request: pytest.FixtureRequest) -> Iterator[Likeness]:
    with ExitStack() as stack:
        yield Likeness(stack, request.param)


def test_the_fake_data_plane_does_what_the_real_one_does(likeness: Likeness) -> None:
    story = []
    for _ in range(STEPS):
        story.append(likeness.step())
        assert likeness.agree() == [], story
    assert sum(len(side.received) for side in likeness.sides) > 0
