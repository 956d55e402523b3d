# SPDX-License-Identifier: MIT
"""When the socket buffer fills, the peer that fills it waits, then yields; others are served."""

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import repeat

import pytest
from core import advance_clock

from .faults import FaultyKernel, Message, refusing, willing
from .test_fallbacks import SMALL, Wire

pytestmark = pytest.mark.threads

WAITS_MAX = 2  # per flush; congestion.c
WAIT = (1, 10)  # one descriptor, milliseconds
YIELD_NS = 250_000_000
FULL, HALF, ROOM = 1000, 500, 499  # per mille of the buffer
STANDING = 600  # of which half of the rest is 200
BUFFER_LEN = 32 << 10  # bytes of it; 40 datagrams are more than a quarter


class Road:
    """What the kernel saw of the send thread."""

    def __init__(self, kernel: FaultyKernel, wire: Wire) -> None:
        self.waits = 0
        self.in_vain = False
        self._kernel = kernel
        self._wire = wire
        kernel.on_poll = self._poll

    def _poll(self, count: int, timeout_ms: int) -> int:
        if (count, timeout_ms) != WAIT:
            return 0
        self.waits += 1
        return -errno.EINTR if self.in_vain else 0

    def taken(self) -> tuple[list[int], int]:
        """Whose batches were tried, in order, and how often it waited, since the last time."""
        numbers = {self._wire.port(number): number for number in range(3)}
        seen = [numbers[message.port] for send in self._kernel.sends for message in send]
        waits = self.waits
        self._kernel.sends.clear()
        self.waits = 0
        return seen, waits


@pytest.fixture
def wire(kernel: FaultyKernel) -> Iterator[Wire]:
    with ExitStack() as stack:
        yield Wire(stack)


@pytest.fixture
def road(kernel: FaultyKernel, wire: Wire) -> Road:
    return Road(kernel, wire)


def all_come(wire: Wire, number: int, counter: int, count: int = 10) -> None:
    """Packets to the peer arrive; `counter` is that of the first."""
    packets = wire.send(number, count)
    expected = list(range(counter, counter + count))
    assert wire.arrivals(number, count) == (expected, packets)


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ENOBUFS], ids=errno.errorcode.get)
def test_one_peer_that_is_not_sent_to_costs_no_other_and_is_counted(
    kernel: FaultyKernel, wire: Wire, error: int
) -> None:
    kernel.on_send = refusing(error, lambda m: m.port == wire.port(0))
    sent = [wire.send(peer, 10) for peer in (0, 1, 2)]
    wire.start()
    for peer in (1, 2):
        wire.assert_all_came(peer, sent[peer])
    kernel.on_send = willing
    all_come(wire, 0, 10)
    assert (wire.count("tx_congested"), wire.count("tx_send_errors")) == (10, 0)
    assert [wire.plane.stats(peer).tx_congested for peer in (0, 1, 2)] == [10, 0, 0]


def test_room_that_comes_in_time_is_taken(kernel: FaultyKernel, wire: Wire, road: Road) -> None:
    kernel.on_send = lambda messages: len(messages) if road.waits else -errno.EAGAIN
    packets = wire.send(0, 10)
    wire.start()
    wire.assert_all_came(0, packets)
    assert wire.count("tx_congested") == 0


def test_a_peer_that_waited_in_vain_is_not_waited_for_for_a_while(
    kernel: FaultyKernel, wire: Wire, road: Road
) -> None:
    wire.start()
    kernel.on_send = refusing(errno.EAGAIN, lambda m: m.port == wire.port(0))
    wire.send(0, 10)
    all_come(wire, 1, 0)
    assert road.taken()[1] == 1
    wire.send(0, 10)
    all_come(wire, 1, 10)
    assert road.taken()[1] == 0
    advance_clock(YIELD_NS)
    wire.send(0, 10)
    all_come(wire, 1, 20)
    assert road.taken()[1] == 1


