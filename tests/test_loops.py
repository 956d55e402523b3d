# SPDX-License-Identifier: MIT
"""What a device does about a peer whose messages come back into the tunnel; see fake_hosts.py."""

import logging
from dataclasses import replace
from ipaddress import ip_network

import pytest
from core_numbers import MESSAGE_INITIATION
from fake_hosts import ELSEWHERE, World, key

from wgpy.config import AllowedIP, PeerChange

SLOT = 0


def prefix(text: str) -> AllowedIP:
    network = ip_network(text)
    return AllowedIP(network.network_address.packed, network.prefixlen)


class Loop:
    """A peer of a's whose endpoint is in its own allowed IPs."""

    def __init__(self) -> None:
        self.world = World()
        self.a, self.b = self.world.a, self.world.b
        self.a.peer(self.b, allowed_ips=(prefix("192.0.2.0/24"),))
        self.suspicions = 0
        self.a.device.on_suspicion = self._on_suspicion

    def _on_suspicion(self) -> None:
        self.suspicions += 1

    def see(self) -> None:
        self.a.plane.see_loop(SLOT)
        self.world.loop.run()

    def judge(self, *, leads_in: bool) -> None:
        """What RouteWatch does."""
        for slot, endpoint in self.a.device.loops():
            self.a.device.set_leads_in(slot, endpoint, leads_in)
        self.world.loop.run()

    def passes(self) -> bool:
        before = len(self.b.plane.payloads)
        self.a.send(b"ping")
        self.world.loop.run()
        return len(self.b.plane.payloads) > before


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged at that level, without the names of peers."""
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    return [record.getMessage().split(": ", 1)[1] for record in records]


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_a_message_that_came_back_is_no_more_than_a_suspicion(loop: Loop) -> None:
    assert loop.a.device.loops() == []
    loop.see()
    assert loop.suspicions == 1
    assert loop.a.device.loops() == [(SLOT, loop.b.endpoint)]
    assert loop.passes()
    loop.judge(leads_in=False)
    assert loop.a.device.loops() == []
    assert loop.passes()


def test_nothing_is_sent_while_the_route_leads_in_and_the_log_says_so_once(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    loop.world.converse()
    loop.see()
    for _ in range(3):
        loop.judge(leads_in=True)
        assert not loop.passes()
        loop.world.loop.advance(60)
    assert {datagram.source for datagram in loop.world.network.log} == {loop.b.endpoint}
    assert errors(caplog) == ["the route to 192.0.2.2 leads into the tunnel itself"]


def test_a_peer_that_moves_from_loop_to_loop_does_not_fill_the_log(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    for port in range(2000, 2010):
        loop.a.peer(loop.b, endpoint=replace(loop.b.endpoint, port=port))
        loop.see()
        loop.judge(leads_in=True)
        assert not loop.passes()
    assert len(errors(caplog)) == 1


def test_traffic_starts_at_once_when_the_route_is_mended(loop: Loop) -> None:
    loop.world.network.lose = lambda datagram: True
    assert not loop.passes()
    loop.see()
    loop.judge(leads_in=True)
    loop.world.network.lose = lambda datagram: False
    loop.world.loop.advance(0.5)
    loop.judge(leads_in=False)
    loop.world.loop.advance(0.05)
    assert loop.b.plane.payloads == [(SLOT, b"ping")]
    assert len(loop.world.sent_by(loop.a, MESSAGE_INITIATION)) == 2
    assert loop.passes()


def test_it_is_no_loop_when_another_peer_carries_the_messages(loop: Loop) -> None:
    loop.see()
    loop.judge(leads_in=True)
    loop.a.configure(PeerChange(key(9), allowed_ips=(prefix("192.0.2.0/28"),)))
    assert loop.suspicions == 2
    loop.judge(leads_in=True)
    assert loop.passes()


def test_another_endpoint_is_not_looped_until_it_is_seen(loop: Loop) -> None:
    loop.see()
    loop.judge(leads_in=True)
    loop.a.peer(loop.b, endpoint=replace(loop.b.endpoint, port=9))
    loop.a.peer(loop.b, endpoint=loop.b.endpoint)
    assert not loop.passes()
    loop.a.peer(loop.b, endpoint=ELSEWHERE)
    loop.a.send(b"ping")
    loop.world.loop.run()
    assert loop.world.network.log[-1].to == ELSEWHERE


def test_a_verdict_on_an_endpoint_that_is_not_the_peers_any_more_counts_for_nothing(
    loop: Loop,
) -> None:
    loop.see()
    [(slot, endpoint)] = loop.a.device.loops()
    loop.a.peer(loop.b, endpoint=ELSEWHERE)
    loop.a.device.set_leads_in(slot, endpoint, True)
    loop.a.peer(loop.b, endpoint=loop.b.endpoint)
    assert loop.passes()


def test_nor_does_one_on_a_peer_that_is_gone(loop: Loop) -> None:
    loop.see()
    [(slot, endpoint)] = loop.a.device.loops()
    loop.a.peer(loop.b, remove=True)
    loop.a.device.set_leads_in(slot, endpoint, True)
    assert loop.a.device.loops() == []
    loop.a.peer(loop.b, endpoint=loop.b.endpoint, allowed_ips=(prefix("192.0.2.0/24"),))
    loop.a.device.set_leads_in(slot, endpoint, True)
    loop.world.loop.advance(1)
    assert loop.passes()


def test_a_device_without_loops_suspects_nothing(loop: Loop) -> None:
    loop.a.peer(loop.b, endpoint=loop.b.endpoint)
    assert loop.suspicions == 0
