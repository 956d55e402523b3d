# SPDX-License-Identifier: MIT
"""How sessions with a hostile peer begin, follow each other and end."""

import pytest
from core_numbers import (
    KEEPALIVE_TIMEOUT_S,
    REJECT_AFTER_TIME_S,
    REKEY_AFTER_TIME_S,
    REKEY_TIMEOUT_S,
    SESSION_CURRENT,
    SESSION_NEXT,
)
from hostile.duel import INDEX, IPV4_HEADER_LEN, Duel
from hostile.peer import INITIATION, RESPONSE, TRANSPORT

from wgpy.dataplane._core import lib

pytestmark = pytest.mark.threads

STAGED_MAX = lib.WG_STAGED_MAX
REKEY_ON_RECEIVE_S = REJECT_AFTER_TIME_S - KEEPALIVE_TIMEOUT_S - REKEY_TIMEOUT_S


# ---- both roles ----


def test_the_peer_initiates(duel: Duel) -> None:
    link = duel.session()
    duel.hear(link, b"pong")


def test_the_peer_responds(duel: Duel) -> None:
    for number in range(3):
        duel.send(b"staged %d" % number)
    initiation = duel.receive(INITIATION)
    assert duel.peer.addressed_by(initiation)
    response, link = duel.peer.respond(initiation, INDEX)
    duel.peer.send(response)
    for number in range(3):
        opened = link.open(duel.receive(TRANSPORT))
        assert opened[IPV4_HEADER_LEN:].startswith(b"staged %d" % number)


def test_a_preshared_key_of_its_own_gets_the_peer_nothing(duel: Duel) -> None:
    duel.configure(preshared_key=b"\x05" * 32)
    duel.send(b"staged")
    initiation = duel.receive(INITIATION)
    wrong, _ = duel.peer.respond(initiation, INDEX, b"\x06" * 32)
    duel.peer.send(wrong)
    duel.until_bad(1)
    right, link = duel.peer.respond(initiation, INDEX, b"\x05" * 32)
    duel.peer.send(right)
    assert link.open(duel.receive(TRANSPORT))


def test_of_the_packets_that_wait_for_a_session_the_oldest_are_dropped(duel: Duel) -> None:
    dropped = 5
    for number in range(dropped + STAGED_MAX):
        duel.send(b"staged %03d" % number)
    initiation = duel.receive(INITIATION)
    duel.until_counted("tx_staged_dropped", dropped)
    response, link = duel.peer.respond(initiation, INDEX)
    duel.peer.send(response)
    for number in range(dropped, dropped + STAGED_MAX):
        opened = link.open(duel.receive(TRANSPORT))
        assert opened[IPV4_HEADER_LEN:].startswith(b"staged %03d" % number)


@pytest.mark.parametrize(
    ("length", "padded"),
    [(21, 32), (32, 32), (33, 48), (1408, 1408), (1409, 1420), (1420, 1420)],
)
def test_payload_is_padded_to_16_bytes_but_not_beyond_the_mtu(
    duel: Duel, length: int, padded: int
) -> None:
    duel.host.plane.set_mtu(1420)
    link = duel.session()
    duel.send(bytes(length - IPV4_HEADER_LEN))
    opened = link.open(duel.receive(TRANSPORT))
    assert opened[2:4] == length.to_bytes(2, "big")
    assert opened[length:] == bytes(padded - length)


# ---- renewal ----


def test_the_device_renews_by_sending_a_session_that_it_began(duel: Duel) -> None:
    link = duel.respond()
    duel.loop.advance(REKEY_AFTER_TIME_S - 1)
    duel.hear(link, b"young enough")
    duel.loop.advance(1)
    duel.send(b"old enough")
    assert duel.next_kind() == TRANSPORT  # for it is still good
    assert duel.next_kind() == INITIATION


def test_the_device_renews_by_receiving_a_session_that_it_began(duel: Duel) -> None:
    link = duel.respond()
    duel.loop.advance(REKEY_ON_RECEIVE_S - 1)
    for _ in range(2):  # what the first asks for comes before the second is through
        duel.deliver(link)
    assert duel.peer.receive() is None
    duel.loop.advance(1)
    duel.deliver(link)
    duel.receive(INITIATION)


