# SPDX-License-Identifier: MIT
"""A tunnel in motion: data plane, device, interface and routes joined on one event loop.

Whoever has a plane and a TUN with its link makes a tunnel of them with this, whether as a daemon or
inside a program.
"""

import asyncio
import contextlib
import errno
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from wgpy.dataplane.plane import Plane
from wgpy.device import Device
from wgpy.errors import DataThreadError, LinkDeletedError
from wgpy.events import EventHub, EventStream
from wgpy.linux.boottime import BoottimeScheduler
from wgpy.linux.routes import RouteWatch
from wgpy.linux.sockets import rmem_max
from wgpy.linux.tun import Tun
from wgpy.ports import Interface, OpenSockets
from wgpy.status import DeviceStatus, Diagnosis, PeerStatus

if TYPE_CHECKING:
    from wgpy.protocol.noise import HandshakeSecrets


class Engine:
    """Runs a device for as long as its interface exists.  Plane, TUN and link are borrowed."""

    device: Device
    scheduler: BoottimeScheduler  # of its timers, for others on the loop too

    def __init__(
        self,
        plane: Plane,
        tun: Tun,
        link: Interface,
        open_sockets: OpenSockets,
        key_log: "Callable[[HandshakeSecrets], None] | None" = None,
    ) -> None:
        """Begin, on the running loop.  The TUN has a queue for each worker.  Raises OSError."""
        self._plane = plane
        self._link = link
        loop = asyncio.get_running_loop()
        self._end: asyncio.Future[str] = loop.create_future()
        self._was_up: asyncio.Future[None] = loop.create_future()
        self._mtu: int | None = None  # not known yet
        self._hub = EventHub()
        self._watches: set[asyncio.Task[None]] = set()  # of each stream, until it ends
        with contextlib.ExitStack() as stack:
            self.scheduler = stack.enter_context(contextlib.closing(BoottimeScheduler(loop)))
            self.device = Device(
                plane, open_sockets, self.scheduler, tun.fds, tun.features, key_log=key_log
            )
            stack.callback(self._hub.close)  # after the device has told how it ended
            self.device.on_event = self._hub.tell
            stack.enter_context(contextlib.closing(self.device))
            loop.add_reader(plane.event_fd, self._on_plane_event)
            stack.callback(loop.remove_reader, plane.event_fd)
            routes = RouteWatch(self.device, lambda: link.index)
            self.device.on_suspicion = routes.suspect
            self._start(stack, link.watch(self._on_up, self.device.down, self._set_mtu))
            self._start(stack, routes.run())
            self._queue = self._start(stack, link.queue.keep())
            self._stack = stack.pop_all()

    def close(self) -> None:
        """End all traffic; the plane forgets every peer and key."""
        for task in self._watches:
            task.cancel()
        self._stack.close()
        self._end.cancel()

    def end_because(self, reason: str) -> None:
        """Let until_end return; the first reason counts."""
        if not self._end.done():
            self._end.set_result(reason)

    async def until_end(self) -> str:
        """Return why, when somebody has called end_because.

        Raises LinkDeletedError when the interface is gone, DataThreadError when a thread of the
        plane ended by itself, OSError when interface or routes cannot be watched any more.
        """
        try:
            return await self._end
        finally:
            self._link.queue.leave()
            await self._queue

    async def until_up(self) -> None:
        """Return when the interface has been up.  Raises as until_end if that will not be."""
        either: set[asyncio.Future[Any]] = {self._was_up, self._end}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._was_up.done():
            await self._end

    async def status(self, interface: str) -> DeviceStatus:
        """Return what can be seen of the interface, under this name, and of its peers.

        Others on the loop have their turn while it is put together, so the peers may not all be of
        one moment.
        """
        from wgpy.diagnosis import examine, in_order

        peers: list[PeerStatus] = []
        for piece in self.device.peer_statuses():
            peers += piece
            await asyncio.sleep(0)
        head = self.device.status_head(interface)
        status = replace(head, mtu=self._mtu, rmem_max=rmem_max(), peers=tuple(peers))
        found: list[Diagnosis] = []
        for wrong in examine(status):
            found += wrong
            await asyncio.sleep(0)
        return replace(status, diagnoses=in_order(found))

    def events(self, interface: str) -> EventStream:
        """Return a stream of what happens from now on, for its user to close.

        What is wrong is told of the interface under this name.  To look for that takes as much as a
        status a second, for each stream.
        """
        from wgpy.diagnosis_changes import tell_changes

        stream = self._hub.listen()
        task = asyncio.create_task(tell_changes(stream, partial(self.status, interface)))
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)
        return stream

    def _on_up(self) -> None:
        self.device.up()
        if not self._was_up.done():
            self._was_up.set_result(None)

    def _set_mtu(self, mtu: int) -> None:
        self._mtu = mtu
        self._plane.set_mtu(mtu)

    def _start(
        self, stack: contextlib.ExitStack, endless: Coroutine[None, None, None]
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(endless)
        task.add_done_callback(self._end_with)
        stack.callback(task.cancel)
        return task

    def _end_with(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._end.done():
            self._end.set_exception(error)

    def _on_plane_event(self) -> None:
        """Do what the plane's event_fd is readable for.

        Looks at the queue and the failure come last: taking events makes the event_fd silent, also
        about what changed, or a data thread that ended, just then.
        """
        self.device.on_events()
        self._link.queue.want(self._plane.tun_queue())
        if self._plane.failure is not None:
            self._fail(_cause_of_death(self._plane.failure))


def _cause_of_death(failure: OSError) -> Exception:
    """Return what became of the interface when a data thread ended by itself."""
    if failure.errno == errno.EBADFD:
        return LinkDeletedError()
    return DataThreadError(f"a data thread died: {failure.strerror}")
