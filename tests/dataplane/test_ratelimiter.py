# SPDX-License-Identifier: MIT
"""ratelimiter.c: a token bucket per source, in memory that never grows."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgpy.config import Endpoint
from wgpy.dataplane._core import ffi, lib
from wgpy.dataplane.convert import endpoint_to_c

NS_PER_S = 1_000_000_000
PER_S: Final[int] = lib.WG_HANDSHAKES_PER_S
BURST: Final[int] = lib.WG_HANDSHAKES_BURST
TOKEN_NS = NS_PER_S // PER_S
START_NS = 1000 * NS_PER_S
PLACES = 4096 * 8  # SETS and SET_PLACES
V4 = bytes([192, 0, 2, 1])
OTHER_V4 = bytes([192, 0, 2, 2])


class Limiter:
    """The one of handshakes, unless told otherwise."""

    def __init__(self, per_s: int = PER_S, burst: int = BURST) -> None:
        self._c = ffi.gc(lib.wg_ratelimiter_new(per_s, burst), lib.wg_ratelimiter_free)

    def allow(self, address: bytes, now_ns: int, port: int = 1) -> bool:
        source = endpoint_to_c(Endpoint(address, port))
        return bool(lib.wg_ratelimiter_allow(self._c, source, now_ns))

    def drain(self, address: bytes, now_ns: int) -> int:
        """Ask until refused; return how many messages were allowed."""
        allowed = 0
        while self.allow(address, now_ns):
            allowed += 1
        return allowed


def v6(network: int, host: int) -> bytes:
    return network.to_bytes(8, "big") + host.to_bytes(8, "big")


class PlainTokenBucket:
    """The textbook bucket, as the model: tokens in nanoseconds, never forgotten."""

    def __init__(self) -> None:
        self.tokens_ns = 5 * TOKEN_NS
        self.last_ns = 0

    def allow(self, now_ns: int) -> bool:
        self.tokens_ns = min(5 * TOKEN_NS, self.tokens_ns + now_ns - self.last_ns)
        self.last_ns = now_ns
        if self.tokens_ns < TOKEN_NS:
            return False
        self.tokens_ns -= TOKEN_NS
        return True


def test_handshakes_are_limited_to_20_a_second_and_a_burst_of_5() -> None:
    assert (PER_S, BURST) == (20, 5)


def test_a_burst_of_five_is_allowed_and_the_sixth_refused() -> None:
    assert Limiter().drain(V4, START_NS) == 5


def test_an_empty_bucket_gets_a_token_every_50_ms() -> None:
    limiter = Limiter()
    limiter.drain(V4, START_NS)
    assert not limiter.allow(V4, START_NS + TOKEN_NS - 1)
    assert limiter.allow(V4, START_NS + TOKEN_NS)
    assert not limiter.allow(V4, START_NS + TOKEN_NS)


def test_rate_and_burst_are_those_asked_for() -> None:
    limiter = Limiter(per_s=1, burst=6)
    assert limiter.drain(V4, START_NS) == 6
    assert limiter.drain(V4, START_NS + NS_PER_S - 1) == 0
    assert limiter.drain(V4, START_NS + 3 * NS_PER_S) == 3


def test_a_refusal_costs_no_token() -> None:
    limiter = Limiter()
    limiter.drain(V4, START_NS)
    for fraction in range(10):
        assert not limiter.allow(V4, START_NS + fraction * TOKEN_NS // 10)
    assert limiter.allow(V4, START_NS + TOKEN_NS)


def test_a_quiet_source_has_no_more_than_a_burst() -> None:
    limiter = Limiter()
    limiter.drain(V4, START_NS)
    assert limiter.drain(V4, START_NS + 3600 * NS_PER_S) == 5


def test_each_ipv4_address_has_its_own_bucket() -> None:
    limiter = Limiter()
    limiter.drain(V4, START_NS)
    assert limiter.drain(OTHER_V4, START_NS) == 5


def test_another_port_is_no_other_source() -> None:
    limiter = Limiter()
    allowed = [limiter.allow(V4, START_NS, port) for port in range(1, 7)]
    assert allowed == [True] * 5 + [False]


def test_the_addresses_of_an_ipv6_64_share_a_bucket() -> None:
    limiter = Limiter()
    allowed = [limiter.allow(v6(7, host), START_NS) for host in range(6)]
    assert allowed == [True] * 5 + [False]
    assert limiter.allow(v6(8, 0), START_NS)


def test_an_ipv4_address_and_a_64_of_the_same_bytes_do_not_share() -> None:
    limiter = Limiter()
    limiter.drain(V4, START_NS)
    assert limiter.allow(V4 + bytes(12), START_NS)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([V4, OTHER_V4, v6(1, 1)]),
            st.integers(0, TOKEN_NS) | st.integers(0, 6 * TOKEN_NS),
        ),
        max_size=150,
    )
)
def test_it_allows_exactly_what_a_textbook_bucket_allows(arrivals: list[tuple[bytes, int]]) -> None:
    limiter = Limiter()
    models = {address: PlainTokenBucket() for address, _ in arrivals}
    now_ns = START_NS
    for address, pause_ns in arrivals:
        now_ns += pause_ns
        assert limiter.allow(address, now_ns) == models[address].allow(now_ns)


def filled(limiter: Limiter) -> list[bytes]:
    """Flood from far more sources than there is room for; return those that were let in."""
    sources = (v6(network, 0) for network in range(3 * PLACES))
    return [source for source in sources if limiter.allow(source, START_NS)]


def test_a_flood_from_ever_new_sources_stays_within_the_bound() -> None:
    assert PLACES * 0.95 < len(filled(Limiter())) <= PLACES


@pytest.mark.parametrize("later_ns", [0, TOKEN_NS - 1])
def test_a_full_table_keeps_the_known_buckets(later_ns: int) -> None:
    limiter = Limiter()
    known = filled(limiter)[:: PLACES // 100]
    assert [limiter.drain(source, START_NS + later_ns) for source in known] == [4] * len(known)


def test_a_table_of_buckets_that_are_full_again_has_room_for_all() -> None:
    limiter = Limiter()
    filled(limiter)
    sources = [v6(network, 1) for network in range(10_000_000, 10_000_000 + 1000)]
    assert all(limiter.allow(source, START_NS + TOKEN_NS) for source in sources)


def test_two_limiters_place_sources_differently() -> None:
    assert filled(Limiter()) != filled(Limiter())
