# SPDX-License-Identifier: MIT
"""What is told of a peer that moves, by the real data plane."""

import pytest
from fakes import S
from hostile.duel import V4, V6, Duel
from loopback import LOOPBACK

from wgpy.config import Endpoint
from wgpy.events import EndpointMoved, Event

pytestmark = pytest.mark.threads


def moves(duel: Duel) -> list[Endpoint]:
    """Where the peer is told to be from now on."""
    places: list[Endpoint] = []

    def on_event(event: Event) -> None:
        if isinstance(event, EndpointMoved):
            places.append(event.endpoint)

    duel.host.device.on_event = on_event
    return places


def test_a_peer_that_flaps_is_told_of_once_and_then_where_it_came_to_rest(duel: Duel) -> None:
    link = duel.session()
    places = moves(duel)
    v4 = Endpoint(LOOPBACK[4], duel.peer.port())
    v6 = Endpoint(LOOPBACK[6], duel.peer.port(V6))
    begin_ns = duel.host.plane.now_ns()
    for family in (V6, V4) * 10:
        duel.deliver(link, family=family)
    duel.loop.until(lambda: places)
    assert len(places) <= 1 + (duel.host.plane.now_ns() - begin_ns) / S
    duel.loop.advance(1)
    duel.loop.until(lambda: places[-1] == v4)
    duel.loop.advance(1)
    duel.deliver(link, family=V6)
    duel.loop.until(lambda: places[-1] == v6)
