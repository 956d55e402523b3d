# SPDX-License-Identifier: MIT
"""A tunnel that is a program's own: no privilege, no interface of the system, no change of it.

Its network is a namespace with a keeper (wgpy.linux.namespace); the kernel's own TCP/IP serves it,
and sockets of it are sockets like any.  WireGuard and its UDP sockets are in the program.

    async with Tunnel(config) as tunnel:
        reader, writer = await tunnel.open_connection("10.0.0.1", 80)
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from wgpy.dialing import AddressInfo, connect, within
from wgpy.embedded import Embedded
from wgpy.linux.namespace import Found, Namespace
from wgpy.process import Process, Stream, start
from wgpy.settings import Config

NAME: Final = "wg0"
STREAM_LIMIT: Final = 1 << 16  # bytes; asyncio's

ClientConnected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]
Socket = socket.socket

_log = logging.getLogger(__name__)


class Tunnel(Embedded):
    """An async context manager: the tunnel exists inside of it.

    Entering raises StartError where a private network cannot be had, with what to do about it, and
    ConfigError for a configuration that cannot be applied.  What is asked of a tunnel that has
    ended raises ConnectionResetError.  Methods are for the thread of its event loop, but for
    `socket` and `socket_factory`.
    """

    def __init__(self, config: Config, *, name: str = NAME) -> None:
        """Take what it is to be; name is that of the interface, in its own network."""
        super().__init__(config, name)
        self._network: Namespace

    # ---- connections ----

    def socket(
        self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0
    ) -> Socket:
        """Return a socket of the tunnel's network; any thread may ask.  Raises OSError."""
        return self._network.socket(family, type, proto)

    def socket_factory(self, addr_info: AddressInfo) -> Socket:
        """Return a socket for an entry of getaddrinfo: what aiohttp's TCPConnector asks for."""
        family, kind, protocol, _, _ = addr_info
        made = self.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Found:
        """Look a name up through the tunnel, as loop.getaddrinfo does outside.

        Raises socket.gaierror, OSError.
        """
        name = host.encode("idna") if isinstance(host, str) else host
        service = port.decode() if isinstance(port, bytes) else port
        if name is not None and b"%" not in name and not isinstance(service, str):
            numeric = flags | socket.AI_NUMERICHOST
            with contextlib.suppress(socket.gaierror):  # it is a name
                return socket.getaddrinfo(name, service, family, type, proto, numeric)
        return await self._network.getaddrinfo(name, service, family, type, proto, flags)

    async def open_connection(
        self, host: str, port: str | int, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect through the tunnel; options are those of asyncio.open_connection (ssl, limit).

        Each address of the host is tried.  Raises socket.gaierror, OSError.
        """
        if options.get("ssl"):
            options.setdefault("server_hostname", host)
        connected = await self.create_connection((host, port))
        try:
            return await asyncio.open_connection(sock=connected, **options)
        except BaseException:
            connected.close()
            raise

    async def create_connection(
        self, address: tuple[str, str | int], *, timeout: float | None = None
    ) -> Socket:
        """Return a connected socket that does not block, for libraries that take one.

        Each address of the host is tried, within timeout (s) in all.  Raises TimeoutError,
        socket.gaierror, OSError.
        """
        return await within(timeout, connect(self, *address))

    async def start_server(
        self, client_connected: ClientConnected, host: str | None, port: int, **options: Any
    ) -> asyncio.Server:
        """Listen in the tunnel; options are those of asyncio.start_server (ssl, limit, backlog).

        It is at the first address of the host; None is any address, of IPv4.  Any port may be
        taken.  Raises socket.gaierror, OSError.
        """
        kind = {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}
        info, *_ = await self.getaddrinfo(host or "0.0.0.0", port, **kind)  # noqa: S104
        listener = self.socket_factory(info)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(info[-1])
            return await asyncio.start_server(client_connected, sock=listener, **options)
        except BaseException:
            listener.close()
            raise

    # ---- commands ----

    async def create_subprocess_exec(
        self,
        program: str,
        *args: str,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        limit: int = STREAM_LIMIT,
    ) -> Process:
        """Start a command whose only network is the tunnel, as asyncio does one outside.

        It ends with the tunnel.  Raises OSError.
        """
        return await start(
            self._network,
            (program, *args),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=None if cwd is None else os.fspath(cwd),
            environment=env,
            limit=limit,
        )

    def open_spaces(self) -> list[int]:
        """Return descriptors for setns(2): its user, mount, network and PID namespace.

        They are the caller's to close.  Raises OSError.
        """
        return self._network.open_spaces()

    # ---- from birth to death ----

    async def _assemble(self, stack: contextlib.AsyncExitStack) -> None:
        """Open all, in the order network, plane, engine."""
        self._network = Namespace()
        stack.push_async_callback(self._network.close)
        starting = asyncio.ensure_future(self._network.start(self._name, self._resolv_conf()))
        await asyncio.sleep(0)  # it is asked, and makes the network while we import the rest
        await self._join(stack, starting)

    async def _join(
        self, stack: contextlib.AsyncExitStack, starting: "asyncio.Future[None]"
    ) -> None:
        """Join network and engine.  What is imported here takes longer than to make the network."""
        import wgpy.engine
        import wgpy.exchange  # noqa: F401  which are most of it
        from wgpy.linux.addressing import equip
        from wgpy.linux.link import Link
        from wgpy.linux.sockets import open_sockets
        from wgpy.linux.tun import DEFAULT_MTU

        await starting
        network = self._network
        for lack in network.lacks:
            _log.info("not permitted in the tunnel's network: %s", lack)
        link = Link(network.tun.fds[0], (network.hints, network.requests))
        stack.enter_context(contextlib.closing(link))
        engine = self._start_engine(stack, network.tun, link, open_sockets)
        network.ended.add_done_callback(lambda _: engine.end_because("the keeper ended"))
        mtu = self._config.mtu or DEFAULT_MTU
        equip(link.netlink, self._name, self._config.addresses, mtu)
        await engine.until_up()

    def _resolv_conf(self) -> str | None:
        """Return a resolv.conf(5) of the tunnel's servers; without any the host's stays."""
        if not self._config.dns:
            return None
        lines = [f"nameserver {server}" for server in self._config.dns]
        if self._config.search_domains:
            lines.append(f"search {' '.join(self._config.search_domains)}")
        return "\n".join((*lines, ""))
