# SPDX-License-Identifier: MIT
"""The status socket: whoever connects is told how the interface is, at once and then once a second.

Nothing is ever read from a client, so there is no request to be hostile with.  A client gets a
line when it has read the one before; until then nothing is kept for it but what is left of that.
All get the same lines, and what these cost is bounded, however many come.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import select
import socket
import termios
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, NoReturn, TypeVar

from wgpy.errors import StatusError
from wgpy.status import (
    DOCUMENT_MAX,
    INTERVAL_S,
    SHARE,
    DeviceStatus,
    diagnosis_to_json,
    peer_to_json,
    to_json,
)
from wgpy.uapi.listener import Listener

CLIENTS_MAX: Final = 16  # connections at a time; who does not read makes room first
STALL_S: Final = 10.0  # a client that has not taken the whole of a line by then is dropped
_PER_PIECE: Final = 32  # peers, or diagnoses, made into text at a time; a millisecond or two

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class StatusServer:
    """Tells clients what `take` returns; it may give others their turn meanwhile."""

    def __init__(self, sock: socket.socket, take: Callable[[], Awaitable[DeviceStatus]]) -> None:
        """Accept clients on a listening socket, which is ours now, on the running loop."""
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._clients: dict[_Client, None] = {}  # who was given a line longest ago first
        self._document = b""  # the last line, while there are clients; empty: none is fresh
        self._fresh_until_s = 0.0  # before that no other line is made
        self._came = asyncio.Event()
        self._listener = Listener(sock, self._admit, self._drop_one)
        self._task = self._loop.create_task(self._run())

    def close(self) -> None:
        """Stop listening and drop every client."""
        self._task.cancel()
        self._listener.close()
        self._drop_all()

    # ---- clients ----

    def _admit(self, sock: socket.socket) -> None:
        if len(self._clients) >= CLIENTS_MAX:
            self._drop_one()
        client = _Client(sock, self._clients.pop)
        self._clients[client] = None
        if self._document and self._loop.time() < self._fresh_until_s:
            self._give(client)
        else:
            self._came.set()

    def _give(self, client: "_Client") -> None:
        if not client.owes:
            self._clients[client] = self._clients.pop(client)
            client.send(self._document)

    def _drop_one(self) -> None:
        """Make room: who has left, else who does not read, else who had its line longest ago."""
        before = len(self._clients)
        self._drop_leavers()
        if self._clients and len(self._clients) == before:
            first = next(iter(self._clients))
            next((client for client in self._clients if client.owes), first).close()

    def _drop_leavers(self) -> None:
        """Drop who has left, which nothing else tells, for we do not read; and who stalls."""
        poll = select.poll()
        by_fd = {client.fileno(): client for client in self._clients}
        for fd in by_fd:
            poll.register(fd, 0)
        for fd, _ in poll.poll(0):  # POLLHUP, POLLERR
            by_fd[fd].close()
        for client in list(self._clients):
            if client.stalls:
                _log.info("dropped a client that does not read its status")
                client.close()

    def _drop_all(self) -> None:
        for client in list(self._clients):
            client.close()

    # ---- lines ----

    async def _run(self) -> NoReturn:
        tick_s = 0.0  # when all get the next line; newcomers do not wait for it
        while True:
            await self._until(tick_s)
            begun_s = self._loop.time()
            for_all = begun_s >= tick_s
            if for_all:
                tick_s = begun_s + INTERVAL_S
            try:
                self._document = await self._make()
            except Exception as error:
                _log.error("cannot tell the status", exc_info=not isinstance(error, StatusError))
                self._drop_all()
                self._document, self._fresh_until_s = b"", begun_s + INTERVAL_S
                continue
            self._fresh_until_s = begun_s + SHARE * (self._loop.time() - begun_s)
            for client in list(self._clients):
                if for_all or client.is_new:
                    self._give(client)

    async def _until(self, tick_s: float) -> None:
        """Wait until a line is due, and there is somebody to get it."""
        while True:
            self._came.clear()
            self._drop_leavers()
            if not self._clients:
                self._document = b""
                await self._came.wait()
            newcomers = any(client.is_new for client in self._clients)
            due_s = max(self._fresh_until_s, 0.0 if newcomers else tick_s)
            left_s = due_s - self._loop.time()
            if left_s <= 0:
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._came.wait(), left_s)

    async def _make(self) -> bytes:
        """Return the next line.  Raises StatusError if it is too long, or what `take` does."""
        pieces, size = [], 0
        for piece in _pieces(await self._take()):
            pieces.append(piece.encode())
            size += len(piece)
            if size > DOCUMENT_MAX:
                raise StatusError("it has no room in a line")
            await asyncio.sleep(0)
        return b"".join(pieces)


def _pieces(status: DeviceStatus) -> Iterator[str]:
    """Yield the JSON in pieces, which take less of control's time at once."""
    head = to_json(replace(status, diagnoses=(), peers=()))
    del head["diagnoses"], head["peers"]
    yield json.dumps(head)[:-1] + ', "diagnoses": ['
    yield from _members(status.diagnoses or (), diagnosis_to_json)
    yield '], "peers": ['
    yield from _members(status.peers, peer_to_json)
    yield "]}\n"


def _members(items: Sequence[_T], convert: Callable[[_T], object]) -> Iterator[str]:
    for at in range(0, len(items), _PER_PIECE):
        text = json.dumps([convert(item) for item in items[at : at + _PER_PIECE]])
        yield (", " if at else "") + text[1:-1]


class _Client:
    """One connection: `forget` hears of its end."""

    is_new = True  # has been given nothing yet

    def __init__(self, sock: socket.socket, forget: "Callable[[_Client], object]") -> None:
        sock.setblocking(False)
        self._sock = sock
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._rest = memoryview(b"")  # of its line: what the kernel has not taken yet
        self._given_s = 0.0

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        """Leave at once; to be called once."""
        self._forget(self)
        self._loop.remove_writer(self._sock)
        self._sock.close()

    @property
    def owes(self) -> bool:
        """Whether it has not read all that it was given (unix(7): SIOCOUTQ)."""
        unread = fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4))
        return bool(self._rest) or any(unread)

    @property
    def stalls(self) -> bool:
        return bool(self._rest) and self._loop.time() > self._given_s + STALL_S

    def send(self, document: bytes) -> None:
        self.is_new = False
        self._given_s = self._loop.time()
        self._rest = memoryview(document)
        self._go_on()

    def _go_on(self) -> None:
        try:
            # Nothing is to refer to the line when it is sent: it may be long.
            self._rest = self._rest[self._send_some() :] or memoryview(b"")
            if self._rest:
                self._loop.add_writer(self._sock, self._go_on)
            else:
                self._loop.remove_writer(self._sock)
        except OSError:
            self.close()  # it left, or there is no memory to wait for it

    def _send_some(self) -> int:
        try:
            return self._sock.send(self._rest)
        except (BlockingIOError, InterruptedError):
            return 0
