# SPDX-License-Identifier: MIT
"""Timers by a real timerfd, on a real loop, in milliseconds."""

import asyncio
import gc
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from wgpy.linux.boottime import CALLS_PER_TURN, BoottimeScheduler, Timer

MS = 1_000_000
FAR = 3600 * 1000 * MS
PAST = 5
TIMEOUT_S = 10


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@contextmanager
def scheduling() -> Iterator[BoottimeScheduler]:
    with closing(BoottimeScheduler(asyncio.get_running_loop())) as scheduler:
        yield scheduler


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, TIMEOUT_S))


def timerfds() -> list[Path]:
    """What the kernel tells of each that this process has open."""
    links = Path("/proc/self/fd").iterdir()
    open_ones = [path.name for path in links if path.is_symlink() and "[timerfd]" in _target(path)]
    return [Path("/proc/self/fdinfo", name) for name in open_ones]


def _target(path: Path) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # what listed the directory
        return ""


async def come_round(scheduler: BoottimeScheduler, when_ns: int) -> None:
    """Until all that is due at when_ns has been called."""
    reached = asyncio.Event()
    scheduler.call_at(when_ns, reached.set)
    await reached.wait()


def test_the_clock_is_the_one_that_goes_on_during_a_suspend() -> None:
    async def scenario() -> None:
        with scheduling():
            (timerfd,) = timerfds()
            assert f"clockid: {time.CLOCK_BOOTTIME}\n" in timerfd.read_text()

    run(scenario())


def test_calls_come_in_the_order_of_their_times_and_never_early() -> None:
    async def scenario() -> None:
        calls: list[tuple[int, int]] = []  # when it was to be, when it was
        with scheduling() as scheduler:
            begun_ns = now_ns()

            def note(when_ns: int) -> Callable[[], None]:
                return lambda: calls.append((when_ns, now_ns()))

            for after_ms in (3, 1, 4, 1, 5, 2):
                when_ns = begun_ns + after_ms * MS
                scheduler.call_at(when_ns, note(when_ns))
            await come_round(scheduler, begun_ns + 6 * MS)
        assert [(due_ns - begun_ns) // MS for due_ns, _ in calls] == [1, 1, 2, 3, 4, 5]
        assert all(due_ns <= came_ns for due_ns, came_ns in calls)

    run(scenario())


def test_calls_for_the_same_time_come_in_the_order_of_the_requests() -> None:
    async def scenario() -> None:
        order: list[int] = []
        with scheduling() as scheduler:
            when_ns = now_ns() + MS
            for number in range(5):
                scheduler.call_at(when_ns, partial(order.append, number))
            await come_round(scheduler, when_ns)
        assert order == [0, 1, 2, 3, 4]

    run(scenario())


@pytest.mark.parametrize("when_ns", [PAST, 0, -1])
def test_a_time_that_is_past_is_called_back_at_the_next_turn_and_not_before(when_ns: int) -> None:
    async def scenario() -> None:
        order: list[str] = []
        with scheduling() as scheduler:
            scheduler.call_at(now_ns() + FAR, lambda: order.append("far"))
            scheduler.call_at(when_ns, lambda: order.append("past"))
            order.append("returned")
            await come_round(scheduler, when_ns)
        assert order == ["returned", "past"]

    run(scenario())


def test_a_callback_that_always_asks_for_the_past_leaves_the_others_their_turn() -> None:
    async def scenario() -> None:
        again = 0
        with scheduling() as scheduler:

            def greedy() -> None:
                nonlocal again
                again += 1
                scheduler.call_at(PAST, greedy)

            greedy()
            await come_round(scheduler, now_ns() + MS)
        assert again > 1

    run(scenario())


def test_thousands_that_are_due_at_once_leave_the_loop_its_turns() -> None:
    async def scenario() -> None:
        called = 0
        between: list[int] = []  # calls from one turn of the loop to the next
        with scheduling() as scheduler:
            loop = asyncio.get_running_loop()

            def call() -> None:
                nonlocal called
                called += 1

            def turn(called_before: int) -> None:
                between.append(called - called_before)
                loop.call_soon(turn, called)

            for number in range(2000):
                timer = scheduler.call_at(PAST, call)
                if number % 2:
                    timer.cancel()
            loop.call_soon(turn, 0)
            await come_round(scheduler, PAST)
        assert called == sum(between) == 1000
        assert max(between) <= CALLS_PER_TURN

    run(scenario())


def test_what_is_cancelled_is_not_called() -> None:
    async def scenario() -> None:
        called: list[str] = []
        with scheduling() as scheduler:
            begun_ns = now_ns()
            first = scheduler.call_at(begun_ns + MS, lambda: called.append("first"))
            scheduler.call_at(begun_ns + 2 * MS, lambda: called.append("second"))
            third = scheduler.call_at(begun_ns + 3 * MS, lambda: called.append("third"))
            for timer in (first, third, third):
                timer.cancel()
            await come_round(scheduler, begun_ns + 4 * MS)
        first.cancel()
        assert called == ["second"]

    run(scenario())


def test_a_callback_may_cancel_what_is_due_with_it_and_schedule_more() -> None:
    async def scenario() -> None:
        called: list[str] = []
        with scheduling() as scheduler:

            def first() -> None:
                called.append("first")
                second.cancel()
                scheduler.call_at(now_ns() + MS, done.set)

            done = asyncio.Event()
            scheduler.call_at(PAST, first)
            second = scheduler.call_at(PAST, lambda: called.append("second"))
            await done.wait()
        assert called == ["first"]

    run(scenario())


def test_an_earlier_time_overtakes_the_one_that_is_waited_for() -> None:
    async def scenario() -> None:
        with scheduling() as scheduler:
            far = scheduler.call_at(now_ns() + FAR, lambda: None)
            await come_round(scheduler, now_ns() + MS)
            far.cancel()
            await come_round(scheduler, now_ns() + MS)

    run(scenario())


def test_a_callback_that_raises_is_reported_and_the_others_are_called() -> None:
    async def scenario() -> None:
        reported: list[BaseException | None] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context.get("exception")))
        error = RuntimeError("callback")

        def fail() -> None:
            raise error

        with scheduling() as scheduler:
            scheduler.call_at(PAST, fail)
            await come_round(scheduler, PAST)
            await come_round(scheduler, now_ns() + MS)
        assert reported == [error]

    run(scenario())


