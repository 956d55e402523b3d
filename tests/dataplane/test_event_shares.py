# SPDX-License-Identifier: MIT
"""events.c: in which order control hears of what waits, and that nothing waits for ever."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from random import Random

import pytest
from fake_inbox import FakeInbox

from wgpy.dataplane.types import MessageEvent, PendingEvent

from .wire import Wire

pytestmark = pytest.mark.threads


def names(events: Iterable[PendingEvent | MessageEvent]) -> list[str | int]:
    """Return "message", "timer", or the slot of who wants a handshake, for each."""
    found: list[str | int] = []
    for event in events:
        if isinstance(event, MessageEvent):
            found.append("message")
        else:
            assert event.want_handshake != event.timer_armed
            found.append(event.slot if event.want_handshake else "timer")
    return found


class Crowd:
    """A wire with many peers, to whom packets go in one batch after the other."""

    def __init__(self, stack: ExitStack) -> None:
        self.wire = Wire(stack)
        self.plane = self.wire.plane
        self.wire.install(initiator=True)
        self.plane.set_wake(self.wire.slot, 0)  # it gives no events of its own
        self.networks: dict[int, bytes] = {}

    def add(self, count: int) -> list[int]:
        """Make so many peers; -> their slots."""
        slots = []
        for _ in range(count):
            network = bytes([10, 10 + len(self.networks), 0, 0])
            slots.append(self.wire.add_peer(network))
            self.networks[slots[-1]] = network
        return slots

    def write(self, slots: Iterable[int], *, answered: int = 0) -> None:
        """Send a packet to each; return when all are worked off, of which so many went out."""
        for slot in slots:
            self.wire.pass_data(self.networks[slot])
        self.wire.pass_data()
        for _ in range(answered + 1):
            self.wire.udp.recv(65535)

    def want(self, count: int) -> list[int]:
        """Have so many new peers want a handshake, one after the other."""
        slots = self.add(count)
        self.write(slots)
        return slots

    def arm(self, count: int) -> list[int]:
        """Have a timer of so many new peers armed."""
        slots = self.add(count)
        for slot in slots:
            self.wire.install(initiator=True, slot=slot)
        self.write(slots, answered=count)
        return slots

    def hear(self, slot: int) -> None:
        """Authenticate a handshake message of the peer."""
        self.plane.peer_received(slot, self.wire.endpoint, 148, self.plane.now_ns())

    def take(self, limit: int = 64) -> list[str | int]:
        """Take events, as `names` calls them."""
        return names(self.plane.take_events(limit))

    def take_all(self, limit: int = 64) -> list[str | int]:
        """Take until control would not be woken any more."""
        taken = []
        while self.wire.readable():
            taken += self.take(limit)
        assert self.plane.take_events() == []
        return taken


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    with ExitStack() as stack:
        yield Crowd(stack)


# ---- shares ----


def test_wants_come_after_everything_else(crowd: Crowd) -> None:
    [wanting] = crowd.want(1)
    crowd.wire.pend(1)
    crowd.arm(1)
    assert crowd.take() == ["timer", "message", wanting]


def test_a_peer_that_wants_a_handshake_and_has_a_timer_armed_is_told_twice(crowd: Crowd) -> None:
    [slot] = crowd.want(1)
    crowd.wire.install(initiator=True, slot=slot)
    crowd.write([slot], answered=1)
    assert crowd.plane.take_events() == [
        PendingEvent(slot, want_handshake=False, key_confirmed=False, timer_armed=True),
        PendingEvent(slot, want_handshake=True, key_confirmed=False, timer_armed=False),
    ]


@pytest.mark.parametrize(
    ("limit", "timers", "messages", "wants"),
    [(4, 2, 1, 1), (5, 3, 1, 1), (8, 4, 2, 2), (64, 32, 16, 16)],
)
def test_no_kind_takes_the_share_of_another(
    crowd: Crowd, limit: int, timers: int, messages: int, wants: int
) -> None:
    crowd.want(40)
    crowd.wire.pend(80)
    crowd.arm(80)
    taken = crowd.take(limit)
    assert len(taken) == limit
    assert taken[: timers + messages] == ["timer"] * timers + ["message"] * messages
    assert len(taken[timers + messages :]) == wants


@pytest.mark.parametrize(("limit", "wants"), [(1, 1), (2, 1), (4, 1), (5, 2), (64, 16)])
def test_wants_alone_leave_most_of_a_turn_to_what_comes_meanwhile(
    crowd: Crowd, limit: int, wants: int
) -> None:
    crowd.want(100)
    assert len(crowd.take(limit)) == wants
    assert crowd.wire.readable()


def test_messages_alone_leave_a_quarter_to_wants(crowd: Crowd) -> None:
    crowd.wire.pend(80)
    assert crowd.take() == ["message"] * 48


# ---- the order of wants ----


def test_whoever_comes_after_a_crowd_does_not_wait_for_it(crowd: Crowd) -> None:
    slots = crowd.want(100)
    assert slots[-1] in crowd.take(16)


def test_nobody_is_overtaken_for_ever(crowd: Crowd) -> None:
    first = crowd.want(20)
    taken: list[str | int] = []
    for _ in range(15):
        crowd.want(4)  # as many as are taken
        taken += crowd.take(16)
    assert set(taken) > set(first)


def test_peers_that_did_not_answer_last_time_wait_for_one_that_did(crowd: Crowd) -> None:
    slots = crowd.want(101)
    assert sorted(map(int, crowd.take_all())) == slots
    live = slots[50]
    crowd.hear(live)
    crowd.write(slots)
    assert live in crowd.take(16)


def test_peers_that_did_not_answer_take_turns_with_a_crowd_of_new_ones(crowd: Crowd) -> None:
    silent = crowd.want(20)
    crowd.take_all()
    crowd.write(silent)
    crowd.want(100)
    taken = crowd.take(64)
    assert [slot for slot in taken if slot in silent] == silent[:8]
    assert len(taken) == 16


def test_wanting_again_before_control_has_heard_changes_nothing(crowd: Crowd) -> None:
    silent = crowd.want(4)
    crowd.take_all()
    new = crowd.want(4)
    for _ in range(2):
        crowd.write(new + silent)
    assert sorted(map(int, crowd.take_all())) == silent + new


# ---- nothing is lost ----


def wanting(crowd: Crowd) -> list[int]:
    return crowd.want(5)


def wanting_again(crowd: Crowd) -> list[int]:
    slots = crowd.want(5)
    crowd.take_all()
    crowd.write(slots)
    return slots


@pytest.mark.parametrize("prepare", [wanting, wanting_again])
@pytest.mark.parametrize("gone", [[0], [4], [2], [0, 1], [4, 3], [1, 3], [0, 1, 2, 3, 4]])
def test_who_is_removed_leaves_the_list_whole(
    crowd: Crowd, prepare: Callable[[Crowd], list[int]], gone: list[int]
) -> None:
    slots = prepare(crowd)
    for number in gone:
        crowd.plane.remove_peer(slots[number])
    later = crowd.want(1)
    left = [slot for number, slot in enumerate(slots) if number not in gone]
    assert sorted(map(int, crowd.take_all(4))) == sorted(left + later)


@pytest.mark.parametrize("gone", [[0], [4], [2], [0, 1, 2, 3, 4]])
def test_whose_timer_was_armed_and_is_removed_leaves_the_list_whole(
    crowd: Crowd, gone: list[int]
) -> None:
    slots = crowd.arm(5)
    for number in gone:
        crowd.plane.remove_peer(slots[number])
    crowd.arm(1)
    assert crowd.take_all(4) == ["timer"] * (6 - len(gone))


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 64])
def test_each_event_is_told_once_and_in_the_order_of_the_fake_inbox(
    crowd: Crowd, limit: int
) -> None:
    random = Random(limit)
    slots, fake = crowd.add(30), FakeInbox()
    message = MessageEvent(crowd.wire.slot, b"", crowd.wire.endpoint)
    for _ in range(60):
        wanting, messages = random.sample(slots, random.randrange(12)), random.randrange(3)
        crowd.write(wanting)
        crowd.wire.pend(messages)
        for slot in wanting:
            fake.want(slot, crowd.plane.stats(slot).rx_any_ns)
        for _ in range(messages):
            fake.add(message)
        taken = crowd.take(limit)
        assert taken == names(fake.take(limit))
        for name in set(taken) - {"message"}:
            if random.randrange(2):
                crowd.hear(int(name))
    while left := crowd.take(limit):
        assert left == names(fake.take(limit))
    assert not fake.waiting
    assert not crowd.wire.readable()
