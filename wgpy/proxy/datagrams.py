# SPDX-License-Identifier: MIT
"""Datagrams: associations of SOCKS5 clients, and forwards.

The relay moves them between connected sockets.  The first of a client come here, for a socket to be
connected to it, and so do those of an association that go to names.
"""

import asyncio
import itertools
import logging
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final

from wgpy.dialing import AddressInfo, Network, within
from wgpy.errors import BadRequest
from wgpy.proxy.limits import Limits
from wgpy.proxy.requests import Request, Target, is_address
from wgpy.proxy.service import CONNECT_S, Client, until_gone
from wgpy.proxy.socks5 import read_datagram_untrusted
from wgpy.relay.relay import End, Relay

DATAGRAM_MAX: Final = 65535  # bytes
BATCH: Final = 64  # read in a turn of the loop
WAITING_MAX: Final = 1 << 15  # bytes that wait for a socket, or for the address of a name
NAMES_MAX: Final = 16  # that an association looks up at a time, and that it knows
BUFFER: Final = 4 << 20  # bytes that may wait for the relay; rmem_max permits less

Address = Any  # of a socket's family
_log = logging.getLogger(__name__)


def read(sock: socket.socket, most: int | None = BATCH) -> Iterator[tuple[bytes, Address]]:
    """Yield what is there, at most so many; ICMP's word on datagrams sent is passed over."""
    for _ in itertools.count() if most is None else range(most):
        try:
            yield sock.recvfrom(DATAGRAM_MAX)
        except BlockingIOError:
            break
        except OSError:
            continue


