# SPDX-License-Identifier: MIT
"""A place where the proxy listens, and its clients until they are the relay's."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from wgpy.dialing import within
from wgpy.errors import BadRequest
from wgpy.log import LimitedLog
from wgpy.proxy.limits import Limits
from wgpy.proxy.requests import Conversation, Request, Target
from wgpy.relay.relay import End, Relay
from wgpy.uapi.listener import Listener
from wgpy.units import NS_PER_S

REQUEST_S: Final = 10.0  # for a client to say what it wants
CONNECT_S: Final = 30.0  # for all addresses of a host
GUESS_PAUSE_S: Final = 1.0  # before a wrong password is answered
GOODBYE_S: Final = 1.0  # for a client to read why it is refused
CHUNK: Final = 4096  # bytes read at a time; what a request has at most is for its parser to say

_log = logging.getLogger(__name__)
told = LimitedLog(_log, burst=10, period_ns=NS_PER_S)  # what anybody can cause


@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """Who has connected."""

    sock: socket.socket
    address: str

    def bound(self) -> Target:
        """Return where it reached us."""
        host, port, *_ = self.sock.getsockname()
        return Target(host, port)


# Returns the other end of the connection, or None if there is none to be.
Converse = Callable[[Client], Coroutine[Any, Any, socket.socket | None]]
Dial = Callable[[Target], Coroutine[Any, Any, socket.socket]]
Associate = Callable[[Client, Request, Callable[[Target], bytes]], Awaitable[None]]


class Service:
    """Clients of one listening socket, which is its own: each talks, is connected and relayed."""

    def __init__(
        self, sock: socket.socket, limits: Limits, relay: Relay, converse: Converse
    ) -> None:
        """Begin, on the running loop."""
        self._limits = limits
        self._relay = relay
        self._converse = converse
        self._talking: dict[asyncio.Task[None], Client] = {}  # those who came first, first
        self._listener = Listener(sock, self._admit, self._drop_idlest)

    async def close(self) -> None:
        """Listen no more, and hang up on those who are not the relay's."""
        self._listener.close()
        talking = list(self._talking)
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)

    def _admit(self, sock: socket.socket) -> None:
        try:
            address = sock.getpeername()[0]
            if not self._limits.admit(address):
                told.info("full", time.monotonic_ns(), "refused a client: there are too many")
                sock.close()
                return
        except OSError:  # it has left again
            sock.close()
            return
        sock.setblocking(False)
        client = Client(sock, address)
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._talking[task] = client
        task.add_done_callback(self._talking.pop)

    def _drop_idlest(self) -> None:
        for task in self._talking:
            task.cancel()
            break

    async def _serve(self, client: Client) -> None:
        is_relayed = False
        try:
            other = await self._converse(client)
            if other is not None:
                self._join(client, other)
                is_relayed = True
        except OSError as error:
            _log.debug("a client of %s: %s", client.address, error)
        except Exception:
            _log.exception("dropped a client")
        finally:
            if not is_relayed:
                client.sock.close()
                self._limits.leave(client.address)

    def _join(self, client: Client, other: socket.socket) -> None:
        def on_end(end: End) -> None:
            self._limits.leave(client.address)
            how = os.strerror(end.error) if end.error else "done"
            _log.debug("%s: %d and %d bytes, %s", client.address, end.sent, end.received, how)

        try:
            for sock in (client.sock, other):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._relay.add(client.sock, other, on_end)
        except OSError:
            other.close()
            raise


async def negotiate(
    client: Client, conversation: Conversation, dial: Dial, associate: Associate
) -> socket.socket | None:
    """Talk with a client, and return what it is connected to, or None.  Raises OSError."""
    loop = asyncio.get_running_loop()
    request = await within(REQUEST_S, _hear(client, conversation))
    if request is None:
        return None
    if request.is_association:
        await associate(client, request, conversation.granted)
        return None
    try:
        other = await within(CONNECT_S, dial(request.target))
    except OSError as error:
        _log.debug("not connected to %s: %s", request.target, error)
        await _hang_up(client, conversation.refused(error))
        return None
    try:
        await within(REQUEST_S, loop.sock_sendall(client.sock, conversation.granted(_bound(other))))
        await within(REQUEST_S, loop.sock_sendall(other, conversation.early()))
    except BaseException:
        other.close()
        raise
    return other


async def _hear(client: Client, conversation: Conversation) -> Request | None:
    """Return what it asks for; None if it has left, or had to be told that it asks wrongly."""
    loop = asyncio.get_running_loop()
    try:
        while conversation.request is None:
            data = await loop.sock_recv(client.sock, CHUNK)
            if not data:
                return None
            await loop.sock_sendall(client.sock, conversation.feed_untrusted(data))
    except BadRequest as bad:
        _log.debug("refused a request of %s: %s", client.address, bad)
        if bad.is_guess:
            text = "wrong name or password from %s"
            told.info("guess", time.monotonic_ns(), text, client.address)
            await asyncio.sleep(GUESS_PAUSE_S)
        await _hang_up(client, bad.answer)
        return None
    return conversation.request


async def _hang_up(client: Client, answer: bytes) -> None:
    """Let it read an answer: to close while something of it is unread would destroy that."""
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        await within(GOODBYE_S, loop.sock_sendall(client.sock, answer))
        client.sock.shutdown(socket.SHUT_WR)
        await within(GOODBYE_S, until_gone(client))


async def until_gone(client: Client) -> None:
    """Read, and forget it, until the client has nothing more to say.  Raises OSError."""
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(client.sock, CHUNK):
        pass


def _bound(sock: socket.socket) -> Target:
    host, port, *_ = sock.getsockname()
    return Target(host.partition("%")[0], port)
