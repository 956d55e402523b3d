# SPDX-License-Identifier: MIT
"""A host that is flooded asks for cookies, and lets in who brings them."""

from collections.abc import Iterator

import pytest
from interop.capture import COOKIE_REPLY, INITIATION, RESPONSE
from interop.lab import Tunnel
from interop.network import TIMEOUT_S
from interop.traffic import Flood, is_answered
from netns.lab import eventually

COOKIE_REPLY_LEN = 64
NO_MAC2 = bytes(16)
RETRIES_S = 15  # two


@pytest.fixture
def tunnel(tunnel: Tunnel) -> Iterator[Tunnel]:
    """Leaves nobody under load to the next test."""
    yield tunnel

    def is_calm() -> bool:
        with tunnel.capture() as capture:
            for first, second in (tunnel.ends, tunnel.ends[::-1]):
                tunnel.connect()
                is_answered(first.host, second.inner4)
            kinds = [one.kind for one in capture.datagrams()]
        return kinds.count(RESPONSE) == 2 and COOKIE_REPLY not in kinds

    eventually(is_calm, "calm", TIMEOUT_S)


@pytest.mark.parametrize("loaded", ["wgpy", "peer"])
def test_a_handshake_under_load_takes_a_cookie(tunnel: Tunnel, loaded: str) -> None:
    tunnel.connect()
    target, source = tunnel.pair(loaded)
    cable = "left" if loaded == "peer" else "right"  # where the flood is not
    with tunnel.capture(cable) as capture:
        with Flood(tunnel.network.router, target) as flood:
            eventually(flood.is_answered, "cookie replies", TIMEOUT_S)
            eventually(
                lambda: is_answered(source.host, target.inner4),
                "an answer",
                RETRIES_S + TIMEOUT_S,
            )
        seen = capture.datagrams()
    kinds = [one.kind for one in seen]
    cookie = seen[kinds.index(COOKIE_REPLY)]
    asked = [one for one in seen[: kinds.index(COOKIE_REPLY)] if one.kind == INITIATION][-1]
    assert asked.payload[-16:] == NO_MAC2
    assert (len(cookie.payload), cookie.tos) == (COOKIE_REPLY_LEN, 0)
    assert cookie.payload[4:8] == asked.payload[4:8]
    before_response = seen[: kinds.index(RESPONSE)]
    admitted = [one for one in before_response if one.kind == INITIATION][-1]
    assert admitted.payload[-16:] != NO_MAC2
