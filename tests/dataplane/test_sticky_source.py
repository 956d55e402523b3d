# SPDX-License-Identifier: MIT
"""From which address a message leaves; a host has more than one on its loopback interface."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import repeat

import pytest

from wgpy.config import Endpoint
from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import PlaneIO, WorkerIO
from wgpy.linux.sockets import open_sockets

ANY, ASKED, OTHER, NOT_OURS = "127.0.0.1", "127.0.0.9", "127.0.0.10", "192.0.2.77"
INTERFACE = socket.if_nametoindex("lo")


class Peer:
    """A peer's socket and its slot in a plane that has an open socket too."""

    def __init__(self, plane: Plane, inbox: socket.socket) -> None:
        self.plane = plane
        self.slot = plane.add_peer()
        self._inbox = inbox
        self._path = Endpoint(socket.inet_aton(ANY), inbox.getsockname()[1])

    def path(self, source: str) -> Endpoint:
        address = socket.inet_aton(source)
        return replace(self._path, source=address, source_ifindex=INTERFACE)

    def ask(self, address: str) -> None:
        """An authenticated message from the peer came to this address of ours."""
        self.plane.peer_received(self.slot, self.path(address), 148, self.plane.now_ns())

    def judge(self, source: str, *, holds: bool) -> None:
        self.plane.allow_source(self.slot, self.path(source), holds)

    def hears_from(self) -> str:
        """Where the next message to the peer comes from."""
        self.plane.send_message(self.slot, bytes(148), 0, self.plane.now_ns())
        address: str = self._inbox.recvfrom(2048)[1][0]
        return address


@pytest.fixture
def peer() -> Iterator[Peer]:
    with ExitStack() as stack:
        _idle, tun = (stack.enter_context(end) for end in socket.socketpair())
        tun.setblocking(False)
        inbox = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        inbox.settimeout(10)
        inbox.bind((ANY, 0))
        bound = stack.enter_context(closing(open_sockets(0, 0)))
        plane = stack.enter_context(closing(Plane()))
        plane.start(PlaneIO((WorkerIO(tun.fileno(), *bound.fds[0]),), bound.features))
        yield Peer(plane, inbox)


def test_a_message_leaves_from_the_address_that_was_asked_last(peer: Peer) -> None:
    for address in (ASKED, OTHER, ASKED):
        peer.ask(address)
        assert peer.hears_from() == address


def test_the_interface_does_not_bind_the_way(peer: Peer) -> None:
    path = replace(peer.path(ASKED), source_ifindex=INTERFACE + 1000)
    peer.plane.set_endpoint(peer.slot, path)
    assert peer.hears_from() == ASKED


def test_a_source_that_was_refused_stays_refused_however_often_it_is_asked(peer: Peer) -> None:
    peer.ask(ASKED)
    peer.judge(ASKED, holds=False)
    for _ in repeat(None, 2):
        assert peer.hears_from() == ANY
        peer.ask(ASKED)


def test_a_refused_source_may_hold_again(peer: Peer) -> None:
    peer.ask(ASKED)
    peer.judge(ASKED, holds=False)
    peer.judge(ASKED, holds=True)
    assert peer.hears_from() == ASKED


def test_a_refusal_does_not_hit_another_source(peer: Peer) -> None:
    peer.ask(ASKED)
    peer.judge(OTHER, holds=False)
    assert peer.hears_from() == ASKED
    peer.judge(ASKED, holds=False)
    peer.ask(OTHER)
    assert peer.hears_from() == OTHER


def test_an_endpoint_that_is_set_has_no_source_of_an_earlier_one(peer: Peer) -> None:
    peer.ask(ASKED)
    peer.plane.set_endpoint(peer.slot, replace(peer.path(ASKED), source=b"", source_ifindex=0))
    assert peer.hears_from() == ANY


def test_an_address_that_is_gone_is_forgotten(peer: Peer) -> None:
    peer.ask(NOT_OURS)
    assert peer.hears_from() == ANY
    endpoint = peer.plane.stats(peer.slot).endpoint
    assert endpoint is not None
    assert endpoint.source == b""


def test_a_source_is_kept_when_there_is_no_way_without_it_either(peer: Peer) -> None:
    nowhere = replace(peer.path(NOT_OURS), address=socket.inet_aton("255.255.255.255"))
    peer.plane.set_endpoint(peer.slot, nowhere)
    with pytest.raises(OSError, match=r"denied|unreachable"):
        peer.hears_from()
    endpoint = peer.plane.stats(peer.slot).endpoint
    assert endpoint is not None
    assert endpoint.source == nowhere.source