def test_who_fills_the_buffer_yields_and_not_who_finds_it_full(
    kernel: FaultyKernel, wire: Wire, road: Road
) -> None:
    wire.start()
    for counter in (0, 20, 40):
        all_come(wire, 0, counter, 20)
    kernel.on_send = refusing(errno.EAGAIN, lambda m: m.port != wire.port(2))
    waits = []
    for number, counter in ((1, 0), (0, 1), (1, 2)):
        road.taken()
        wire.send(number, 1)
        all_come(wire, 2, counter, 1)
        waits.append(road.taken()[1])
    assert waits == [1, 0, 1]


@pytest.mark.parametrize("in_vain", [True, False])
def test_who_sends_the_most_waits_before_the_buffer_is_full(
    kernel: FaultyKernel, wire: Wire, road: Road, in_vain: bool
) -> None:
    wire.lent_udp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_LEN)
    wire.start()
    all_come(wire, 0, 0, 40)
    kernel.on_fill = lambda: HALF
    road.in_vain = in_vain
    road.taken()
    wire.send(0, 10)
    all_come(wire, 1, 0)
    assert road.taken() == ([1] if in_vain else [0, 1], 1)
    assert wire.count("tx_congested") == (10 if in_vain else 0)


@pytest.mark.parametrize(("fill", "served"), [(FULL, False), (HALF, False), (ROOM, True)])
def test_who_yields_has_but_half_of_the_buffer(
    kernel: FaultyKernel, wire: Wire, road: Road, fill: int, served: bool
) -> None:
    wire.start()
    kernel.on_send = refusing(errno.EAGAIN, lambda m: m.port == wire.port(0))
    wire.send(0, 10)
    all_come(wire, 1, 0)
    kernel.on_send = willing
    kernel.on_fill = lambda: fill
    road.taken()
    wire.send(0, 10)
    all_come(wire, 1, 10)
    assert road.taken() == ([0] * served + [1], 0)
    assert wire.count("tx_congested") == (10 if served else 20)


@pytest.mark.parametrize(("fill", "waits"), [(STANDING + 199, 0), (STANDING + 200, 1)])
def test_what_stands_for_who_yields_is_not_held_against_who_sends_the_most(
    kernel: FaultyKernel, wire: Wire, road: Road, fill: int, waits: int
) -> None:
    wire.lent_udp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_LEN)
    wire.start()
    kernel.on_fill = lambda: STANDING
    kernel.on_send = refusing(errno.EAGAIN, lambda m: m.port == wire.port(0))
    wire.send(0, 10)
    all_come(wire, 1, 0, 40)
    all_come(wire, 1, 40, 40)
    road.taken()
    kernel.on_fill = lambda: fill
    all_come(wire, 1, 80, 40)
    assert road.taken() == ([1], waits)
    assert wire.plane.stats(1).tx_congested == 0


def test_who_yields_has_the_room_that_was_seen_and_no_more(
    kernel: FaultyKernel, wire: Wire, road: Road
) -> None:
    wire.start()
    kernel.on_send = refusing(errno.EAGAIN, lambda m: m.port == wire.port(0))
    wire.send(0, 10)
    all_come(wire, 1, 0)
    fills = iter([ROOM])
    kernel.on_fill = lambda: next(fills, HALF)
    road.taken()

    def in_one_flush(messages: Sequence[Message]) -> int:
        kernel.on_send = willing
        for _ in range(3):
            wire.send(0, 10, rest=SMALL // 2)
        return len(messages)

    kernel.on_send = in_one_flush
    all_come(wire, 1, 10)
    all_come(wire, 1, 20)
    assert road.taken()[0] == [1, 0, 1]
    assert wire.plane.stats(0).tx_congested == 10 + 2 * 11


def test_a_flush_waits_but_twice(kernel: FaultyKernel, wire: Wire, road: Road) -> None:
    rounds, peers = 3, (0, 1, 2)
    answers = repeat(-errno.EAGAIN, rounds * len(peers) + WAITS_MAX)  # again after a wait
    kernel.on_send = lambda messages: next(answers, len(messages))
    for _ in range(rounds):
        for number in peers:
            wire.send(number, 4)
    wire.start()
    all_come(wire, 0, 4 * rounds, 4)
    assert road.waits == WAITS_MAX
    assert wire.count("tx_congested") == 4 * rounds * len(peers)
