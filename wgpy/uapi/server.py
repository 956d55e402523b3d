# SPDX-License-Identifier: MIT
"""The configuration socket of wg: the clients' conversations.

Everything runs on the control loop.  A client can only hold up itself: what it sends is parsed as
it comes, what it does not read stays unsent, and after each piece it is the others' turn.

Long changes are applied in pieces, one change after the other.  Who asks for the state waits for
the end of those that came before, and so sees no half of one.  Short changes are applied at once,
in the middle of a long one too: what they tell of a peer holds as of before or after it.

A client that goes, whenever and however, is freed at once, with all that it was to get.  Reference
counts do that as long as nothing refers to itself, and the collector, which runs seldom, would not
do it for long.  Streams and tasks keep exceptions, an exception its traceback, that the frames, and
one of these the exception: hence callbacks, and errors that live no longer than their handler.
"""

import asyncio
import errno
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from wgpy.config import DeviceChange, DeviceSnapshot
from wgpy.errors import ConfigError
from wgpy.uapi.listener import Listener
from wgpy.uapi.protocol import GetRequest, Request, RequestParser, format_errno, format_get

CLIENTS_MAX: Final = 128  # connections at a time; the one idle for longest makes room for a new one
STALL_S: Final = 30.0  # a client that has not read for so long in the middle of a reply is dropped
SHORT_PEERS: Final = 64  # sections of a change that is applied at once
SHORT_ALLOWED_IPS: Final = 4096  # prefixes of one of them
_CHUNK: Final = 1 << 16  # bytes read at a time
_SMALL: Final = 1 << 10  # bytes; pieces of replies smaller than that go out one after the other,
_PIECES_PER_TURN: Final = 32  # at most so many of them

_log = logging.getLogger(__name__)


