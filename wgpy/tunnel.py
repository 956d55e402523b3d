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
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from wgpy.config import DeviceChange
from wgpy.errors import LinkDeletedError, WgpyError
from wgpy.linux.namespace import Found, Namespace
from wgpy.process import Process, Stream, start
from wgpy.settings import Config

if TYPE_CHECKING:
    from wgpy.dataplane.plane import Plane
    from wgpy.endpoints import EndpointFinder
    from wgpy.engine import Engine
    from wgpy.events import EventStream
    from wgpy.status import DeviceStatus

NAME: Final = "wg0"
STREAM_LIMIT: Final = 1 << 16  # bytes; asyncio's

ClientConnected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]
Socket = socket.socket
AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]  # as of getaddrinfo

_log = logging.getLogger(__name__)


class Tunnel:
    """An async context manager: the tunnel exists inside of it.

    Entering raises StartError where a private network cannot be had, with what to do about it, and
    ConfigError for a configuration that cannot be applied.  What is asked of a tunnel that has
    ended raises ConnectionResetError.  Methods are for the thread of its event loop, but for
    `socket` and `socket_factory`.
    """

    def __init__(self, config: Config, *, name: str = NAME) -> None:
        """Take what it is to be; name is that of the interface, in its own network."""
        self._config = config
        self._name = name
        self._network: Namespace
        self._plane: Plane
        self._engine: Engine
        self._finder: EndpointFinder
        self._life: asyncio.Task[str]

    async def __aenter__(self) -> "Tunnel":
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
        """End it: sockets of it go silent, commands in it are killed."""
        self._engine.end_because("closed")
        await asyncio.wait({self._life})
        if not self._life.cancelled():
            self._life.exception()  # which until_end raises, for who asks; the log has it

    async def until_end(self) -> str:
        """Return why it ended, when it has.

        Raises LinkDeletedError if a command deleted its interface, DataThreadError, OSError.
        """
        return await asyncio.shield(self._life)

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
        connected = await self._connect(host, port)
        try:
            return await asyncio.open_connection(sock=connected, **options)
        except BaseException:
            connected.close()
            raise

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

    async def _connect(self, host: str, port: str | int) -> Socket:
        loop = asyncio.get_running_loop()
        failure = OSError(f"{host} has no address")
        for info in await self.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                connecting = self.socket_factory(info)
            except OSError as error:  # a family that the host lacks
                failure = error
                continue
            try:
                await loop.sock_connect(connecting, info[-1])
            except OSError as error:
                connecting.close()
                failure = error
            except BaseException:
                connecting.close()
                raise
            else:
                return connecting
        raise failure

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

    # ---- WireGuard ----

    async def configure(self, change: DeviceChange) -> None:
        """Apply a change, whole or not at all.  Raises ConfigError.

        Who is given an endpoint here is at that one, whatever name the peer had.
        """
        self._engine.device.configure(change)
        if change.replace_peers:
            for peer in self._config.peers:
                self._finder.forget(peer.public_key)
        for section in change.peers:
            if section.remove or section.endpoint is not None:
                self._finder.forget(section.public_key)

    async def status(self) -> "DeviceStatus":
        """Return what can be seen of the tunnel and its peers."""
        return await self._engine.status(self._name)

    def events(self) -> "EventStream":
        """Return a stream of what happens from now on, for its user to close."""
        return self._engine.events(self._name)

    # ---- from birth to death ----

    async def _live(self, ready: "asyncio.Future[None]") -> str:
        """Open all, in the order network, plane, engine; close it in the reverse when it ends."""
        async with contextlib.AsyncExitStack() as stack:
            self._network = Namespace()
            stack.push_async_callback(self._network.close)
            starting = asyncio.ensure_future(self._network.start(self._name, self._resolv_conf()))
            await asyncio.sleep(0)  # it is asked, and makes the network while we import the rest
            await self._assemble(stack, starting)
            ready.set_result(None)
            try:
                return await self._engine.until_end()
            except (WgpyError, OSError) as error:
                deleted = isinstance(error, LinkDeletedError)
                _log.error("the tunnel ends: %s", "interface deleted" if deleted else error)
                raise

    async def _assemble(
        self, stack: contextlib.AsyncExitStack, starting: "asyncio.Future[None]"
    ) -> None:
        """Join network and engine.  What is imported here takes longer than to make the network."""
        from wgpy.dataplane.plane import Plane
        from wgpy.engine import Engine
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
        self._plane = stack.enter_context(contextlib.closing(Plane()))
        self._engine = Engine(self._plane, network.tun, link, open_sockets)
        stack.enter_context(contextlib.closing(self._engine))
        network.ended.add_done_callback(lambda _: self._engine.end_because("the keeper ended"))
        self._find_peers(stack)
        async with link.netlink() as netlink:
            mtu = self._config.mtu or DEFAULT_MTU
            await equip(netlink, self._name, self._config.addresses, mtu)
        await self._engine.until_up()

    def _find_peers(self, stack: contextlib.AsyncExitStack) -> None:
        """Configure the device, and look up where those peers are whose endpoints are names."""
        from wgpy.endpoints import EndpointFinder, literal

        device, scheduler = self._engine.device, self._engine.scheduler
        finder = EndpointFinder(device.configure, device.handshake, scheduler, self._plane.now_ns)
        self._finder = stack.enter_context(contextlib.closing(finder))
        hosts = {one.public_key: one.endpoint for one in self._config.peers if one.endpoint}
        known = {key: at for key, host in hosts.items() if (at := literal(host)) is not None}
        device.configure(self._config.change(known))
        for key in hosts.keys() - known.keys():
            finder.watch(key, hosts[key])

    def _resolv_conf(self) -> str | None:
        """Return a resolv.conf(5) of the tunnel's servers; without any the host's stays."""
        if not self._config.dns:
            return None
        lines = [f"nameserver {server}" for server in self._config.dns]
        if self._config.search_domains:
            lines.append(f"search {' '.join(self._config.search_domains)}")
        return "\n".join((*lines, ""))
