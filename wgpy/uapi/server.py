"""The configuration socket of wg: its listener, and the clients' conversations.

Everything runs on the control loop.  A client can only hold up itself: what it sends is parsed as
it comes, what it does not read stays unsent, and after each piece it is the others' turn.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Final

from wgpy.config import DeviceChange, DeviceSnapshot
from wgpy.errors import ConfigError
from wgpy.uapi.protocol import GetRequest, Request, RequestParser, format_errno, format_get

CLIENTS_MAX: Final = 128  # connections at a time; the one idle for longest makes room for a new one
STALL_S: Final = 30.0  # a client that has not read for so long in the middle of a reply is dropped
_CHUNK: Final = 1 << 16  # bytes read at a time

_log = logging.getLogger("wgpy.uapi")


class UapiServer:
    """Answers get and set requests; both callables run on the control loop, to completion."""

    def __init__(
        self,
        configure: Callable[[DeviceChange], None],
        snapshot: Callable[[], DeviceSnapshot],
    ) -> None:
        """`configure` applies a change or raises ConfigError, having applied nothing."""
        self._configure = configure
        self._snapshot = snapshot
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], None] = {}  # the least recently active first

    async def serve(self, sock: socket.socket) -> None:
        """Start to accept clients on a listening socket, and return; close() ends it."""
        self._server = await asyncio.start_unix_server(self._serve_client, sock=sock, limit=_CHUNK)

    def close(self) -> None:
        """Stop listening (the socket is closed) and drop every client."""
        if self._server is not None:
            self._server.close()
        for client in self._clients:
            client.cancel()

    async def _serve_client(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        client = asyncio.current_task()
        assert client is not None, "asyncio runs this as a task"
        self._admit(client)
        try:
            await self._converse(client, reader, writer)
            writer.close()
            async with asyncio.timeout(STALL_S):
                await writer.wait_closed()
        except TimeoutError:
            _log.info("dropped a client that does not read")
        except (ConnectionError, asyncio.CancelledError):
            pass  # it left, or had to; asyncio's streams report a task that ends as cancelled
        except Exception:
            _log.exception("dropped a client")
        finally:
            self._clients.pop(client, None)
            writer.transport.abort()

    async def _converse(
        self,
        client: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        parser = RequestParser()
        try:
            while data := await reader.read(_CHUNK):
                for request in parser.feed_untrusted(data):
                    await self._answer(request, writer)
                self._touch(client)
            if (last := parser.end_untrusted()) is not None:
                await self._answer(last, writer)
        except ConfigError as error:  # there is no telling where the next request would begin
            writer.write(_refuse(error))

    def _admit(self, client: asyncio.Task[None]) -> None:
        if len(self._clients) >= CLIENTS_MAX:
            idlest = next(iter(self._clients))
            del self._clients[idlest]
            idlest.cancel()
        self._clients[client] = None

    def _touch(self, client: asyncio.Task[None]) -> None:
        if client in self._clients:
            del self._clients[client]
            self._clients[client] = None

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        for chunk in self._reply(request):
            writer.write(chunk)
            async with asyncio.timeout(STALL_S):
                await writer.drain()
            await asyncio.sleep(0)  # drain does not wait while the client keeps up

    def _reply(self, request: Request) -> Iterable[bytes]:
        try:
            if isinstance(request, ConfigError):
                raise request
            if isinstance(request, GetRequest):
                return chain(format_get(self._snapshot()), [format_errno(0)])
            self._configure(request)
            return [format_errno(0)]
        except ConfigError as error:
            return [_refuse(error)]
        except Exception:
            _log.exception("a request failed")
            return [format_errno(errno.EIO)]


def _refuse(error: ConfigError) -> bytes:
    """Log error, and return the reply for it."""
    name = errno.errorcode.get(error.errno, str(error.errno))
    if error.line is None:
        _log.error("refused a request: %s (%s)", error.reason, name)
    else:
        _log.error("refused a request: %s (%s): %.200a", error.reason, name, error.line)
    return format_errno(error.errno)
