# SPDX-License-Identifier: MIT
"""A proxy from birth to death.

Everything is opened in the order log, tunnel, relay, listening sockets, and closed in the reverse,
whether a signal ends it or the tunnel's own end.
"""

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from wgpy.daemon.logs import Log, foreground_sink
from wgpy.dialing import HostNetwork, Network, connect, within
from wgpy.errors import ConfigError, DataThreadError, LinkDeletedError, StartError
from wgpy.linux.libc import forbid_core_dumps
from wgpy.log import NOTICE
from wgpy.proxy.datagrams import DatagramForward, associate, deepen
from wgpy.proxy.limits import Limits
from wgpy.proxy.options import ANY, DATAGRAMS_IDLE_S, Forward, Options
from wgpy.proxy.requests import Conversation, Request, Target
from wgpy.proxy.service import CONNECT_S, Client, Converse, Service, negotiate
from wgpy.proxy.socks5 import Socks5
from wgpy.relay.relay import Relay
from wgpy.tunnel import Tunnel

END_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
BACKLOG: Final = 128
# Descriptors of a connection: its sockets and two pipes; of the rest, the tunnel's among them.
DESCRIPTORS_PER_CONNECTION: Final = 6
DESCRIPTORS: Final = 64

_log = logging.getLogger(__name__)


def run(options: Options, log_level: int, tell: Callable[[str], None]) -> None:
    """Run the proxy until SIGTERM or SIGINT; `tell` gets one line that says where it listens.

    Raises StartError if it cannot start, or the tunnel ends.
    """
    with suppress(OSError):  # not even that is permitted
        forbid_core_dumps()  # keys are in the memory
    with closing(Log("proxy", log_level)) as log:
        log.start(foreground_sink(os.environ.get("JOURNAL_STREAM", "")))
        fit = fit_descriptors(options.connections_max)
        if fit < options.connections_max:
            _log.log(NOTICE, "no more than %d connections: see ulimit -n", fit)
        try:
            asyncio.run(_until_signal(serve(replace(options, connections_max=fit), tell)))
        except LinkDeletedError:
            raise StartError("the tunnel's interface was deleted") from None
        except (ConfigError, DataThreadError) as error:
            raise StartError(str(error)) from error
        except OSError as error:
            raise StartError(error.strerror or str(error)) from error


def fit_descriptors(connections: int) -> int:
    """Return how many connections, of so many, can be open at a time, and permit them to us.

    Raises StartError if there can be none.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        connections = min(connections, (hard - DESCRIPTORS) // DESCRIPTORS_PER_CONNECTION)
    if connections < 1:
        raise StartError(f"there may be {hard} descriptors, which is too few (see ulimit -n)")
    count = DESCRIPTORS + DESCRIPTORS_PER_CONNECTION * connections
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    return connections


async def _until_signal(serving: Coroutine[Any, Any, None]) -> None:
    """Run it; a signal ends it in order, and those that follow change nothing of that."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(serving)
    signalled = asyncio.Event()
    for number in END_SIGNALS:
        loop.add_signal_handler(number, signalled.set)
    waiting = loop.create_task(signalled.wait())
    either: set[asyncio.Future[Any]] = {task, waiting}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    await asyncio.wait({task})
    waiting.cancel()
    if not task.cancelled():
        task.result()


async def serve(options: Options, tell: Callable[[str], None]) -> None:
    """Serve until the tunnel ends.  Raises StartError, OSError, WgpyError."""
    async with AsyncExitStack() as stack:
        tunnel = await stack.enter_async_context(Tunnel(options.config))
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def fail(error: OSError) -> None:
            if not failed.done():
                failed.set_exception(error)

        streams, datagrams = (
            stack.enter_context(closing(Relay(options.connections_max, idle_s, fail)))
            for idle_s in (options.idle_s, DATAGRAMS_IDLE_S)
        )
        proxy = Proxy(options, tunnel, streams, datagrams)
        stack.push_async_callback(proxy.close)
        tell("listening: " + ", ".join(await proxy.listen()))
        gc.freeze()  # what is here stays
        ended = asyncio.ensure_future(tunnel.until_end())
        either: set[asyncio.Future[Any]] = {ended, failed}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            failed.result()
        raise StartError(f"the tunnel has ended: {ended.result()}")