def deepen(sock: socket.socket) -> None:
    """Let bursts wait in its buffers."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)


class Waiting:
    """Datagrams that cannot go on yet; what is too much is dropped."""

    def __init__(self) -> None:
        self._datagrams: deque[bytes] = deque()
        self._size = 0

    def put(self, data: bytes) -> None:
        """Let one wait."""
        if self._size + len(data) <= WAITING_MAX:
            self._size += len(data)
            self._datagrams.append(data)

    def take(self) -> Iterator[bytes]:
        """Yield them; they wait no more."""
        while self._datagrams:
            data = self._datagrams.popleft()
            self._size -= len(data)
            yield data


def _info(family: int) -> AddressInfo:
    return (family, socket.SOCK_DGRAM, 0, "", ())


# ---- associations ----


class Association:
    """What a client of SOCKS5 sends and gets, until its connection ends (RFC 1928, 7)."""

    def __init__(self, client: Client, request: Request, tunnel: Network, relay: Relay) -> None:
        """Open what it takes.  Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._tunnel = tunnel
        self._relay = relay
        self._number: int | None = None
        self._names: dict[Target, _Name] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        with ExitStack() as stack:
            self._outer = stack.enter_context(_beside(client))
            self._inner = [
                stack.enter_context(tunnel.socket_factory(_info(family)))
                for family in (socket.AF_INET, socket.AF_INET6)
            ]
            self._inner[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            for sock in (self._outer, *self._inner):
                deepen(sock)
            to_names, self._from_names = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._to_names = stack.enter_context(to_names)
            stack.enter_context(self._from_names)
            for sock in (self._to_names, self._from_names):
                sock.setblocking(False)
            self._stack = stack.pop_all()
        self._peer = (_unmapped(client.address), request.target.port)
        self._loop.add_reader(self._outer, self._on_first)
        self._loop.add_reader(self._from_names, self._on_names)

    @property
    def bound(self) -> Target:
        """Where it takes the client's datagrams."""
        host, port, *_ = self._outer.getsockname()
        return Target(host, port)

    async def close(self) -> None:
        """End it, and wait until the relay has let go of its sockets."""
        for task in self._tasks:
            task.cancel()
        self._loop.remove_reader(self._from_names)
        self._loop.remove_reader(self._outer)
        if self._number is not None and not self.ended.done():
            self._relay.drop(self._number)
            await asyncio.wait({self.ended})
        self._stack.close()

    def _on_first(self) -> None:
        """Connect to the client by the first datagram that is its own."""
        for data, source in read(self._outer):
            if not self._is_client(source):
                continue
            self._outer.connect(source)
            self._peer = (source[0], source[1])
            self._loop.remove_reader(self._outer)
            self._send(data)
            for later, other in read(self._outer, None):  # they came before it was connected
                if self._is_client(other):
                    self._send(later)
            self._join()
            return

    def _join(self) -> None:
        try:
            self._number = self._relay.add_datagrams(
                self._outer, self._inner, self._on_end, self._to_names
            )
        except OSError as error:
            _log.debug("an association ends: %s", error)
            self.ended.set_result(None)

    def _is_client(self, source: Address) -> bool:
        host, port = self._peer
        return bool(source[0] == host and port in (0, source[1]))

    def _on_end(self, end: End) -> None:
        _log.debug("an association: %d and %d bytes, %d lost", end.sent, end.received, end.lost)
        self.ended.set_result(None)

    def _on_names(self) -> None:
        for data, _ in read(self._from_names):
            self._send(data)

    def _send(self, data: bytes) -> None:
        """Send one of the client's datagrams, when its target's address is known."""
        try:
            target, payload = read_datagram_untrusted(data)
        except BadRequest:
            return
        if is_address(target.host):
            self._send_to((target.host, target.port), payload)
            return
        name = self._names.get(target) or self._begin_look_up(target)
        if name is None:
            return
        if name.address is None:
            name.waiting.put(payload)
        else:
            self._send_to(name.address, payload)

    def _begin_look_up(self, target: Target) -> "_Name | None":
        """Return None if too many others are looked up."""
        if len(self._tasks) >= NAMES_MAX:
            return None
        if len(self._names) >= NAMES_MAX:
            del self._names[next(iter(self._names))]
        name = self._names[target] = _Name()
        task = self._loop.create_task(self._look_up(target, name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return name

    async def _look_up(self, target: Target, name: "_Name") -> None:
        try:
            found = self._tunnel.getaddrinfo(target.host, target.port, type=socket.SOCK_DGRAM)
            infos = await within(CONNECT_S, _listed(found))
        except OSError as error:
            _log.debug("no address of %s: %s", target.host, error)
            self._names.pop(target, None)  # the next one asks again
            return
        name.address = infos[0][-1]
        for payload in name.waiting.take():
            self._send_to(name.address, payload)

    def _send_to(self, address: Address, payload: bytes) -> None:
        with suppress(OSError):
            self._inner[":" in address[0]].sendto(payload, address)


class _Name:
    """Where a name is, and what waits for that."""

    def __init__(self) -> None:
        self.address: Address | None = None
        self.waiting = Waiting()


async def _listed(found: Any) -> list[AddressInfo]:
    return list(await found)


def _beside(client: Client) -> socket.socket:
    """Return a socket at the address that the client knows.  Raises OSError."""
    host = _unmapped(client.bound().host)
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.bind((host, 0))
    except OSError:
        sock.close()
        raise
    return sock


def _unmapped(host: str) -> str:
    """Return an IPv4 address that a socket of both families tells as one of IPv6 as what it is."""
    return host.removeprefix("::ffff:") if "." in host else host


async def associate(
    client: Client,
    request: Request,
    granted: Callable[[Target], bytes],
    tunnel: Network,
    relay: Relay,
) -> None:
    """Serve one association until its connection ends, or it was idle.  Raises OSError."""
    association = Association(client, request, tunnel, relay)
    try:
        answer = granted(association.bound)
        await within(CONNECT_S, asyncio.get_running_loop().sock_sendall(client.sock, answer))
        gone = asyncio.ensure_future(until_gone(client))
        either: set[asyncio.Future[None]] = {gone, association.ended}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
    finally:
        await association.close()


# ---- forwards ----


@dataclass(frozen=True, slots=True)
class _Flow:
    """Of one client: the relay's number, and the socket that is connected to the target."""

    number: int
    other: socket.socket


class DatagramForward:
    """What comes to one socket of datagrams goes to a target, and the answers back.

    Each client has a connected socket at the same place, which gets all that follows.  Whoever
    comes when there are as many as may be takes the place of the one that has been there longest.
    """

    def __init__(
        self,
        sock: socket.socket,
        limits: Limits,
        relay: Relay,
        here: Network,
        reach: Callable[[], Coroutine[Any, Any, socket.socket]],
    ) -> None:
        """Begin; the socket, of the network here, is ours now.

        `reach` returns a socket that is connected to the target.
        """
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._limits = limits
        self._relay = relay
        self._here = here
        self._reach = reach
        self._coming: dict[Address, Waiting] = {}  # of clients without a socket so far
        self._flows: dict[Address, _Flow] = {}  # the oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop.add_reader(sock, self._on_datagrams)

    async def close(self) -> None:
        """Take no more."""
        self._loop.remove_reader(self._sock)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sock.close()

    def _on_datagrams(self) -> None:
        for data, source in read(self._sock):
            self._take(data, source)

    def _take(self, data: bytes, source: Address) -> None:
        flow = self._flows.get(source)
        if flow is not None:  # it came here before the flow had a socket
            with suppress(OSError):
                flow.other.send(data)
            return
        waiting = self._coming.get(source)
        if waiting is not None:
            waiting.put(data)
            return
        if not self._limits.admit(source[0]):
            self._drop_oldest()
            return
        self._coming[source] = Waiting()
        self._coming[source].put(data)
        task = self._loop.create_task(self._serve(source))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _drop_oldest(self) -> None:
        for source, flow in self._flows.items():
            self._relay.drop(flow.number)
            del self._flows[source]
            break

    async def _serve(self, source: Address) -> None:
        is_relayed = False
        try:
            other = await within(CONNECT_S, self._reach())
            try:
                self._join(source, other)
                is_relayed = True
            except OSError:
                other.close()
                raise
        except OSError as error:
            _log.debug("a datagram of %s goes nowhere: %s", source[0], error)
        finally:
            del self._coming[source]
            if not is_relayed:
                self._limits.leave(source[0])

    def _open_beside(self) -> socket.socket:
        """Return a socket that is bound to where the first is.  Raises OSError."""
        near = self._here.socket_factory(_info(self._sock.family))
        try:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if near.family == socket.AF_INET6:
                only = self._sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
                near.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
            near.bind(self._sock.getsockname())
        except OSError:
            near.close()
            raise
        return near

    def _join(self, source: Address, other: socket.socket) -> None:
        near = self._open_beside()

        def on_end(end: End) -> None:
            if source in self._flows and self._flows[source].other is other:
                del self._flows[source]
            self._limits.leave(source[0])
            _log.debug("%s: %d and %d bytes, %d lost", source[0], end.sent, end.received, end.lost)

        try:
            near.connect(source)
            for sock in (near, other):
                deepen(sock)
            waiting = self._coming[source]
            for data, stranger in read(near, None):  # they came before it was connected
                if stranger == source:
                    waiting.put(data)
                else:
                    self._take(data, stranger)
            for data in waiting.take():
                with suppress(OSError):
                    other.send(data)
            number = self._relay.add_datagrams(near, (other,), on_end)
        except OSError:
            near.close()
            raise
        self._flows[source] = _Flow(number, other)
