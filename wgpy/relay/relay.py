# SPDX-License-Identifier: MIT
"""Pairs of sockets whose bytes go from one to the other, by a thread of C without Python's lock."""

import asyncio
import os
import select
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wgpy.dataplane.threads import DataThreads
from wgpy.relay._relay import ffi, lib
from wgpy.units import NS_PER_S

ENDS_MAX: Final = 64  # taken in a turn of the loop
SOCKETS_MAX: Final = 3  # of a pair


@dataclass(frozen=True, slots=True)
class End:
    """How a pair ended: bytes from and to the first socket, and an errno, 0 for in order.

    ETIMEDOUT: nothing moved for the idle time.  ECANCELED: it was dropped.  But for 0, whoever is
    at stream sockets gets a reset.  `lost` counts datagrams that were malformed or not sent.
    """

    sent: int
    received: int
    error: int
    lost: int = 0


@dataclass(frozen=True, slots=True)
class _Pair:
    sockets: Sequence[socket.socket]
    on_end: Callable[[End], None]


class Relay:
    """The pairs, their thread, and what those have open.  For the thread of the running loop."""

    def __init__(
        self, pairs_max: int, idle_s: float, on_failure: Callable[[OSError], None]
    ) -> None:
        """Begin with none; idle_s of 0 is no limit.

        on_failure is called on the loop if the thread cannot go on.  Raises OSError, MemoryError.
        """
        self._pairs: dict[int, _Pair] = {}
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._c: Any = None
        self._epoll = select.epoll()
        self._eventfds: list[int] = []
        self._threads = DataThreads(self._wake)
        try:
            for _ in range(2):
                self._eventfds.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
            wake_fd, self._end_fd = self._eventfds
            idle_ns = round(idle_s * NS_PER_S)
            fds = (self._epoll.fileno(), wake_fd, self._end_fd)
            self._c = lib.wg_relay_new(pairs_max, idle_ns, *fds)
            if self._c == ffi.NULL:
                raise MemoryError
            self._ends = ffi.new("wg_relay_end[]", ENDS_MAX)
            self._loop.add_reader(self._end_fd, self._take_ends)
            self._threads.start("wgpy-relay", lambda: int(lib.wg_relay_run(self._c)))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all pairs and close their sockets; more than once is fine."""
        if self._c:
            lib.wg_relay_stop(self._c)
            self._threads.join()
            lib.wg_relay_free(self._c)
        self._c = None
        for pair in self._pairs.values():
            _close(pair)
        self._pairs.clear()
        if self._eventfds:
            self._loop.remove_reader(self._eventfds[-1])
        while self._eventfds:
            os.close(self._eventfds.pop())
        self._epoll.close()

    @property
    def pipes(self) -> int:
        """How many pipes are open."""
        return int(lib.wg_relay_pipes(self._c))

    def add(
        self, first: socket.socket, second: socket.socket, on_end: Callable[[End], None]
    ) -> None:
        """Join two connected stream sockets, which are the relay's from now on.

        on_end is called when they are closed, but not by close().  Raises OSError, ENOBUFS if there
        are as many pairs as may be; then they stay the caller's.
        """
        self._add((first, second), on_end, is_stream=True)

    def add_datagrams(
        self,
        client: socket.socket,
        others: Sequence[socket.socket],
        on_end: Callable[[End], None],
        names: socket.socket | None = None,
    ) -> int:
        """Join sockets of datagrams, as `add` does; return a number for `drop`.

        The client's is connected.  Without `names` there is one other, connected too.  With it
        there are one of IPv4 and one of IPv6, datagrams of the client have headers of SOCKS5 (RFC
        1928, 7), and those to a name are sent to `names`, a socket of datagrams that does not
        block and stays the caller's, open until the end of the pair.
        """
        return self._add((client, *others), on_end, is_stream=False, names=names)

    def drop(self, number: int) -> None:
        """End a pair that has not ended, soon."""
        lib.wg_relay_drop(self._c, number)

    def _add(
        self,
        sockets: Sequence[socket.socket],
        on_end: Callable[[End], None],
        *,
        is_stream: bool,
        names: socket.socket | None = None,
    ) -> int:
        for one in sockets:
            one.setblocking(False)
        pair = ffi.new("wg_relay_pair *")
        fds = [one.fileno() for one in sockets]
        pair.fds = fds + [-1] * (SOCKETS_MAX - len(fds))
        pair.names_fd = -1 if names is None else names.fileno()
        pair.is_stream = is_stream
        number = int(lib.wg_relay_add(self._c, pair))
        if number < 0:
            raise OSError(-number, os.strerror(-number))
        self._pairs[number] = _Pair(sockets, on_end)
        return number

    def _take_ends(self) -> None:
        if self._threads.failure is not None:
            self._loop.remove_reader(self._end_fd)
            self._on_failure(self._threads.failure)
            return
        count = lib.wg_relay_take(self._c, self._ends, ENDS_MAX)
        for end in self._ends[0:count]:
            pair = self._pairs.pop(end.pair)
            _close(pair)
            pair.on_end(End(end.bytes[0], end.bytes[1], end.error, end.lost))

    def _wake(self) -> None:
        os.eventfd_write(self._end_fd, 1)


def _close(pair: _Pair) -> None:
    for one in pair.sockets:
        one.close()
