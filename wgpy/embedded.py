# SPDX-License-Identifier: MIT
"""The life of an interface inside a program, whether it is private or the system's.

It is opened, runs, and ends by one path, whatever the cause: closed, deleted, or a dead data
thread.
"""

import asyncio
import contextlib
import errno
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from wgpy.config import DeviceChange
from wgpy.errors import LinkDeletedError, WgpyError
from wgpy.settings import Config

if TYPE_CHECKING:
    from wgpy.endpoints import EndpointFinder
    from wgpy.engine import Engine
    from wgpy.events import EventStream
    from wgpy.linux.link import Link
    from wgpy.linux.tun import Tun
    from wgpy.ports import OpenSockets
    from wgpy.status import DeviceStatus

Self = TypeVar("Self", bound="Embedded")

_log = logging.getLogger(__name__)


class Embedded(ABC):
    """An async context manager: the interface exists inside of it.

    Methods are for the thread of its event loop, unless they say otherwise.  What is asked of one
    that has ended raises ConnectionResetError.
    """

    def __init__(self, config: Config, name: str) -> None:
        """Take what it is to be."""
        self._config = config
        self._name = name
        self._runs = False  # between the engine's start and its end
        self._engine: Engine
        self._finder: EndpointFinder
        self._life: asyncio.Task[str]

    async def __aenter__(self: Self) -> Self:
        """Make it.  Raises StartError, ConfigError, OSError."""
        ready = asyncio.get_running_loop().create_future()
        self._life = asyncio.create_task(self._live(ready))
        either: set[asyncio.Future[Any]] = {ready, self._life}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._life.cancel()
            await asyncio.wait({self._life})
            raise
        if not ready.done():
            await self._life  # which raises
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it; nothing of it is left."""
        self._engine.end_because("closed")
        await asyncio.wait({self._life})
        if not self._life.cancelled():
            self._life.exception()  # which until_end raises, for who asks; the log has it

    async def until_end(self) -> str:
        """Return why it ended, when it has.

        Raises LinkDeletedError if somebody deleted its interface, DataThreadError, OSError.
        """
        return await asyncio.shield(self._life)

    # ---- WireGuard ----

    async def configure(self, change: DeviceChange) -> None:
        """Apply a change, whole or not at all.  Raises ConfigError.

        Who is given an endpoint here is at that one, whatever name the peer had.
        """
        for _ in self._changing(change):
            pass

    async def status(self) -> "DeviceStatus":
        """Return what can be seen of the interface and its peers."""
        return await self._running().status(self._name)

    def events(self) -> "EventStream":
        """Return a stream of what happens from now on, for its user to close."""
        return self._running().events(self._name)

    def _running(self) -> "Engine":
        if not self._runs:
            raise ConnectionResetError(errno.ECONNRESET, "it has ended")
        return self._engine

    def _stop(self) -> None:
        self._runs = False

    def _changing(self, change: DeviceChange) -> Iterator[None]:
        """Apply a change in pieces; an endpoint in it holds from the first of them."""
        pieces = self._running().device.changing(change)
        next(pieces, None)
        self._forget_names(change)
        yield from pieces

    def _forget_names(self, change: DeviceChange) -> None:
        if change.replace_peers:
            for peer in self._config.peers:
                self._finder.forget(peer.public_key)
        for section in change.peers:
            if section.remove or section.endpoint is not None:
                self._finder.forget(section.public_key)

    # ---- from birth to death ----

    @abstractmethod
    async def _assemble(self, stack: contextlib.AsyncExitStack) -> None:
        """Open all for as long as the stack, start the engine, and return when it is up."""

    async def _live(self, ready: "asyncio.Future[None]") -> str:
        """Open all; close it in the reverse order when it ends."""
        async with contextlib.AsyncExitStack() as stack:
            await self._assemble(stack)
            await self._finder.looked()  # what connects first would find no host to send to
            ready.set_result(None)
            try:
                return await self._engine.until_end()
            except (WgpyError, OSError) as error:
                deleted = isinstance(error, LinkDeletedError)
                _log.error("the tunnel ends: %s", "interface deleted" if deleted else error)
                raise

    def _start_engine(
        self,
        stack: contextlib.AsyncExitStack,
        tun: "Tun",
        link: "Link",
        open_sockets: "OpenSockets",
        *,
        with_fwmark: bool = False,
    ) -> "Engine":
        """Run an engine with this configuration; the link is not up yet."""
        from wgpy.dataplane.plane import Plane
        from wgpy.endpoints import EndpointFinder
        from wgpy.engine import Engine

        plane = stack.enter_context(contextlib.closing(Plane(workers=len(tun.fds))))
        self._engine = Engine(plane, tun, link, open_sockets)
        stack.enter_context(contextlib.closing(self._engine))
        device, scheduler = self._engine.device, self._engine.scheduler
        finder = EndpointFinder(device.configure, device.handshake, scheduler, plane.now_ns)
        self._finder = stack.enter_context(contextlib.closing(finder))
        self._runs = True
        stack.callback(self._stop)
        self._find_peers(with_fwmark)
        return self._engine

    def _find_peers(self, with_fwmark: bool) -> None:
        """Configure the device, and look up where those peers are whose endpoints are names."""
        from wgpy.endpoints import literal

        hosts = {one.public_key: one.endpoint for one in self._config.peers if one.endpoint}
        known = {key: at for key, host in hosts.items() if (at := literal(host)) is not None}
        self._engine.device.configure(self._config.change(known, with_fwmark=with_fwmark))
        for key in hosts.keys() - known.keys():
            self._finder.watch(key, hosts[key])
