# SPDX-License-Identifier: MIT
"""turnstile.c: threads that work side by side take and give in turns."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from random import Random
from typing import Any

import hypothesis
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from wgpy.dataplane._core import ffi, lib

from .ends import WAIT_S

pytestmark = pytest.mark.threads

LAST_TICKET = (1 << 32) - 1


class Turnstile:
    """One, whose first ticket has this number."""

    def __init__(self, ticket: int = 0) -> None:
        self.c = ffi.gc(lib.door_turnstile_new(ticket), lib.door_turnstile_free)

    def turn(self) -> "Turn":
        return Turn(self.c)

    def await_sleepers(self, count: int) -> None:
        """Return as soon as so many wait for a turn."""
        end_s = time.monotonic() + WAIT_S
        while lib.door_turnstile_sleepers(self.c) != count:
            assert time.monotonic() < end_s, "they do not wait"


class Turn:
    """A thread's place in it."""

    def __init__(self, turnstile: Any) -> None:
        self._turnstile = turnstile  # lives as long
        self._c = ffi.gc(lib.door_turn_new(turnstile), lib.door_turn_free)

    @property
    def ticket(self) -> int:
        return int(lib.door_turn_ticket(self._c))

    def take(self) -> bool:
        return bool(lib.door_turn_take(self._c))

    def pass_on(self) -> None:
        lib.door_turn_pass(self._c)

    def give(self) -> None:
        lib.door_turn_give(self._c)

    def end(self) -> None:
        lib.door_turn_end(self._c)

    def leave(self) -> None:
        lib.door_turn_leave(self._c)


class Threads:
    """Threads that have to end before the test does; their results, as they ended."""

    def __init__(self) -> None:
        self.results: list[object] = []
        self._threads: list[threading.Thread] = []

    def start(self, run: Callable[[], object]) -> None:
        thread = threading.Thread(target=lambda: self.results.append(run()), daemon=True)
        thread.start()
        self._threads.append(thread)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive(), "it waits for a turn that does not come"
        self._threads.clear()


@pytest.fixture
def threads() -> Iterator[Threads]:
    with ExitStack() as stack:
        made = Threads()
        stack.callback(made.join)
        yield made


class Work:
    """Numbers, taken and given in turns; what is done with them in between is not in turn."""

    def __init__(self, turnstile: Turnstile, count: int) -> None:
        self.given: list[int] = []
        self.taken = 0
        self._turnstile = turnstile
        self._count = count
        self._alone_taking = threading.Lock()
        self._alone_giving = threading.Lock()

    def run(self, seed: int) -> None:
        """Do a share until all is done; when the turn to take is passed on, the seed says."""
        random, turn = Random(seed), self._turnstile.turn()
        while turn.take():
            number = self._take()
            if number >= self._count:
                break
            where = random.randrange(4)
            if where == 0:
                turn.pass_on()
            self._work(random)
            if where == 1:
                turn.pass_on()
            turn.give()
            self._give(number)
            if where == 2:
                turn.pass_on()
            turn.end()
        turn.leave()

    def _take(self) -> int:
        assert self._alone_taking.acquire(blocking=False), "two take at once"
        number = self.taken
        self.taken += 1
        self._alone_taking.release()
        return number

    def _work(self, random: Random) -> None:
        for _ in range(random.choice((0, 0, 10, 300))):
            pass

    def _give(self, number: int) -> None:
        assert self._alone_giving.acquire(blocking=False), "two give at once"
        self.given.append(number)
        self._alone_giving.release()


@settings(max_examples=25, deadline=None)
@hypothesis.given(
    seeds=st.lists(st.integers(0, 1 << 32), min_size=1, max_size=6),
    count=st.integers(0, 200),
    ticket=st.sampled_from((0, LAST_TICKET - 20)),
)
def test_what_is_taken_is_given_once_and_in_order(
    seeds: list[int], count: int, ticket: int
) -> None:
    threads, work = Threads(), Work(Turnstile(ticket), count)
    for seed in seeds:
        threads.start(partial(work.run, seed))
    threads.join()
    assert work.given == list(range(count))
    assert threads.results == [None] * len(seeds)


def test_who_waits_to_take_goes_on_when_the_turn_is_passed(threads: Threads) -> None:
    turnstile = Turnstile()
    first, second = turnstile.turn(), turnstile.turn()
    assert first.take()
    threads.start(second.take)
    turnstile.await_sleepers(1)
    first.pass_on()
    threads.join()
    assert threads.results == [True]
    second.pass_on()
    assert (first.ticket, second.ticket) == (0, 1)


def test_those_who_wait_to_give_go_on_in_the_order_of_their_tickets(threads: Threads) -> None:
    turnstile = Turnstile(LAST_TICKET)
    turns = [turnstile.turn() for _ in range(4)]
    for turn in turns:
        assert turn.take()
        turn.pass_on()
    first, *others = turns
    assert [turn.ticket for turn in turns] == [LAST_TICKET, 0, 1, 2]

    given: list[int] = []

    def give(turn: Turn) -> int:
        turn.give()
        ticket = turn.ticket
        given.append(ticket)
        turn.end()
        return ticket

    for number, turn in enumerate(reversed(others), 1):
        threads.start(partial(give, turn))
        turnstile.await_sleepers(number)
    give(first)
    threads.join()
    assert given == [LAST_TICKET, 0, 1, 2]


def test_who_keeps_the_turn_to_take_may_wait_to_give(threads: Threads) -> None:
    turnstile = Turnstile()
    first, second = turnstile.turn(), turnstile.turn()
    assert first.take()
    first.pass_on()
    assert second.take()
    threads.start(second.give)
    turnstile.await_sleepers(1)
    first.give()
    first.end()
    threads.join()
    second.end()
    assert second.take()


def test_when_one_leaves_all_who_wait_to_take_leave(threads: Threads) -> None:
    turnstile = Turnstile()
    leaving = turnstile.turn()
    assert leaving.take()
    for _ in range(5):
        turn = turnstile.turn()
        threads.start(turn.take)
    turnstile.await_sleepers(5)
    leaving.leave()
    threads.join()
    assert threads.results == [False] * 5
    assert not turnstile.turn().take()


def test_who_has_a_ticket_when_another_leaves_still_gives(threads: Threads) -> None:
    turnstile = Turnstile()
    first, second, leaving = (turnstile.turn() for _ in range(3))
    for turn in (first, second):
        assert turn.take()
        turn.pass_on()
    threads.start(second.give)
    turnstile.await_sleepers(1)
    leaving.leave()
    first.give()
    first.end()
    threads.join()
    second.end()
    assert not second.take()


def test_who_is_alone_never_waits() -> None:
    turn = Turn(ffi.NULL)
    for _ in range(3):
        assert turn.take()
        turn.pass_on()
        turn.give()
        turn.end()
    turn.leave()
    assert turn.take()