class UapiServer:
    """Answers get and set requests; both callables run on the control loop."""

    def __init__(
        self,
        changing: Callable[[DeviceChange], Iterator[None]],
        snapshot: Callable[[], DeviceSnapshot],
    ) -> None:
        """Take both; `changing` applies a change in pieces.

        It raises ConfigError before the first of them, or applies all.
        """
        self._changing = changing
        self._snapshot = snapshot
        self._listener: Listener | None = None
        self._clients: dict[_Client, None] = {}  # the least recently active first
        self._long: deque[object] = deque()  # changes that are not done, the first in progress

    def serve(self, sock: socket.socket) -> None:
        """Accept clients on a listening socket, which is ours now, until close().

        The control loop must be running.
        """
        self._listener = Listener(sock, self._admit, self._drop_idlest)

    def close(self) -> None:
        """Stop listening (the socket is closed) and drop every client."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for client in list(self._clients):
            client.close()

    def _admit(self, sock: socket.socket) -> None:
        if len(self._clients) >= CLIENTS_MAX:
            self._drop_idlest()
        try:
            client = _Client(sock, self._converse, self._touch, self._forget)
        except OSError:
            sock.close()
            raise
        self._clients[client] = None

    def _drop_idlest(self) -> None:
        for idlest in self._clients:
            idlest.close()
            break

    def _touch(self, client: "_Client") -> None:
        del self._clients[client]
        self._clients[client] = None

    def _forget(self, client: "_Client") -> None:
        del self._clients[client]

    def _converse(self, parser: RequestParser, data: bytes) -> Iterator[bytes]:
        """Yield the replies, in pieces, to what data completes; no data is the end of the stream.

        Empty pieces come where it is others' turn.  Raises ConfigError when there is no telling
        where the next request would begin.
        """
        if data:
            for request in parser.feed_untrusted(data):
                yield from self._reply(request)
        elif (last := parser.end_untrusted()) is not None:
            yield from self._reply(last)

    def _reply(self, request: Request) -> Iterator[bytes]:
        if isinstance(request, ConfigError):
            yield _refuse(request)
            return
        shown: Iterator[bytes] = iter(())
        end = format_errno(0)
        try:
            if isinstance(request, GetRequest):
                yield from self._wait_for_changes()
                shown = format_get(self._snapshot())
            else:
                yield from self._change(request)
        except ConfigError as error:
            end = _refuse(error)
        except Exception:
            _log.exception("a request failed")
            end = format_errno(errno.EIO)
        yield from shown
        yield end

    def _wait_for_changes(self) -> Iterator[bytes]:
        """Wait for the long changes that came before."""
        last = self._long[-1] if self._long else None
        while last in self._long:
            yield b""

    def _change(self, change: DeviceChange) -> Iterator[bytes]:
        """Apply a short change at once.

        A long one when those before are done, in pieces, all of them even if its client goes.
        """
        if _is_short(change):
            for _ in self._changing(change):
                pass
            return
        turn = object()
        self._long.append(turn)
        try:
            while self._long[0] is not turn:
                yield b""
            pieces = self._changing(change)
            try:
                for _ in pieces:
                    yield b""
            finally:
                for _ in pieces:
                    pass
        finally:
            self._long.remove(turn)


def _is_short(change: DeviceChange) -> bool:
    return (
        not change.replace_peers
        and len(change.peers) <= SHORT_PEERS
        and all(len(section.allowed_ips) <= SHORT_ALLOWED_IPS for section in change.peers)
    )


def _or_leave(step: "Callable[[_Client], None]") -> "Callable[[_Client], None]":
    """Make a step of the conversation end it when it fails."""

    def guarded(client: "_Client") -> None:
        try:
            step(client)
        except OSError:
            client.close()  # it left, or there is no memory to wait for it
        except Exception:
            _log.exception("dropped a client")
            client.close()

    return guarded


class _Client:
    """One connection: waits for requests, or for its turn or room to send a reply, never for both.

    `converse` yields the replies to what came; `touch` and `forget` hear that something came or
    went, and of the end.
    """

    def __init__(
        self,
        sock: socket.socket,
        converse: Callable[[RequestParser, bytes], Iterator[bytes]],
        touch: "Callable[[_Client], None]",
        forget: "Callable[[_Client], None]",
    ) -> None:
        self._sock = sock
        self._converse = converse
        self._touch = touch
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._parser = RequestParser()
        self._replies: Iterator[bytes] = iter(())  # those to what came last
        self._unsent = b""  # the rest of a piece of them
        self._at_end = False  # nothing follows these replies
        self._waits: asyncio.Handle | None = None  # for its turn, or to be dropped
        self._listens = False  # for requests
        sock.setblocking(False)
        self._fd = sock.fileno()
        self._listen(True)

    def close(self) -> None:
        """Leave at once; to be called once."""
        self._forget(self)
        self._stop_waiting()
        self._listen(False)
        self._loop.remove_writer(self._fd)
        self._sock.close()
        self._replies = iter(())  # a change that is in progress is done now

    def _listen(self, listens: bool) -> None:
        """Begin or end it; a small request with a small answer needs neither."""
        if listens and not self._listens:
            self._loop.add_reader(self._fd, self._receive)
        elif self._listens and not listens:
            self._loop.remove_reader(self._fd)
        self._listens = listens

    @_or_leave
    def _receive(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        self._touch(self)
        self._replies = self._converse(self._parser, data)
        self._at_end = not data
        self._go_on()

    @_or_leave
    def _go_on(self) -> None:
        """Send the next piece, or some if they are small, or else wait for requests."""
        self._waits = None
        for _ in range(_PIECES_PER_TURN):
            piece = self._next_piece()
            if piece is None:
                self._rest()
                return
            if piece and not self._send(piece):
                return
            if not 0 < len(piece) < _SMALL:
                break
        self._listen(False)
        self._waits = self._loop.call_soon(self._go_on)

    def _next_piece(self) -> bytes | None:
        try:
            return next(self._replies, None)
        except ConfigError as error:
            self._at_end = True
            return _refuse(error)

    def _rest(self) -> None:
        """Wait for requests, if any can come."""
        if self._at_end:
            self.close()
        else:
            self._listen(True)

    def _send(self, piece: bytes) -> bool:
        """Return whether all of it is sent; the rest waits for room."""
        try:
            sent = self._sock.send(piece)
        except (BlockingIOError, InterruptedError):
            sent = 0
        self._unsent = piece[sent:]
        if sent:
            self._touch(self)
            self._stop_waiting()
        if self._unsent and self._waits is None:
            self._listen(False)
            self._loop.add_writer(self._fd, self._send_rest)
            self._waits = self._loop.call_later(STALL_S, self._stall)
        return not self._unsent

    @_or_leave
    def _send_rest(self) -> None:
        if self._send(self._unsent):
            self._loop.remove_writer(self._fd)
            self._waits = self._loop.call_soon(self._go_on)

    def _stall(self) -> None:
        _log.info("dropped a client that does not read")
        self.close()

    def _stop_waiting(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None


def _refuse(error: ConfigError) -> bytes:
    """Log error, and return the reply for it."""
    name = errno.errorcode.get(error.errno, str(error.errno))
    if error.line is None:
        _log.error("refused a request: %s (%s)", error.reason, name)
    else:
        _log.error("refused a request: %s (%s): %.200a", error.reason, name, error.line)
    return format_errno(error.errno)
