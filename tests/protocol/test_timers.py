# SPDX-License-Identifier: MIT
"""Every rule of section 6 by its name, with stamps made by hand."""

from dataclasses import replace

import pytest
from fake_peer import NO_TRAFFIC
from fakes import S
from hypothesis import given
from hypothesis import strategies as st

from wgpy.dataplane.types import PeerStats
from wgpy.protocol.timers import JITTER_NS, MAX_RETRIES, Action, Timers

NOW = 1000 * S
HALF_JITTER = JITTER_NS // 2


def half(below: int) -> int:
    return below // 2


@pytest.fixture
def timers() -> Timers:
    return Timers(half)


def traffic(**stamps: int) -> PeerStats:
    """Stamps by their names without _ns; a session exists."""
    stats = replace(NO_TRAFFIC, sessions=1)
    for name, at in stamps.items():
        setattr(stats, f"{name}_ns", at)
    return stats


def received_since(first: int, last: int | None = None) -> PeerStats:
    return traffic(rx_unanswered_since=first, rx_data=last or first, rx_any=last or first)


def sent_since(first: int, last: int | None = None) -> PeerStats:
    return traffic(tx_unanswered_since=first, tx_data=last or first, tx_any=last or first)


def test_an_idle_peer_has_no_deadline(timers: Timers) -> None:
    assert timers.deadline(NO_TRAFFIC) is None
    assert timers.due(NO_TRAFFIC, NOW) == []


# ---- retransmission ----


def test_an_initiation_is_repeated_after_rekey_timeout_and_jitter(timers: Timers) -> None:
    timers.handshake_initiated(NOW)
    deadline = timers.deadline(NO_TRAFFIC)
    assert deadline == NOW + 5 * S + HALF_JITTER
    assert timers.due(NO_TRAFFIC, deadline - 1) == []
    assert timers.due(NO_TRAFFIC, deadline) == [Action.RETRY_HANDSHAKE]
    assert timers.due(NO_TRAFFIC, deadline) == []


def test_the_jitter_is_up_to_a_third_of_a_second() -> None:
    asked: list[int] = []

    def greatest(below: int) -> int:
        asked.append(below)
        return below - 1

    timers = Timers(greatest)
    timers.handshake_initiated(NOW)
    assert set(asked) == {333_333_333}
    assert timers.deadline(NO_TRAFFIC) == NOW + 5 * S + 333_333_332


def repeat_until_given_up(timers: Timers, stamps: PeerStats) -> tuple[int, int]:
    """The number of retries and when it was given up, beginning at NOW."""
    now = NOW
    for retries in range(100):
        timers.handshake_initiated(now)
        now += 6 * S
        actions = timers.due(stamps, now)
        if actions == [Action.GIVE_UP_HANDSHAKE]:
            return retries, now
        assert actions == [Action.RETRY_HANDSHAKE]
    raise AssertionError("never given up")


def test_a_handshake_is_given_up_after_18_retries(timers: Timers) -> None:
    retries, _ = repeat_until_given_up(timers, NO_TRAFFIC)
    assert retries == MAX_RETRIES == 18


def test_giving_up_arms_the_zeroing_of_keys(timers: Timers) -> None:
    _, now = repeat_until_given_up(timers, NO_TRAFFIC)
    assert timers.deadline(NO_TRAFFIC) == now + 540 * S


def test_giving_up_leaves_the_zeroing_of_keys_where_it_was(timers: Timers) -> None:
    timers.session_derived(NOW)
    repeat_until_given_up(timers, NO_TRAFFIC)
    assert timers.deadline(NO_TRAFFIC) == NOW + 540 * S


def test_giving_up_cancels_the_passive_keepalive(timers: Timers) -> None:
    _, now = repeat_until_given_up(timers, NO_TRAFFIC)
    repeat_until_given_up(timers, received_since(now + 100 * S))
    deadline = timers.deadline(received_since(now + 100 * S))
    assert deadline == now + 540 * S


def test_wanting_a_handshake_again_starts_the_retries_from_0(timers: Timers) -> None:
    repeat_until_given_up(timers, NO_TRAFFIC)
    timers.handshake_wanted()
    retries, _ = repeat_until_given_up(timers, NO_TRAFFIC)
    assert retries == MAX_RETRIES


