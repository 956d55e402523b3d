# SPDX-License-Identifier: MIT
"""Packets that wait for a session cost bounded memory: of each peer, and of all together."""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing

import pytest

from wgpy.config import AllowedIP, Endpoint
from wgpy.dataplane._core import lib
from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import Session

from .ends import WAIT_S, start
from .packets import UDP, Packet

pytestmark = pytest.mark.threads

LENGTH = 60_000  # bytes of a packet
PER_PEER = lib.WG_STAGED_MAX_BYTES // LENGTH
ALL = lib.WG_STAGED_ALL_MAX // LENGTH
PEERS = ALL // PER_PEER + 5  # together they want more


class Lan:
    """A plane with peers that have no session yet."""

    def __init__(self, stack: ExitStack) -> None:
        self.plane = stack.enter_context(closing(Plane()))
        self.tun, self.udp = start(self.plane, stack)
        for number in range(PEERS):
            assert self.plane.add_peer() == number
            self.plane.change_allowed_ips(number, [AllowedIP(bytes([10, number, 0, 0]), 16)])
            address, port = self.udp.getsockname()
            self.plane.set_endpoint(number, Endpoint(bytes(map(int, address.split("."))), port))

    def send(self, number: int, count: int) -> None:
        """Packets to the peer, and what becomes of them is settled."""
        packet = Packet(protocol=UDP, dst=0x0A000001 | number << 16, payload=bytes(LENGTH - 28))
        settled = self.dropped() + sum(self.staged()) + count
        for _ in range(count):
            self.tun.send(bytes(packet))
        end_s = time.monotonic() + WAIT_S
        # In this order, as one is dropped, counted, and only then the next added.
        while self.dropped() + sum(self.staged()) < settled:
            assert time.monotonic() < end_s, "they are neither staged nor counted"

    def fill(self, numbers: Iterable[int]) -> None:
        """As much to each of the peers as it may have."""
        for number in numbers:
            self.send(number, PER_PEER)

    def staged(self) -> list[int]:
        return [self.plane.stats(number).staged for number in range(PEERS)]

    def dropped(self) -> int:
        return self.plane.counters()["tx_staged_dropped"]

    def install(self, number: int) -> None:
        index = self.plane.reserve_index(number)
        session = Session(bytes(32), bytes(32), index, 7, self.plane.now_ns(), True)
        self.plane.install_keypair(number, session)


@pytest.fixture
def lan() -> Iterator[Lan]:
    with ExitStack() as stack:
        yield Lan(stack)


def test_a_peer_has_its_share_and_no_more(lan: Lan) -> None:
    lan.send(0, PER_PEER + 3)
    assert lan.staged()[0] == PER_PEER
    assert lan.dropped() == 3


def test_all_peers_together_have_theirs_and_each_its_newest(lan: Lan) -> None:
    lan.fill(range(PEERS))
    staged = lan.staged()
    assert ALL - PER_PEER < sum(staged) <= ALL + PEERS
    assert (staged[0], staged[-1]) == (PER_PEER, 1)
    assert sum(staged) + lan.dropped() == PEERS * PER_PEER


def test_what_leaves_makes_room_for_others(lan: Lan) -> None:
    lan.fill(range(PEERS))
    dropped = lan.dropped()
    for number in range(PEERS):
        lan.plane.drop_staged(number)
    lan.fill(range(PEERS // 2))
    assert lan.dropped() == dropped


def test_a_peer_without_room_still_has_its_keepalive(lan: Lan) -> None:
    lan.fill(range(PEERS - 1))
    lan.install(PEERS - 1)
    lan.plane.kick(PEERS - 1, keepalive=True)
    assert len(lan.udp.recv(2048)) == lib.WG_TRANSPORT_OVERHEAD