class Proxy:
    """All places where it listens."""

    def __init__(self, options: Options, tunnel: Tunnel, streams: Relay, datagrams: Relay) -> None:
        """Listen nowhere yet."""
        self._options = options
        self._tunnel = tunnel
        self._streams = streams
        self._datagrams = datagrams
        self._host = HostNetwork()
        self._limits = Limits(options.connections_max, options.client_max)
        self._services: list[Service | DatagramForward] = []

    async def close(self) -> None:
        """Listen no more, and hang up on those who are not the relay's."""
        for service in self._services:
            await service.close()

    async def listen(self) -> list[str]:
        """Listen everywhere; return where, in words.  Raises StartError."""
        options = self._options
        told = [self._serve("socks5", at, self._socks5) for at in options.socks5]
        if options.http:
            from wgpy.proxy.http_connect import HttpConnect  # which takes h11

            http = partial(self._negotiate, HttpConnect)
            told += [self._serve("http", at, http) for at in options.http]
        for forward in options.local:
            told.append(self._forward("-L", forward, self._host, self._tunnel))
        for forward in options.remote:
            told.append(self._forward("-R", forward, self._tunnel, self._host))
        return told

    def _serve(self, name: str, at: Target, converse: Converse) -> str:
        sock = open_listener(self._host, at)
        self._services.append(Service(sock, self._limits, self._streams, converse))
        return f"{name} {_where(sock)}"

    def _forward(self, name: str, forward: Forward, here: Network, there: Network) -> str:
        kind = socket.SOCK_DGRAM if forward.is_udp else socket.SOCK_STREAM
        sock = open_listener(here, forward.at, kind)

        async def reach() -> socket.socket:
            return await connect(there, forward.to.host, forward.to.port, kind)

        async def converse(_: Client) -> socket.socket:
            return await within(CONNECT_S, reach())

        self._services.append(
            DatagramForward(sock, self._limits, self._datagrams, here, reach)
            if forward.is_udp
            else Service(sock, self._limits, self._streams, converse)
        )
        return f"{name} {_where(sock)} to {forward.to}"

    async def _socks5(self, client: Client) -> socket.socket | None:
        return await self._negotiate(Socks5, client)

    async def _negotiate(
        self, protocol: Callable[..., Conversation], client: Client
    ) -> socket.socket | None:
        return await negotiate(
            client, protocol(self._options.credentials), self._dial, self._associate
        )

    async def _associate(
        self, client: Client, request: Request, granted: Callable[[Target], bytes]
    ) -> None:
        await associate(client, request, granted, self._tunnel, self._datagrams)

    async def _dial(self, target: Target) -> socket.socket:
        return await connect(self._tunnel, target.host, target.port)


def open_listener(network: Network, at: Target, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """Return a socket that listens there, or takes datagrams.  Raises StartError."""
    try:
        return _open_listener(network, at, kind)
    except OSError as error:
        if at.host == ANY and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return open_listener(network, Target("0.0.0.0", at.port), kind)  # noqa: S104
        raise StartError(f"cannot listen on {at}: {error.strerror}") from error


def _open_listener(network: Network, at: Target, kind: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in at.host else socket.AF_INET
    sock = network.socket_factory((family, kind, 0, "", ()))
    try:
        if at.host == ANY:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((at.host, at.port))
            sock.listen(BACKLOG)
        else:  # afterwards: others of ours may be bound there, but what was there before may not
            sock.bind((at.host, at.port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            deepen(sock)
    except OSError:
        sock.close()
        raise
    return sock


def _where(sock: socket.socket) -> Target:
    host, port, *_ = sock.getsockname()
    return Target(host, port)
