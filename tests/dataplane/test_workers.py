# SPDX-License-Identifier: MIT
"""Several data threads per direction: flows keep their order and their queue of the TUN."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from random import Random

import pytest
from core_numbers import TRANSPORT_OVERHEAD
from loopback import LOOPBACK, Host, Loop, frames

from wgpy.config import AllowedIP, Endpoint, PeerChange
from wgpy.dataplane.plane import MAX_LANES, MAX_THREADS, MAX_WORKERS, Plane
from wgpy.dataplane.types import PlaneIO, Session, WorkerIO

from .ends import NO_FEATURES, WAIT_S
from .packets import MF, TCP, UDP, Packet

pytestmark = pytest.mark.threads

WORKERS = 3
FLOWS = 7
STAGED = 12  # packets of each flow before there is a session
LATER = 60
SIZES = (100, 500)  # of payloads; with the headers a multiple of 16, so not padded
OVERHEAD = 28 + TRANSPORT_OVERHEAD  # IPv4 and UDP inside
TO_B = Packet(protocol=UDP, src=0x0A000001, dst=0x0A000002)


def backward(packet: Packet) -> Packet:
    return replace(packet, src=packet.dst, dst=packet.src, sport=packet.dport, dport=packet.sport)


def befriend(a: Host, b: Host) -> None:
    for host, other in (a, b), (b, a):
        endpoint = Endpoint(LOOPBACK[4], other.port)
        allowed = (AllowedIP(other.address, 32),)
        host.configure(PeerChange(other.public_key, endpoint=endpoint, allowed_ips=allowed))


class World:
    """Hosts of several workers each, and one to whom all others are peers: b."""

    def __init__(self, stack: ExitStack, others: int = 1, lanes: int = 1) -> None:
        self.loop = Loop()
        numbers = (2, 1, *range(3, others + 2))
        self.b, *self.others = (Host(stack, self.loop, n, WORKERS, lanes) for n in numbers)
        self.a = self.others[0]
        for host in (self.b, *self.others):
            host.configure(private_key=host.private_key)
            host.device.up()
        for other in self.others:
            befriend(other, self.b)

    def arrivals(self, host: Host, count: int) -> list[list[bytes]]:
        """So many packets, those of each queue in the order in which they came."""
        came: list[list[bytes]] = [[] for _ in host.queues]

        def all_came() -> bool:
            for queue, packets in zip(host.queues, came, strict=True):
                packets.extend(frames(queue))
            return sum(map(len, came)) >= count

        self.loop.until(all_came)
        return came

    def carry(self, packet: Packet, queue: int, sender: Host, receiver: Host) -> int:
        """Send a packet by a queue, and return the queue from which it comes."""
        sender.queues[queue].send(bytes(packet))
        came = self.arrivals(receiver, 1)
        [at] = [number for number, packets in enumerate(came) if packets]
        assert came[at] == [bytes(packet)]
        return at


@pytest.fixture(params=[1, 2], ids=["one lane", "two lanes"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, lanes=request.param)


def numbered(flow: int, number: int) -> Packet:
    return replace(TO_B, sport=5000 + flow, payload=bytes([flow]) + number.to_bytes(2, "big"))


def test_each_flow_keeps_its_order_before_and_after_the_handshake(world: World) -> None:
    numbers = range(STAGED + LATER)
    for number in numbers:
        if number == STAGED:
            world.loop.until(lambda: world.a.stats.sessions)
        for flow in range(FLOWS):
            world.a.queues[flow % WORKERS].send(bytes(numbered(flow, number)))
    came = world.arrivals(world.b, FLOWS * len(numbers))
    for flow in range(FLOWS):
        wanted = [bytes(numbered(flow, number)) for number in numbers]
        [got] = [
            mine
            for packets in came
            if (mine := [packet for packet in packets if packet[28] == flow])
        ]
        assert got == wanted


def test_what_a_worker_staged_no_other_sends() -> None:
    with ExitStack() as stack:
        udp = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(3)]
        for end in udp:
            end.bind(("127.0.0.1", 0))
            end.settimeout(WAIT_S)
        *senders, receiver = udp
        tuns = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in senders]
        for lent, end in tuns:
            stack.enter_context(lent).setblocking(False)
            stack.enter_context(end)
        plane = stack.enter_context(closing(Plane(workers=2)))
        slot = plane.add_peer()
        plane.change_allowed_ips(slot, [AllowedIP(bytes(4), 0)])
        plane.set_endpoint(slot, Endpoint(LOOPBACK[4], receiver.getsockname()[1]))
        queues = zip((lent for lent, _ in tuns), senders, strict=True)
        plane.start(
            PlaneIO(tuple(WorkerIO(t.fileno(), u.fileno(), -1) for t, u in queues), NO_FEATURES)
        )
        stack.callback(plane.stop)
        for _ in range(STAGED):
            for size, (_lent, tun) in zip(SIZES, tuns, strict=True):
                tun.send(bytes(replace(TO_B, payload=bytes(size))))
        end_s = time.monotonic() + WAIT_S
        while plane.stats(slot).staged < 2 * STAGED:
            assert time.monotonic() < end_s, "they are not staged"
        session = Session(bytes(32), bytes(32), plane.reserve_index(slot), 7, plane.now_ns(), True)
        plane.install_keypair(slot, session)
        plane.kick(slot, keepalive=False)
        came = [receiver.recvfrom(2048) for _ in range(2 * STAGED)]
        ports = [{at[1] for data, at in came if len(data) == OVERHEAD + size} for size in SIZES]
        assert ports == [{sender.getsockname()[1]} for sender in senders]
        assert plane.stats(slot).staged == 0


def test_an_answer_comes_by_the_queue_on_which_its_flow_left(world: World) -> None:
    random = Random(1)
    for _ in range(20):
        flow = replace(TO_B, sport=random.randrange(1 << 16), protocol=random.choice((TCP, UDP)))
        left, answered = random.randrange(WORKERS), random.randrange(WORKERS)
        world.carry(flow, left, world.a, world.b)
        assert world.carry(backward(flow), answered, world.b, world.a) == left
        assert world.carry(flow, left, world.a, world.b) == answered


def test_a_flow_that_only_comes_in_stays_on_one_queue(world: World) -> None:
    flows = [replace(TO_B, sport=6000 + flow) for flow in range(20)]
    first = [world.carry(flow, 0, world.a, world.b) for flow in flows]
    assert [world.carry(flow, 1, world.a, world.b) for flow in flows] == first
    assert set(first) == set(range(WORKERS))


def test_fragments_go_by_the_queue_of_their_addresses(world: World) -> None:
    pieces = [
        replace(TO_B, fragment=MF, ident=7, sport=7000),
        replace(TO_B, fragment=1, ident=7, sport=1, dport=2, payload=b"the rest"),
    ]
    assert len({world.carry(piece, 0, world.a, world.b) for piece in pieces}) == 1


@pytest.mark.parametrize("queue", range(WORKERS))
def test_answers_come_by_the_queue_on_which_fragments_of_their_flow_left(
    world: World, queue: int
) -> None:
    """So that what is no fragment moves to that queue, and neither overtakes the other."""
    other = (queue + 1) % WORKERS
    datagram = replace(TO_B, sport=7000)
    tcp = replace(datagram, protocol=TCP)
    for packet in (datagram, tcp):
        world.carry(packet, other, world.a, world.b)
    world.carry(replace(datagram, fragment=MF, ident=7), queue, world.a, world.b)
    assert world.carry(backward(datagram), other, world.b, world.a) == queue
    assert world.carry(backward(tcp), queue, world.b, world.a) == other


def test_every_peer_is_served_whichever_worker_gets_it() -> None:
    with ExitStack() as stack:
        world = World(stack, others=6)
        for other in world.others:
            flow = replace(TO_B, src=int.from_bytes(other.address, "big"))
            world.carry(flow, 2, other, world.b)
            world.carry(backward(flow), 1, world.b, other)


def test_a_device_has_from_one_to_the_most_workers_and_lanes() -> None:
    threads = MAX_THREADS // MAX_LANES
    for workers, lanes in (
        *((0, 1), (MAX_WORKERS + 1, 1), (1, 0), (1, MAX_LANES + 1)),
        *((threads + 1, MAX_LANES), (MAX_WORKERS, MAX_THREADS // MAX_WORKERS + 1)),
    ):
        with pytest.raises(OSError, match="Invalid argument"):
            Plane(workers=workers, lanes=lanes)
    for workers, lanes in (MAX_WORKERS, 1), (threads, MAX_LANES):
        Plane(workers=workers, lanes=lanes).close()


def test_there_has_to_be_a_queue_for_each_worker() -> None:
    plane = Plane(workers=2)
    with pytest.raises(ValueError, match="descriptors of 1 workers for 2"):
        plane.start(PlaneIO((WorkerIO(-1, -1, -1),), NO_FEATURES))
    plane.close()
