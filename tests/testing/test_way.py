# SPDX-License-Identifier: MIT
"""What becomes of each datagram on a link, and when, by a clock that stands still."""

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgpy.testing import Counters, Link
from wgpy.testing.way import Way

BAD_LINKS: dict[str, Callable[[], object]] = {
    "loss": lambda: Link(loss=1.1),
    "duplicates": lambda: Link(duplicate=-0.1),
    "delay": lambda: Link(delay_s=-1),
    "endless delay": lambda: Link(delay_s=float("inf")),
    "jitter": lambda: Link(jitter_s=float("nan")),
    "rate": lambda: Link(rate_bps=0),
    "MTU of headers alone": lambda: Link(mtu=28),
    "MTU": lambda: Link(mtu=65536),
    "queue": lambda: Link(queue=0),
}


def numbered(count: int) -> list[bytes]:
    return [number.to_bytes(2, "big") for number in range(count)]


def sent(way: Way, datagrams: list[bytes], now_s: float = 0.0) -> list[bytes]:
    """What arrives in the end."""
    for datagram in datagrams:
        way.take(datagram, now_s)
    return [*way.due(float("inf"))]


@pytest.mark.parametrize("make", BAD_LINKS.values(), ids=BAD_LINKS)
def test_a_link_that_cannot_be_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\b(is|holds)\b"):
        make()


def test_a_perfect_link_delivers_all_at_once_and_in_order() -> None:
    way = Way(Link(), "")
    assert sent(way, numbered(1000)) == numbered(1000)
    assert way.counters == Counters(sent=1000, delivered=1000)
    assert way.next_s is None


def test_what_is_lost_follows_from_the_seed_and_differs_each_way() -> None:
    arrived = [
        sent(Way(Link(loss=0.1, seed=seed), name), numbered(1000))
        for seed, name in ((7, "to right"), (7, "to right"), (7, "to left"), (8, "to right"))
    ]
    assert arrived[0] == arrived[1]
    assert arrived[0] not in arrived[2:]
    assert 850 < len(arrived[0]) < 950


def test_a_change_leaves_the_chances_of_what_follows_as_they_are() -> None:
    plain, changed = Way(Link(loss=0.1), ""), Way(Link(mtu=29, duplicate=1, jitter_s=1), "")
    head, tail = numbered(100), numbered(1000)
    sent(plain, head)
    sent(changed, head)
    changed.link = plain.link
    assert sent(changed, tail) == sent(plain, tail)


def test_nothing_arrives_before_its_delay() -> None:
    way = Way(Link(delay_s=0.02), "")
    way.take(b"first", 1.0)
    way.take(b"second", 1.01)
    assert way.next_s == 1.02
    assert [*way.due(1.0199)] == []
    assert [*way.due(1.025)] == [b"first"]
    assert [*way.due(1.03)] == [b"second"]


def test_jitter_comes_on_top_and_lets_datagrams_overtake_each_other() -> None:
    way = Way(Link(delay_s=1, jitter_s=1), "")
    for datagram in numbered(100):
        way.take(datagram, 0.0)
    assert [*way.due(0.999)] == []
    arrived = [*way.due(2.0)]
    assert arrived != numbered(100)
    assert sorted(arrived) == numbered(100)


def test_a_rate_lets_one_through_after_the_other() -> None:
    way = Way(Link(rate_bps=8000), "")  # a byte takes a millisecond
    for _ in range(3):
        way.take(bytes(1000 - 28), 0.0)
    assert [len([*way.due(now_s)]) for now_s in (0.999, 1.0, 1.999, 2.0, 3.0)] == [0, 1, 0, 1, 1]
    way.take(bytes(1000 - 28), 10.0)  # it was idle, and saves nothing up
    assert way.next_s == 11.0


def test_what_is_larger_than_the_mtu_is_dropped_headers_included() -> None:
    way = Way(Link(mtu=1000), "")
    assert sent(way, [bytes(973), bytes(972)]) == [bytes(972)]
    assert way.counters == Counters(sent=2, delivered=1, too_large=1)


def test_a_full_queue_drops_what_comes() -> None:
    way = Way(Link(delay_s=1, queue=10), "")
    assert sent(way, numbered(11)) == numbered(10)
    assert way.counters == Counters(sent=11, delivered=10, overflowed=1)


def test_what_finds_the_queue_full_takes_nothing_of_the_rate() -> None:
    way = Way(Link(rate_bps=8000, queue=2), "")
    for _ in range(100):
        way.take(bytes(1000 - 28), 0.0)
    assert len([*way.due(2.0)]) == 2
    way.take(bytes(1000 - 28), 2.0)
    assert way.next_s == 3.0


def test_duplicates_arrive_one_after_the_other() -> None:
    way = Way(Link(duplicate=1), "")
    assert sent(way, [b"a", b"b"]) == [b"a", b"a", b"b", b"b"]
    assert way.counters == Counters(sent=2, duplicated=2, delivered=4)


def test_a_cut_loses_what_is_sent_and_what_is_under_way() -> None:
    way = Way(Link(delay_s=1), "")
    way.take(b"under way", 0.0)
    way.is_cut = True
    way.take(b"sent", 0.5)
    assert [*way.due(1.0)] == []
    way.is_cut = False
    assert sent(way, [b"after"], 2.0) == [b"after"]
    assert way.counters == Counters(sent=3, delivered=1, cut=2)


@given(
    st.builds(
        Link,
        loss=st.floats(0, 1),
        duplicate=st.floats(0, 1),
        delay_s=st.floats(0, 3),
        jitter_s=st.floats(0, 3),
        rate_bps=st.none() | st.floats(100, 1e9),
        mtu=st.integers(29, 2000),
        queue=st.integers(1, 5),
        seed=st.integers(),
    ),
    st.lists(st.tuples(st.integers(0, 2000), st.booleans())),
)
def test_every_datagram_is_counted_once(link: Link, steps: list[tuple[int, bool]]) -> None:
    way = Way(link, "")
    arrived = 0
    for now_s, (length, is_cut) in enumerate(steps):
        way.is_cut = is_cut
        way.take(bytes(length), now_s)
        arrived += len([*way.due(now_s)])
    arrived += len([*way.due(float("inf"))])
    counters = way.counters
    assert counters.delivered == arrived
    fates = replace(counters, sent=0, duplicated=0)
    total = sum(getattr(fates, one.name) for one in fields(fates))
    assert total == counters.sent + counters.duplicated
