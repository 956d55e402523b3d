# SPDX-License-Identifier: MIT
"""When the TUN's queue is shortened, and when it has its length back."""

import asyncio
import errno
import os
from collections.abc import Coroutine
from typing import Any

import pytest

from wgpy.linux import txqueue
from wgpy.linux.netlink import LinkState
from wgpy.linux.tun import QUEUE_LEN
from wgpy.linux.txqueue import TxQueue

TIMEOUT_S = 10
SHORT = 40


class FakeInterface:
    """Between two looks so many frames are taken and dropped; it may refuse to be changed."""

    def __init__(self, taken: int = 100, dropped: int = 0) -> None:
        self.length = QUEUE_LEN
        self.lengths = [QUEUE_LEN]  # all that it ever had
        self.looks = 0
        self.refusals = 0
        self.refuses = False
        self.taken = taken
        self.dropped = dropped
        self._changed = asyncio.Event()

    def read(self) -> LinkState:
        self.looks += 1
        self._changed.set()
        sent, dropped = self.looks * self.taken, self.looks * self.dropped
        return LinkState(2, True, 1420, self.length, sent, dropped, False)

    def set_length(self, length: int) -> None:
        self._changed.set()
        if self.refuses:
            self.refusals += 1
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        self.length = length
        self.lengths.append(self.length)

    async def until(self, name: str, at_least: int) -> None:
        while getattr(self, name) < at_least:
            self._changed.clear()
            await self._changed.wait()

    async def until_length(self, length: int) -> None:
        while self.length != length:
            self._changed.clear()
            await self._changed.wait()


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(txqueue, "FLOOD_S", 0)
    monkeypatch.setattr(txqueue, "FLOOD_OVER_S", 0)


def run(interface: FakeInterface, wanted: int, scenario: Coroutine[Any, Any, None]) -> None:
    """Let the queue be kept as wanted during the scenario, and left then."""

    async def main() -> None:
        queue = TxQueue(interface.read, interface.set_length)
        queue.want(wanted)
        kept = asyncio.create_task(queue.keep())
        await scenario
        queue.leave()
        await kept

    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))


def test_it_is_shortened_in_a_flood_and_has_its_length_back_at_the_end() -> None:
    flooded = FakeInterface(taken=100, dropped=30)
    run(flooded, SHORT, flooded.until_length(SHORT))
    assert flooded.lengths == [QUEUE_LEN, SHORT, QUEUE_LEN]


def test_streams_that_fill_it_and_lose_little_keep_it_whole() -> None:
    busy = FakeInterface(taken=100, dropped=24)
    run(busy, SHORT, busy.until("looks", 20))
    assert busy.lengths == [QUEUE_LEN]


def test_nobody_looks_while_nothing_is_wanted() -> None:
    idle = FakeInterface(dropped=1000)
    run(idle, 0, asyncio.sleep(0))
    assert idle.looks == 0


def test_it_has_its_length_back_when_little_is_dropped_any_more() -> None:
    interface = FakeInterface(taken=100, dropped=30)

    async def flood_and_ebb() -> None:
        await interface.until_length(SHORT)
        interface.taken = 1000
        await interface.until_length(QUEUE_LEN)

    run(interface, SHORT, flood_and_ebb())
    assert interface.lengths == [QUEUE_LEN, SHORT, QUEUE_LEN]


def test_a_length_that_somebody_set_stays() -> None:
    interface = FakeInterface(taken=100, dropped=30)
    interface.length = 1000
    run(interface, SHORT, interface.until("looks", 10))
    assert interface.length == 1000


def test_without_permission_it_stays_as_it_is() -> None:
    interface = FakeInterface(taken=100, dropped=30)
    interface.refuses = True
    run(interface, SHORT, interface.until("refusals", 3))
    assert interface.lengths == [QUEUE_LEN]