def test_a_complete_handshake_is_not_repeated(timers: Timers) -> None:
    timers.handshake_initiated(NOW)
    timers.handshake_complete()
    assert timers.deadline(NO_TRAFFIC) is None


def test_a_complete_handshake_starts_the_retries_from_0(timers: Timers) -> None:
    timers.handshake_initiated(NOW)
    timers.due(NO_TRAFFIC, NOW + 6 * S)
    timers.handshake_complete()
    retries, _ = repeat_until_given_up(timers, NO_TRAFFIC)
    assert retries == MAX_RETRIES


def test_a_retry_can_be_postponed(timers: Timers) -> None:
    timers.handshake_initiated(NOW)
    timers.due(NO_TRAFFIC, NOW + 6 * S)
    timers.handshake_postponed(NOW + 9 * S)
    assert timers.deadline(NO_TRAFFIC) == NOW + 9 * S
    assert timers.due(NO_TRAFFIC, NOW + 9 * S) == [Action.POSTPONED_HANDSHAKE]


def test_what_was_postponed_is_no_retry(timers: Timers) -> None:
    timers.handshake_postponed(NOW)
    assert timers.due(NO_TRAFFIC, NOW) == [Action.POSTPONED_HANDSHAKE]
    assert timers.due(NO_TRAFFIC, NOW) == []
    retries, _ = repeat_until_given_up(timers, NO_TRAFFIC)
    assert retries == MAX_RETRIES


# ---- passive keepalive ----


def test_unanswered_payload_is_answered_by_a_keepalive_after_10_s(timers: Timers) -> None:
    stamps = received_since(NOW)
    assert timers.deadline(stamps) == NOW + 10 * S
    assert timers.due(stamps, NOW + 10 * S - 1) == []
    assert timers.due(stamps, NOW + 10 * S) == [Action.SEND_KEEPALIVE]


def test_a_keepalive_is_sent_once_even_if_it_cannot_go_out(timers: Timers) -> None:
    stamps = received_since(NOW)
    timers.due(stamps, NOW + 10 * S)
    assert timers.deadline(stamps) is None
    assert timers.due(stamps, NOW + 20 * S) == []


def test_payload_during_the_wait_asks_for_another_keepalive(timers: Timers) -> None:
    stamps = received_since(NOW, NOW + S)
    actions = timers.due(stamps, NOW + 10 * S)
    assert actions == [Action.SEND_KEEPALIVE, Action.REARM_KEEPALIVE]
    rearmed = received_since(NOW + 10 * S)
    assert timers.deadline(rearmed) == NOW + 20 * S


def test_anything_sent_makes_the_keepalive_needless(timers: Timers) -> None:
    assert timers.due(traffic(rx_data=NOW, tx_any=NOW + S), NOW + 10 * S) == []


# ---- new handshake on silence ----


def test_silence_asks_for_a_handshake_after_15_s_and_jitter(timers: Timers) -> None:
    stamps = sent_since(NOW)
    deadline = timers.deadline(stamps)
    assert deadline == NOW + 15 * S + HALF_JITTER
    assert timers.due(stamps, deadline - 1) == []
    assert timers.due(stamps, deadline) == [Action.NEW_HANDSHAKE]


def test_going_on_sending_into_silence_asks_again(timers: Timers) -> None:
    first = NOW + 16 * S
    timers.due(sent_since(NOW), first)
    going_on = sent_since(NOW, first + S)
    deadline = timers.deadline(going_on)
    assert deadline == first + 15 * S + HALF_JITTER
    assert timers.due(going_on, deadline) == [Action.NEW_HANDSHAKE]


def test_stopping_to_send_into_silence_does_not_ask_again(timers: Timers) -> None:
    stamps = sent_since(NOW)
    timers.due(stamps, NOW + 16 * S)
    assert timers.due(stamps, NOW + 40 * S) == []


def test_silence_does_not_matter_without_a_session(timers: Timers) -> None:
    stamps = replace(sent_since(NOW), sessions=0)
    assert timers.deadline(stamps) is None


