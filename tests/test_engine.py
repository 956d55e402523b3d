# SPDX-License-Identifier: MIT
"""What ends an engine, and what it leaves behind."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from wgpy import diagnosis_changes as changes_module
from wgpy.config import DeviceChange, PeerChange
from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import MessageEvent, PendingEvent
from wgpy.device import STATUSES_PER_TURN
from wgpy.diagnosis import Code, diagnose
from wgpy.engine import Engine
from wgpy.errors import DataThreadError, LinkDeletedError
from wgpy.events import DiagnosisChanged, EventStream, PeerAdded, PeerRemoved
from wgpy.linux.sockets import open_sockets
from wgpy.linux.tun import Tun
from wgpy.ports import Feature

KEY = bytes(range(32))


class DyingPlane(Plane):
    """A data thread ends while control takes events."""

    errno = 0  # of the thread that ended

    def take_events(self, limit: int = 64) -> list[PendingEvent | MessageEvent]:
        self.errno = errno.EINVAL
        return super().take_events(limit)

    @property
    def failure(self) -> OSError | None:
        return OSError(self.errno, os.strerror(self.errno)) if self.errno else None


class FakeQueue:
    """A queue of the TUN that nobody floods."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    def want(self, length: int) -> None:
        assert length == 0, "nothing is sent"

    def leave(self) -> None:
        self.left.set()

    async def keep(self) -> None:
        await self.left.wait()


class FakeLink:
    """An interface that stays as it is until it is deleted."""

    index = 7

    def __init__(self) -> None:
        self.deleted = asyncio.Event()
        self.queue = FakeQueue()

    async def watch(
        self, on_up: Callable[[], None], on_down: Callable[[], None], on_mtu: Callable[[int], None]
    ) -> NoReturn:
        on_mtu(1420)
        on_up()
        await self.deleted.wait()
        raise LinkDeletedError


@contextmanager
def running(plane: Plane, link: FakeLink) -> Iterator[Engine]:
    lent, tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(lent), closing(tun), closing(plane):
        lent.setblocking(False)
        with closing(
            Engine(plane, Tun((lent.fileno(),), Feature(0)), link, partial(open_sockets, workers=1))
        ) as engine:
            yield engine


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_reason_ends_it_and_nothing_stays_open() -> None:
    async def scenario() -> None:
        before = open_fds()
        with running(Plane(), FakeLink()) as engine:
            engine.end_because("enough")
            engine.end_because("too late")
            assert await engine.until_end() == "enough"
        await asyncio.sleep(0)  # for the tasks to end
        assert open_fds() <= before

    asyncio.run(scenario())


def test_a_deleted_interface_ends_it() -> None:
    async def scenario() -> None:
        link = FakeLink()
        with running(Plane(), link) as engine:
            link.deleted.set()
            with pytest.raises(LinkDeletedError):
                await engine.until_end()

    asyncio.run(scenario())


def test_a_data_thread_that_dies_while_events_are_taken_is_noticed() -> None:
    async def scenario() -> None:
        plane = DyingPlane()
        with running(plane, FakeLink()) as engine:
            os.eventfd_write(plane.event_fd, 1)
            with pytest.raises(DataThreadError, match="died"):
                await engine.until_end()

    asyncio.run(scenario())


def test_a_status_has_what_only_the_interface_and_the_host_know() -> None:
    async def scenario() -> None:
        with running(Plane(), FakeLink()) as engine:
            await asyncio.sleep(0)  # the link is looked at
            peers = tuple(PeerChange(number.to_bytes(32, "big")) for number in range(1, 200))
            engine.device.configure(DeviceChange(peers=peers))
            status = await engine.status("wg0")
            assert (status.interface, status.mtu, status.up) == ("wg0", 1420, True)
            assert [peer.public_key for peer in status.peers] == [p.public_key for p in peers]
            limit = Path("/proc/sys/net/core/rmem_max")
            assert status.rmem_max == (int(limit.read_text()) if limit.exists() else None)

    asyncio.run(scenario())


def test_others_have_their_turn_while_a_status_is_put_together() -> None:
    async def scenario() -> None:
        with running(Plane(), FakeLink()) as engine:
            peers = tuple(PeerChange(number.to_bytes(32, "big")) for number in range(1, 1000))
            engine.device.configure(DeviceChange(peers=peers))
            status = asyncio.create_task(engine.status("wg0"))
            turns = 0
            while not status.done():
                await asyncio.sleep(0)
                turns += 1
            assert turns > len(peers) / STATUSES_PER_TURN

    asyncio.run(scenario())


def test_a_status_says_what_is_wrong() -> None:
    async def scenario() -> None:
        with running(Plane(), FakeLink()) as engine:
            status = await engine.status("wg0")
            assert status.diagnoses == diagnose(status)
            assert Code.NO_PRIVATE_KEY in [found.code for found in status.diagnoses]

    asyncio.run(scenario())


def test_who_listens_is_told_what_is_wrong_and_when_it_is_mended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changes_module, "INTERVAL_S", 0.0)

    async def of_the_key(stream: EventStream) -> DiagnosisChanged:
        async for event in stream:
            if isinstance(event, DiagnosisChanged) and event.code == Code.NO_PRIVATE_KEY:
                return event
        raise AssertionError("it ended")

    async def scenario() -> None:
        with running(Plane(), FakeLink()) as engine:
            stream = engine.events("wg7")
            begun = await of_the_key(stream)
            assert begun.peer is None
            assert "wg set wg7 private-key" in (begun.text or "")
            engine.device.configure(DeviceChange(private_key=KEY))
            gone = await of_the_key(stream)
            assert gone == DiagnosisChanged(Code.NO_PRIVATE_KEY, None, None)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_nobody_looks_for_a_listener_that_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "INTERVAL_S", 3600.0)

    async def scenario() -> None:
        with running(Plane(), FakeLink()) as engine:
            before = asyncio.all_tasks()
            stream = engine.events("wg0")
            looking = asyncio.all_tasks() - before
            await anext(stream)  # it has looked
            stream.close()
            await asyncio.wait_for(asyncio.gather(*looking), 10)

    asyncio.run(scenario())


def test_events_go_on_to_the_end_of_the_interface() -> None:
    async def scenario() -> None:
        with running(Plane(), FakeLink()) as engine:
            stream = engine.events("wg0")
            engine.device.configure(DeviceChange(peers=(PeerChange(KEY),)))
        assert [event async for event in stream] == [PeerAdded(KEY), PeerRemoved(KEY)]

    asyncio.run(scenario())
