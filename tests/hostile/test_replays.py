# SPDX-License-Identifier: MIT
"""What comes late, twice, or from elsewhere."""

import pytest
from core_numbers import REJECT_AFTER_MESSAGES, SESSION_CURRENT, SESSION_PREVIOUS
from hostile.duel import INDEX, TWO_INITIATIONS_S, V4, V6, Duel
from hostile.peer import RESPONSE

from wgpy.dataplane._core import lib

pytestmark = pytest.mark.threads

REPLAY_WINDOW = lib.WG_REPLAY_WINDOW


# ---- late messages ----


def test_messages_under_the_previous_key_may_be_late(duel: Duel) -> None:
    old = duel.session()
    late = [old.seal(duel.inner(b"late %d" % number)) for number in range(3)]
    new = duel.session()
    assert duel.host.stats.sessions == SESSION_CURRENT | SESSION_PREVIOUS
    for message in reversed(late):
        duel.deliver(old, message)
    duel.hear(new, b"they are no reason to go back")


def test_messages_under_the_key_before_the_previous_are_refused(duel: Duel) -> None:
    links = [duel.session() for _ in range(3)]
    before = duel.counter("rx_unknown_index")
    duel.peer.send(links[0].seal(duel.inner(b"too late")))
    duel.until_counted("rx_unknown_index", before + 1)
    duel.deliver(links[2])


def test_a_key_older_than_180_s_is_refused(duel: Duel) -> None:
    link = duel.session()
    duel.loop.advance(165)
    duel.deliver(link)
    duel.loop.advance(15)
    duel.peer.send(link.seal(duel.inner(b"too old")))
    duel.until_counted("rx_expired", 1)
    duel.session()
    assert all(payload.startswith(b"genuine") for payload in duel.host.received)


# ---- replays ----


def test_replays_at_the_edges_of_the_window(duel: Duel) -> None:
    link = duel.session()  # which took counter 0
    newest = 3 * REPLAY_WINDOW
    oldest = newest - REPLAY_WINDOW
    for counter in (newest, oldest, oldest + 1, newest - 1):
        duel.deliver(link, duel.sealed(link, counter))
    refused = (newest, oldest, oldest + 1, newest - 1, oldest - 1, 0, 1)
    for number, counter in enumerate(refused, start=1):
        duel.peer.send(duel.sealed(link, counter))
        duel.until_counted("rx_replayed", number)
    duel.deliver(link, duel.sealed(link, newest + 1))
    duel.peer.send(duel.sealed(link, oldest))
    duel.until_counted("rx_replayed", len(refused) + 1)
    duel.deliver(link, duel.sealed(link, oldest + 2))


def test_a_jump_over_the_whole_window_forgets_nothing_it_must_know(duel: Duel) -> None:
    link = duel.session()
    for number, newest in enumerate((10**6, 10**12, 2**60), start=1):
        duel.deliver(link, duel.sealed(link, newest))
        duel.peer.send(duel.sealed(link, newest))
        duel.until_counted("rx_replayed", number)


def test_counters_end_at_reject_after_messages(duel: Duel) -> None:
    link = duel.session()
    for number, counter in enumerate((REJECT_AFTER_MESSAGES, 2**64 - 1), start=1):
        duel.peer.send(duel.sealed(link, counter))
        duel.until_counted("rx_replayed", number)
    duel.deliver(link, duel.sealed(link, REJECT_AFTER_MESSAGES - 1))


def test_a_forged_counter_does_not_move_the_window(duel: Duel) -> None:
    link = duel.session()
    message = link.seal(duel.inner(b"genuine"))
    duel.peer.send(message[:8] + (10**9).to_bytes(8, "little") + message[16:])
    duel.until_counted("rx_bad_tag", 1)
    duel.deliver(link, message)


def test_a_replayed_initiation_gets_no_answer_and_does_not_roam(duel: Duel) -> None:
    message, finish = duel.peer.initiate(INDEX)
    duel.peer.send(message)
    link = finish(duel.receive(RESPONSE))
    duel.deliver(link)
    duel.loop.advance(TWO_INITIATIONS_S)
    duel.peer.send(message, V6)
    duel.until_bad(1)
    duel.hear(link, b"to the old address")
    assert duel.peer.receive(V6) is None


def test_an_initiation_of_an_earlier_time_gets_no_answer(duel: Duel) -> None:
    duel.peer.time = 1000
    link = duel.session()
    for number, time in enumerate((1000, 999, 0), start=1):
        duel.loop.advance(TWO_INITIATIONS_S)
        duel.peer.send(duel.peer.initiate(INDEX, time=time)[0])
        duel.until_bad(number)
    duel.deliver(link)
    duel.session()


# ---- roaming ----


def test_the_endpoint_family_changes_at_once_on_a_live_session(duel: Duel) -> None:
    link = duel.session()
    for family in (V6, V4, V6, V4):
        duel.deliver(link, family=family)
        duel.hear(link, b"answer", family)
    assert duel.host.stats.sessions == SESSION_CURRENT
    assert duel.peer.receive(V6) is None


def test_a_replay_from_elsewhere_does_not_roam(duel: Duel) -> None:
    link = duel.session()
    message = link.seal(duel.inner(b"genuine"))
    duel.deliver(link, message)
    duel.peer.send(message, V6)
    duel.until_counted("rx_replayed", 1)
    duel.hear(link, b"to the old address")


def test_payload_of_a_source_that_is_not_allowed_roams_all_the_same(duel: Duel) -> None:
    """It is authentic: only the host does not get it."""
    link = duel.session()
    duel.hear(link, b"from here on everything is answered")
    before = duel.host.stats
    message = link.seal(duel.inner(b"forged", source=bytes([10, 0, 0, 3])))
    duel.peer.send(message, V6)
    duel.until_counted("rx_not_allowed", 1)
    duel.loop.until(lambda: duel.host.stats.rx_bytes > before.rx_bytes)
    after = duel.host.stats
    assert after.rx_bytes == before.rx_bytes + len(message)
    assert after.rx_unanswered_since_ns > before.rx_any_ns
    assert (before.tx_unanswered_since_ns > 0, after.tx_unanswered_since_ns) == (True, 0)
    duel.hear(link, b"to the new address", V6)