def test_an_answer_ends_the_silence(timers: Timers) -> None:
    assert timers.deadline(traffic(tx_data=NOW, rx_any=NOW + S)) is None


def test_a_new_handshake_takes_the_place_of_a_retry(timers: Timers) -> None:
    timers.handshake_initiated(NOW)
    now = NOW + 16 * S
    assert timers.due(sent_since(NOW), now) == [Action.NEW_HANDSHAKE]
    timers.handshake_initiated(now)
    assert timers.due(sent_since(NOW), now) == []


# ---- zero key material ----


def test_keys_are_zeroed_540_s_after_the_last_session(timers: Timers) -> None:
    timers.session_derived(NOW)
    timers.session_derived(NOW + S)
    assert timers.deadline(NO_TRAFFIC) == NOW + 541 * S
    assert timers.due(NO_TRAFFIC, NOW + 541 * S - 1) == []
    assert timers.due(NO_TRAFFIC, NOW + 541 * S) == [Action.ZERO_KEYS]
    assert timers.deadline(NO_TRAFFIC) is None


# ---- persistent keepalive ----


@pytest.mark.parametrize("stamp", ["tx_any", "rx_any"])
def test_a_persistent_keepalive_follows_any_message_after_the_interval(
    timers: Timers, stamp: str
) -> None:
    timers.persistent_keepalive_s = 25
    stamps = traffic(**{stamp: NOW})
    assert timers.deadline(stamps) == NOW + 25 * S
    assert timers.due(stamps, NOW + 25 * S - 1) == []
    assert timers.due(stamps, NOW + 25 * S) == [Action.SEND_KEEPALIVE]


def test_a_persistent_keepalive_that_waits_for_a_session_counts_as_sent(timers: Timers) -> None:
    timers.persistent_keepalive_s = 25
    timers.persistent_keepalive_sent(NOW)
    assert timers.due(NO_TRAFFIC, NOW + 25 * S) == [Action.SEND_KEEPALIVE]
    assert timers.deadline(NO_TRAFFIC) == NOW + 50 * S


def test_without_an_interval_there_is_no_persistent_keepalive(timers: Timers) -> None:
    assert timers.deadline(traffic(tx_any=NOW, rx_any=NOW)) is None


def test_both_keepalives_together_are_one(timers: Timers) -> None:
    timers.persistent_keepalive_s = 10
    assert timers.due(received_since(NOW), NOW + 10 * S) == [Action.SEND_KEEPALIVE]


# ---- all of them ----


def test_stopping_cancels_everything(timers: Timers) -> None:
    timers.handshake_initiated(NOW)
    timers.session_derived(NOW)
    stamps = replace(received_since(NOW), sessions=0)
    timers.stop(stamps)
    assert timers.deadline(stamps) is None
    assert timers.due(stamps, NOW + 1000 * S) == []


stamp_times = st.integers(0, 100 * S)


@given(
    stamps=st.builds(
        lambda **stamps: replace(NO_TRAFFIC, **stamps),
        sessions=st.integers(0, 7),
        tx_any_ns=stamp_times,
        rx_any_ns=stamp_times,
        tx_data_ns=stamp_times,
        rx_data_ns=stamp_times,
        tx_unanswered_since_ns=stamp_times,
        rx_unanswered_since_ns=stamp_times,
    ),
    interval=st.integers(0, 100),
    initiated=st.booleans(),
    derived=st.booleans(),
    now=st.integers(100 * S, 1000 * S),
)
def test_what_was_due_is_never_due_again_at_once(
    stamps: PeerStats, interval: int, initiated: bool, derived: bool, now: int
) -> None:
    timers = Timers(half)
    timers.persistent_keepalive_s = interval
    if initiated:
        timers.handshake_initiated(90 * S)
    if derived:
        timers.session_derived(90 * S)
    earlier = timers.deadline(stamps)
    actions = timers.due(stamps, now)
    if earlier is None or earlier > now:
        assert actions == []
    actions += timers.due(stamps, now)  # a retry may have stood back for the silence
    assert len(set(actions)) == len(actions)
    assert timers.due(stamps, now) == []
    later = timers.deadline(stamps)
    assert later is None or later > now
