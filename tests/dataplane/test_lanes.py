# SPDX-License-Identifier: MIT
"""Several threads each way for one worker: what they carry side by side stays in order."""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from random import Random

import pytest

from .ends import NO_FEATURES, WAIT_S
from .faults import FaultyKernel, Message
from .test_fallbacks import HEADERS, PLAIN, SMALL, Wire, flow

pytestmark = pytest.mark.threads

LANES = 4
BUFFER_LEN = 8 << 20
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # <asm-generic/socket.h>
FRAMES = 40  # more than all lanes take at once
SEGMENTS = 47
PAYLOAD = 1372
MANY = 600  # datagrams: many batches
STAGED = 100
KEEPALIVE_LEN = 32


class WideWire(Wire):
    """One with lanes, whose ends take many packets before somebody reads."""

    def __init__(self, stack: ExitStack, lanes: int = LANES) -> None:
        super().__init__(stack, lanes)
        for end in (self.tun, self.lent_tun, self.lent_udp, *self.peers):
            for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
                end.setsockopt(socket.SOL_SOCKET, option, BUFFER_LEN)


@pytest.fixture
def wire(kernel: FaultyKernel) -> Iterator[WideWire]:
    with ExitStack() as stack:
        yield WideWire(stack)


def dawdle(random: Random) -> None:
    """Give way to other threads, now and then, so that they meet in other orders."""
    for _ in range(random.choice((0, 0, 1, 20))):
        os.sched_yield()


# ---- out ----


def test_super_packets_leave_in_order_with_nonces_in_order(wire: WideWire) -> None:
    packets = [packet for _ in range(FRAMES) for packet in wire.send(0, SEGMENTS, PAYLOAD)]
    wire.start()
    wire.assert_all_came(0, packets)


def test_packets_leave_in_order_however_long_each_send_takes(
    kernel: FaultyKernel, wire: WideWire
) -> None:
    random = Random(1)

    def answer(messages: Sequence[Message]) -> int:
        dawdle(random)
        return len(messages)

    kernel.on_send = answer
    packets = [wire.send(0, 1, SMALL, rest=0)[0] for _ in range(MANY)]
    wire.start()
    wire.assert_all_came(0, packets)


def test_frames_that_need_more_than_one_sends_room_keep_their_place(wire: WideWire) -> None:
    """Few bytes, but more packets than there are slots."""
    packets = [packet for _ in range(10) for packet in wire.send(0, 250, 20)]
    wire.start()
    wire.assert_all_came(0, packets)


def test_peers_that_take_turns_have_their_packets_in_order(wire: WideWire) -> None:
    sent: list[list[bytes]] = [[], [], []]
    for number in range(MANY):
        sent[number % 3] += wire.send(number % 3, 1)
    wire.start()
    for number, packets in enumerate(sent):
        wire.assert_all_came(number, packets)


def test_what_waits_for_a_session_leaves_before_what_came_later(wire: WideWire) -> None:
    wire.plane.drop_keypairs(0)
    early = [packet for _ in range(STAGED) for packet in wire.send(0, 1)]
    wire.start()
    end_s = time.monotonic() + WAIT_S
    while wire.plane.stats(0).staged < STAGED:
        assert time.monotonic() < end_s, "they are not staged"
    wire.install(0)
    later = [packet for _ in range(FRAMES) for packet in wire.send(0, 10)]
    wire.assert_all_came(0, early + later)


def test_a_kick_is_heard_while_the_tun_is_never_empty(wire: WideWire) -> None:
    for _ in range(FRAMES):
        wire.send(0, SEGMENTS, PAYLOAD)
    wire.plane.kick(1, keepalive=True)
    wire.start()
    assert len(wire.peers[1].recv(65535)) == KEEPALIVE_LEN


# ---- in ----


def test_packets_come_in_order_and_once(wire: WideWire) -> None:
    packets = flow(1, 256) + flow(2, 256)
    messages = [wire.seal(packet) for packet in packets]
    for message in messages + messages:
        wire.peers[0].sendto(message, wire.lent_udp.getsockname())
    wire.start(NO_FEATURES)
    assert wire.frames(len(packets)) == packets
    after = flow(3, 1)
    wire.receive(after)
    assert wire.frames(1) == after
    assert wire.count("rx_replayed") == len(packets)


def test_packets_come_in_order_however_long_each_write_takes(
    kernel: FaultyKernel, wire: WideWire
) -> None:
    random = Random(2)

    def answer(_start: bytes) -> int:
        dawdle(random)
        return 0

    kernel.on_write = answer
    packets = flow(1, 256)
    wire.receive(packets)
    wire.start(NO_FEATURES)
    assert wire.frames(len(packets)) == packets


def test_each_lane_coalesces_and_all_of_it_is_in_order(wire: WideWire) -> None:
    packets = [packet for number in range(8) for packet in flow(number, 64)]
    wire.receive(packets)
    wire.start()
    came = b""
    while len(came) < len(packets) * SMALL:
        came += wire.tun.recv(65535)[len(PLAIN) + HEADERS :]
    assert came == b"".join(packet[HEADERS:] for packet in packets)


def test_of_two_addresses_the_one_that_spoke_last_is_the_peers(wire: WideWire) -> None:
    """Whoever works on it: what a lane took later came later."""
    random = Random(3)
    for _ in range(20):
        for packet in flow(1, random.randrange(1, 40)):
            wire.peers[random.randrange(3)].sendto(wire.seal(packet), wire.lent_udp.getsockname())
        last = random.randrange(3)
        [packet] = flow(2, 1, 333)
        wire.peers[last].sendto(wire.seal(packet), wire.lent_udp.getsockname())
        wire.start()
        while len(wire.tun.recv(65535)) != len(PLAIN + packet):
            pass
        wire.plane.stop()
        assert wire.plane.stats(0).endpoint == wire.endpoint(last)


# ---- the end ----


def stopped_amid(wire: WideWire, fill: Callable[[], object]) -> None:
    fill()
    wire.start()
    wire.plane.stop()
    assert wire.plane.failure is None


def test_it_stops_amid_traffic_both_ways(wire: WideWire) -> None:
    for _ in range(10):
        stopped_amid(wire, lambda: [wire.send(0, SEGMENTS, PAYLOAD) for _ in range(5)])
        stopped_amid(wire, lambda: wire.receive(flow(1, 50)))


def test_it_stops_while_who_gives_waits_for_room(kernel: FaultyKernel, wire: WideWire) -> None:
    kernel.on_send = lambda messages: -errno.EAGAIN
    stopped_amid(wire, lambda: [wire.send(0, SEGMENTS, PAYLOAD) for _ in range(FRAMES)])


def test_a_tun_that_is_gone_ends_one_lane_and_holds_up_none(
    kernel: FaultyKernel, wire: WideWire
) -> None:
    kernel.on_write = lambda start: -errno.EBADFD
    wire.receive(flow(1, 200))
    wire.start(NO_FEATURES)
    assert wire.failure() == errno.EBADFD
    wire.plane.stop()


def test_lanes_start_again_after_one_has_died(kernel: FaultyKernel, wire: WideWire) -> None:
    kernel.on_read = lambda fd: -errno.EBADFD if fd == wire.lent_tun.fileno() else 0
    wire.start()
    assert wire.failure() == errno.EBADFD
    wire.plane.stop()
    kernel.on_read = lambda fd: 0
    wire.start()
    wire.assert_all_came(0, wire.send(0, 10))