def test_many_peers_that_put_off_their_deadlines_take_a_bounded_number_of_timers() -> None:
    peers, rounds = 10_000, 10

    async def scenario() -> None:
        with scheduling() as scheduler:
            timers = [scheduler.call_at(now_ns() + FAR, lambda: None) for _ in range(peers)]
            for _ in range(rounds):
                for number, timer in enumerate(timers):
                    timer.cancel()
                    timers[number] = scheduler.call_at(now_ns() + FAR, lambda: None)
            kept = sum(isinstance(thing, Timer) for thing in gc.get_objects())
            assert peers <= kept <= 2 * peers + 1

    run(scenario())


def test_a_cancelled_timer_lets_go_of_its_callback_at_once() -> None:
    class Owner:
        def __del__(self) -> None:
            gone.append("owner")

        def callback(self) -> None:
            pass

    gone: list[str] = []

    async def scenario() -> None:
        with scheduling() as scheduler:
            scheduler.call_at(now_ns() + FAR, Owner().callback).cancel()
            assert gone == ["owner"]

    run(scenario())


def test_after_close_nobody_is_called_nothing_is_open_and_cancelling_does_no_harm() -> None:
    async def scenario() -> None:
        called: list[str] = []
        with scheduling() as scheduler:
            due = scheduler.call_at(PAST, lambda: called.append("due"))
        assert timerfds() == []
        due.cancel()
        with pytest.raises(OSError, match="Bad file descriptor"):
            scheduler.call_at(PAST, lambda: called.append("late"))
        with scheduling() as another:
            await come_round(another, PAST)
        assert called == []

    run(scenario())