def test_the_device_leaves_the_renewal_of_a_session_of_the_peer_to_the_peer(duel: Duel) -> None:
    link = duel.session()
    duel.loop.advance(REKEY_ON_RECEIVE_S)
    duel.deliver(link)
    for number in range(3):
        duel.send(b"old %d" % number)
        assert duel.next_kind() == TRANSPORT


# ---- indexes ----


def test_the_peer_may_use_its_index_again(duel: Duel) -> None:
    links = [duel.session(index=7) for _ in range(3)]
    assert len({link.theirs for link in links}) == 3
    duel.hear(links[-1], b"under the newest key")
    duel.deliver(links[-1])


def test_an_index_of_a_handshake_carries_no_payload(duel: Duel) -> None:
    duel.send(b"staged")
    initiation = duel.receive(INITIATION)
    response, link = duel.peer.respond(initiation, INDEX)
    early = link.seal(duel.inner(b"early"))
    duel.peer.send(early)
    duel.until_counted("rx_unknown_index", 1)
    duel.peer.send(response)
    duel.receive(TRANSPORT)
    duel.deliver(link)


def test_an_index_of_a_session_takes_no_second_response(duel: Duel) -> None:
    duel.send(b"staged")
    initiation = duel.receive(INITIATION)
    response, link = duel.peer.respond(initiation, INDEX)
    other_response, other = duel.peer.respond(initiation, INDEX + 1)
    duel.peer.send(response)
    duel.receive(TRANSPORT)
    duel.peer.send(response)
    duel.peer.send(other_response)
    duel.until_counted("rx_unknown_index", 2)
    duel.peer.send(other.seal(duel.inner(b"under the second")))
    duel.until_counted("rx_bad_tag", 1)
    duel.deliver(link)


def test_a_response_to_an_initiation_that_was_repeated_is_refused(duel: Duel) -> None:
    duel.send(b"staged")
    late, _ = duel.peer.respond(duel.receive(INITIATION), INDEX)
    duel.loop.advance(6)
    in_time, link = duel.peer.respond(duel.receive(INITIATION), INDEX)
    duel.peer.send(late)
    duel.until_counted("rx_unknown_index", 1)
    duel.peer.send(in_time)
    assert link.open(duel.receive(TRANSPORT))


# ---- races ----


@pytest.mark.parametrize("answer_first", [True, False])
def test_both_initiate_at_once_and_both_sessions_carry_payload(
    duel: Duel, answer_first: bool
) -> None:
    duel.send(b"ping")
    answer, answered = duel.peer.respond(duel.receive(INITIATION), 1)
    message, finish = duel.peer.initiate(2)
    if answer_first:
        duel.peer.send(answer)
        assert answered.open(duel.receive(TRANSPORT))
    duel.peer.send(message)
    initiated = finish(duel.receive(RESPONSE))
    if not answer_first:
        duel.peer.send(answer)
        assert answered.open(duel.receive(TRANSPORT))
    for link in (initiated, answered, initiated):
        duel.deliver(link)


def test_the_session_of_the_peer_ends_the_attempt_of_the_device(duel: Duel) -> None:
    duel.send(b"ping")
    answer, _ = duel.peer.respond(duel.receive(INITIATION), 1)
    message, finish = duel.peer.initiate(2)
    duel.peer.send(message)
    initiated = finish(duel.receive(RESPONSE))
    duel.deliver(initiated)
    assert initiated.open(duel.receive(TRANSPORT))[IPV4_HEADER_LEN:].startswith(b"ping")
    duel.peer.send(answer)
    duel.until_counted("rx_unknown_index", 1)
    duel.hear(initiated, b"no other session came to be")


def test_a_session_that_is_not_confirmed_sends_nothing(duel: Duel) -> None:
    old = duel.session()
    new = duel.handshake()
    assert duel.host.stats.sessions == SESSION_CURRENT | SESSION_NEXT
    duel.hear(old, b"still under the old key")
    duel.deliver(new)
    duel.hear(new, b"under the new key")


def test_without_a_confirmed_session_payload_waits(duel: Duel) -> None:
    link = duel.handshake()
    duel.send(b"staged")
    duel.loop.until(lambda: duel.host.stats.staged == 1)
    duel.peer.send(link.seal())
    assert link.open(duel.receive(TRANSPORT))[IPV4_HEADER_LEN:].startswith(b"staged")
