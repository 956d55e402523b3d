from hypothesis import given
from hypothesis import strategies as st

from wgpy.ratelimiter import BURST, MAX_SOURCES, MESSAGES_PER_S, LoadGauge, RateLimiter

NS_PER_S = 1_000_000_000
TOKEN_NS = NS_PER_S // 20
START_NS = 1000 * NS_PER_S
V4 = bytes([192, 0, 2, 1])
OTHER_V4 = bytes([192, 0, 2, 2])


def v6(network: int, host: int) -> bytes:
    return network.to_bytes(8, "big") + host.to_bytes(8, "big")


def drained(limiter: RateLimiter, address: bytes, now_ns: int) -> int:
    """Ask until refused; return how many messages were allowed."""
    allowed = 0
    while limiter.allow(address, now_ns):
        allowed += 1
    return allowed


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


def test_the_limits_are_20_a_second_and_a_burst_of_5() -> None:
    assert (MESSAGES_PER_S, BURST) == (20, 5)


def test_a_burst_of_five_is_allowed_and_the_sixth_refused() -> None:
    assert drained(RateLimiter(), V4, START_NS) == 5


def test_an_empty_bucket_gets_a_token_every_50_ms() -> None:
    limiter = RateLimiter()
    drained(limiter, V4, START_NS)
    assert not limiter.allow(V4, START_NS + TOKEN_NS - 1)
    assert limiter.allow(V4, START_NS + TOKEN_NS)
    assert not limiter.allow(V4, START_NS + TOKEN_NS)


def test_a_refusal_costs_no_token() -> None:
    limiter = RateLimiter()
    drained(limiter, V4, START_NS)
    for fraction in range(10):
        limiter.allow(V4, START_NS + fraction * TOKEN_NS // 10)
    assert limiter.allow(V4, START_NS + TOKEN_NS)


def test_a_quiet_source_has_no_more_than_a_burst() -> None:
    limiter = RateLimiter()
    drained(limiter, V4, START_NS)
    assert drained(limiter, V4, START_NS + 3600 * NS_PER_S) == 5


def test_each_ipv4_address_has_its_own_bucket() -> None:
    limiter = RateLimiter()
    drained(limiter, V4, START_NS)
    assert drained(limiter, OTHER_V4, START_NS) == 5


def test_the_addresses_of_an_ipv6_64_share_a_bucket() -> None:
    limiter = RateLimiter()
    allowed = [limiter.allow(v6(7, host), START_NS) for host in range(6)]
    assert allowed == [True] * 5 + [False]
    assert limiter.allow(v6(8, 0), START_NS)


def test_an_ipv4_address_and_a_64_of_the_same_bytes_do_not_share() -> None:
    limiter = RateLimiter()
    drained(limiter, V4, START_NS)
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
    limiter = RateLimiter()
    models = {address: PlainTokenBucket() for address, _ in arrivals}
    now_ns = START_NS
    for address, pause_ns in arrivals:
        now_ns += pause_ns
        assert limiter.allow(address, now_ns) == models[address].allow(now_ns)


def test_a_full_table_refuses_new_sources_and_keeps_the_known_ones() -> None:
    limiter = RateLimiter()
    assert all(limiter.allow(v6(network, 0), START_NS) for network in range(MAX_SOURCES))
    assert not limiter.allow(V4, START_NS)
    assert drained(limiter, v6(0, 0), START_NS) == 4
    assert limiter.allow(V4, START_NS + 250_000_000)


def test_a_flood_from_ever_new_sources_stays_within_the_bound() -> None:
    limiter = RateLimiter()
    most = 0
    for network in range(4 * MAX_SOURCES):
        limiter.allow(v6(network, 0), START_NS + network * 5_000)  # 200 000 a second
        most = max(most, len(limiter))
    assert MAX_SOURCES < most <= 2 * MAX_SOURCES


def test_buckets_that_are_full_again_are_swept() -> None:
    limiter = RateLimiter()
    for network in range(1000):
        limiter.allow(v6(network, 0), START_NS)
    limiter.allow(V4, START_NS + 500_000_000)
    assert len(limiter) == 1


def test_a_bucket_spent_just_before_a_sweep_is_still_empty_after_it() -> None:
    limiter = RateLimiter()
    limiter.allow(OTHER_V4, START_NS)  # the sweeps are counted from here, 250 ms apart
    drained(limiter, V4, START_NS + 249_000_000)
    assert not limiter.allow(V4, START_NS + 250_000_000)


def test_a_queue_below_an_eighth_is_no_load() -> None:
    assert not LoadGauge().observe(511, 4096, START_NS)


def test_a_queue_filled_to_an_eighth_is_load() -> None:
    assert LoadGauge().observe(512, 4096, START_NS)


def test_load_is_held_for_one_second_after_the_queue_was_last_long() -> None:
    gauge = LoadGauge()
    gauge.observe(512, 4096, START_NS)
    gauge.observe(4096, 4096, START_NS + 500_000_000)
    assert gauge.observe(0, 4096, START_NS + 500_000_000 + NS_PER_S - 1)
    assert not gauge.observe(0, 4096, START_NS + 500_000_000 + NS_PER_S)
