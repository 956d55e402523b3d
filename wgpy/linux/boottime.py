# SPDX-License-Identifier: MIT
"""Timers of the control loop by CLOCK_BOOTTIME, which goes on while the machine is suspended.

asyncio's own go by CLOCK_MONOTONIC, which stands still meanwhile: each deadline would come late by
the time slept, keys would outlive REJECT_AFTER_TIME, and a NAT would have forgotten us.

One timerfd is set to the earliest deadline, in absolute time.  See timerfd_create(2).
"""

import asyncio
import os
import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

from wgpy.linux.libc import arm_timer, boottime_timer

FEW: Final = 64  # so many may wait before it is worth while to look for cancelled ones
# Called before others on the loop have their turn.  Each may be a handshake, thus a few ms in all.
CALLS_PER_TURN: Final = 16


class Timer:
    """A call that is to come."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback  # None: called or cancelled

    def cancel(self) -> None:
        """Do not call.  Nothing happens if it has been called or cancelled."""
        self.callback = None


class BoottimeScheduler:
    """Calls back on an event loop, at times in nanoseconds of CLOCK_BOOTTIME, the plane's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to watch the clock.  Raises OSError."""
        self._loop = loop
        # Cancelled ones stay in here: call_at sees to it that they do not become many.
        self._waiting: list[tuple[int, int, Timer]] = []  # heap: when_ns, number, timer
        self._count = 0  # so many were ever scheduled; keeps equal times in order
        self._crowd = FEW  # len(_waiting) at which to throw out the cancelled ones
        self._armed_ns: int | None = None  # what the timerfd is set to
        self._fd = boottime_timer()
        loop.add_reader(self._fd, self._expire)

    def close(self) -> None:
        """Call nobody any more, and take no calls."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._armed_ns = None
        self._waiting.clear()

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        """Call back at when_ns or just after, at the next turn of the loop if that is past.

        Of very many that are due at once, most wait for later turns.  What the callback raises
        goes to the loop's exception handler.  Raises OSError after close().
        """
        if len(self._waiting) >= self._crowd:
            self._throw_out_cancelled()
        timer = Timer(callback)
        heappush(self._waiting, (when_ns, self._count, timer))
        self._count += 1
        if self._armed_ns is None or when_ns < self._armed_ns:
            self._arm(when_ns)
        return timer

    def _throw_out_cancelled(self) -> None:
        """Make room: at most half of what may then wait is waiting, so this is seldom."""
        self._waiting = [entry for entry in self._waiting if entry[2].callback is not None]
        heapify(self._waiting)
        self._crowd = max(FEW, 2 * len(self._waiting))

    def _expire(self) -> None:
        """Call what is due.  What callbacks schedule is for the next turn, however early.

        So is what is too much for this one: the timerfd is set to the past then.
        """
        try:
            for timer in self._take_due(time.clock_gettime_ns(time.CLOCK_BOOTTIME)):
                self._call(timer)
        finally:
            self._arm_for_next()

    def _take_due(self, now_ns: int) -> list[Timer]:
        due: list[Timer] = []
        while self._waiting and self._waiting[0][0] <= now_ns and len(due) < CALLS_PER_TURN:
            timer = heappop(self._waiting)[2]
            if timer.callback is not None:
                due.append(timer)
        return due

    def _call(self, timer: Timer) -> None:
        callback, timer.callback = timer.callback, None
        if callback is None:
            return
        try:
            callback()
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": f"Exception in timer {callback!r}", "exception": error}
            )

    def _arm_for_next(self) -> None:
        while self._waiting and self._waiting[0][2].callback is None:
            heappop(self._waiting)
        self._arm(self._waiting[0][0] if self._waiting else None)

    def _arm(self, when_ns: int | None) -> None:
        """Set the timerfd; None is never.  It is not readable any more, unless when_ns is past."""
        arm_timer(self._fd, when_ns)
        self._armed_ns = when_ns
