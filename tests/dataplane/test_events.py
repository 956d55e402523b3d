# SPDX-License-Identifier: MIT
"""events.c: what data threads tell control, through a running plane and its eventfd."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from random import Random

import pytest
from core_numbers import (
    COOKIE_REPLY_LEN,
    EVENT_RING,
    KEEPALIVE_TIMEOUT_S,
    MESSAGE_COOKIE_REPLY,
    MESSAGE_RESPONSE,
    REKEY_TIMEOUT_S,
    RESPONSE_LEN,
)

from wgpy.dataplane.types import MessageEvent, PendingEvent

from .ends import WAIT_S
from .faults import FaultyKernel
from .wire import OUR_NET, Wire, cookie_reply, initiation, message

pytestmark = pytest.mark.threads

NS = 10**9


@pytest.fixture
def wire() -> Iterator[Wire]:
    with ExitStack() as stack:
        yield Wire(stack)


def pending(
    slot: int, *, want_handshake: bool = False, key_confirmed: bool = False, armed: bool = False
) -> PendingEvent:
    return PendingEvent(slot, want_handshake, key_confirmed, armed)


# ---- pending bits ----


def test_traffic_without_a_session_wants_a_handshake(wire: Wire) -> None:
    wire.pass_data()
    assert wire.events() == [pending(wire.slot, want_handshake=True)]
    assert wire.plane.stats(wire.slot).staged == 1


def test_a_shut_gate_holds_the_wish_for_a_handshake_back(wire: Wire) -> None:
    other = wire.add_peer(OUR_NET)
    wire.plane.set_handshake_gate(wire.slot, wire.plane.now_ns() + 3600 * NS)
    wire.pass_data()
    wire.pass_data(OUR_NET)
    assert wire.events() == [pending(other, want_handshake=True)]
    wire.plane.set_handshake_gate(wire.slot, 0)
    wire.pass_data()
    assert wire.events() == [pending(wire.slot, want_handshake=True)]


def test_pending_bits_of_a_peer_coalesce(wire: Wire) -> None:
    index = wire.install(initiator=False)
    wire.plane.set_wake(wire.slot, None)
    for _ in range(5):
        wire.settle(index)
    assert wire.events() == [pending(wire.slot, key_confirmed=True, armed=True)]
    assert not wire.readable()


def test_a_key_is_confirmed_once(wire: Wire) -> None:
    index = wire.install(initiator=False)
    wire.plane.set_wake(wire.slot, 0)
    wire.settle(index)
    assert wire.events() == [pending(wire.slot, key_confirmed=True)]
    wire.settle(index)
    assert not wire.readable()


def test_pending_bits_come_before_messages(wire: Wire) -> None:
    index = wire.install(initiator=False)
    wire.plane.set_wake(wire.slot, 0)
    wire.udp.send(initiation())
    wire.settle(index)
    first, second = wire.events()
    assert first == pending(wire.slot, key_confirmed=True)
    assert isinstance(second, MessageEvent)


def test_a_removed_peers_events_are_gone(wire: Wire) -> None:
    index = wire.install(initiator=False)
    handshake = wire.plane.reserve_index(wire.slot)
    wire.udp.send(message(MESSAGE_RESPONSE, RESPONSE_LEN, handshake))
    wire.settle(index)
    assert wire.readable()
    wire.plane.remove_peer(wire.slot)
    assert wire.plane.take_events() == []
    assert not wire.readable()


# ---- timers ----


def test_payload_received_arms_the_keepalive_timer(wire: Wire) -> None:
    index = wire.install(initiator=True)
    wire.plane.set_wake(wire.slot, wire.plane.now_ns() + (KEEPALIVE_TIMEOUT_S + WAIT_S) * NS)
    wire.settle(index)
    assert wire.events() == [pending(wire.slot, armed=True)]
    stats = wire.plane.stats(wire.slot)
    assert stats.rx_unanswered_since_ns == stats.rx_data_ns == stats.rx_any_ns > 0


def test_payload_sent_arms_the_handshake_timer(wire: Wire) -> None:
    wire.install(initiator=True)
    timeout_s = KEEPALIVE_TIMEOUT_S + REKEY_TIMEOUT_S
    wire.plane.set_wake(wire.slot, wire.plane.now_ns() + (timeout_s + WAIT_S) * NS)
    wire.pass_data()
    assert wire.events() == [pending(wire.slot, armed=True)]
    stats = wire.plane.stats(wire.slot)
    assert stats.tx_unanswered_since_ns == stats.tx_data_ns == stats.tx_any_ns > 0


def test_an_armed_timer_is_not_armed_again_before_a_new_wake(wire: Wire) -> None:
    index = wire.install(initiator=True)
    wire.settle(index)
    assert wire.events() == [pending(wire.slot, armed=True)]
    wire.pass_data()
    wire.udp.recv(65535)
    assert not wire.readable()


def test_a_wake_before_the_deadline_needs_no_event(wire: Wire) -> None:
    index = wire.install(initiator=True)
    wire.plane.set_wake(wire.slot, wire.plane.now_ns() + (KEEPALIVE_TIMEOUT_S - 1) * NS)
    wire.settle(index)
    assert not wire.readable()


def test_traffic_one_way_answers_the_other(wire: Wire) -> None:
    index = wire.install(initiator=True)
    wire.settle(index)
    wire.pass_data()
    wire.udp.recv(65535)
    assert wire.plane.stats(wire.slot).rx_unanswered_since_ns == 0
    assert wire.plane.stats(wire.slot).tx_unanswered_since_ns > 0
    wire.settle(index)
    assert wire.plane.stats(wire.slot).tx_unanswered_since_ns == 0


# ---- messages ----


def test_an_initiation_arrives_as_it_was_sent(wire: Wire) -> None:
    wire.udp.send(initiation(7))
    (event,) = wire.events()
    assert isinstance(event, MessageEvent)
    assert (event.slot, event.data, event.source) == (None, initiation(7), wire.endpoint)


@pytest.mark.parametrize(
    ("kind", "length"),
    [(MESSAGE_RESPONSE, RESPONSE_LEN), (MESSAGE_COOKIE_REPLY, COOKIE_REPLY_LEN)],
)
def test_an_answer_is_for_the_peer_that_has_its_index(wire: Wire, kind: int, length: int) -> None:
    index = wire.plane.reserve_index(wire.slot)
    wire.udp.send(message(kind, length, index ^ 1))
    wire.udp.send(message(kind, length, index))
    (event,) = wire.events()
    assert isinstance(event, MessageEvent)
    assert (event.slot, event.data) == (wire.slot, message(kind, length, index))
    assert wire.plane.counters()["rx_unknown_index"] == 1


def test_a_wrong_mac1_never_reaches_control(wire: Wire) -> None:
    wire.udp.send(initiation(1, good_mac1=False))
    wire.udp.send(initiation(2))
    wire.udp.send(initiation(3))
    wire.plane.set_wake(wire.slot, 0)
    wire.settle(wire.install(initiator=True))
    data = [event.data for event in wire.events() if isinstance(event, MessageEvent)]
    assert data == [initiation(2), initiation(3)]
    assert wire.plane.counters()["rx_bad_mac1"] == 1


def test_without_a_mac1_key_every_initiation_is_refused(wire: Wire) -> None:
    wire.plane.set_mac1_key(None)
    wire.plane.set_wake(wire.slot, 0)
    wire.udp.send(initiation())
    wire.settle(wire.install(initiator=True))
    assert wire.plane.counters()["rx_bad_mac1"] == 1
    assert not wire.readable()


def test_a_full_ring_drops_counts_and_recovers(wire: Wire) -> None:
    index, pending_index = wire.install(initiator=True), wire.plane.reserve_index(wire.slot)
    replies = [cookie_reply(pending_index, number) for number in range(EVENT_RING + 32)]
    wire.plane.set_wake(wire.slot, 0)
    for at in range(0, len(replies), 32):
        for reply in replies[at : at + 32]:
            wire.udp.send(reply)
        wire.settle(index)
    assert wire.plane.counters()["rx_events_dropped"] == 32
    events = wire.plane.take_events(2 * EVENT_RING)
    messages = [event for event in events if isinstance(event, MessageEvent)]
    assert [event.data for event in messages] == replies[:EVENT_RING]
    assert not wire.readable()
    wire.udp.send(initiation(1))
    assert len(wire.events()) == 1


# ---- no lost wake-up ----


def test_the_eventfd_stays_readable_while_something_is_left(wire: Wire) -> None:
    wire.plane.set_wake(wire.slot, 0)
    for sender in range(5):
        wire.udp.send(initiation(sender))
    wire.settle(wire.install(initiator=True))
    taken = []
    while wire.readable():
        taken += wire.plane.take_events(2)
    assert len(taken) == 5
    assert wire.plane.take_events() == []


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 64])
@pytest.mark.parametrize("late", [0, 1, 3, 4, 9])
def test_what_comes_while_control_drains_its_eventfd_is_announced(
    kernel: FaultyKernel, limit: int, late: int
) -> None:
    with ExitStack() as stack:
        wire = Wire(stack)
        wire.settle(wire.install(initiator=True))
        assert wire.events() == [pending(wire.slot, armed=True)]
        wire.pend(1)

        def come_late(fd: int) -> int:
            """Just before the eventfd is read."""
            if fd == wire.plane.event_fd:
                kernel.on_read = lambda fd: 0
                wire.pend(late)
            return 0

        kernel.on_read = come_late
        taken = 0
        while wire.readable():
            taken += len(wire.plane.take_events(limit))
        assert taken == 1 + late


def test_nothing_waits_in_silence_after_a_storm(wire: Wire) -> None:
    random = Random(1)
    index = wire.plane.reserve_index(wire.slot)
    wire.install(initiator=True)

    def storm() -> None:
        replies = [cookie_reply(index, number) for number in range(100)]
        for _ in range(200):
            for reply in replies:  # so many fit the socket's buffer
                wire.udp.send(reply)
            wire.settle(wire.session)

    taken = 0
    with ThreadPoolExecutor(1) as pool:
        stormy = pool.submit(storm)
        while not stormy.done() or wire.readable():
            if wire.readable(0.01):
                taken += len(wire.plane.take_events(random.randrange(2, 4)))
    stormy.result()
    assert wire.plane.take_events() == []
    assert taken > 0


def test_every_message_wakes_control_that_takes_as_fast_as_it_can(wire: Wire) -> None:
    for sender in range(2000):
        wire.udp.send(initiation(sender))
        (event,) = wire.events()
        assert isinstance(event, MessageEvent)
        assert event.data == initiation(sender)


def test_no_kick_is_lost_while_the_send_thread_drains_its_eventfd(wire: Wire) -> None:
    wire.install(initiator=True)
    for _ in range(2000):
        wire.plane.kick(wire.slot, keepalive=True)
        assert len(wire.udp.recv(65535)) == 32
