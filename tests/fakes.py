# SPDX-License-Identifier: MIT
"""A world in one thread: a clock, a loop, a network and sockets.  fake_plane.py joins in."""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from core_numbers import MESSAGE_TRANSPORT

from wgpy.config import Endpoint
from wgpy.ports import Feature

S = 1_000_000_000  # nanoseconds
WIRE_LEN = 32  # header and tag of a transport message


class FakeHandle:
    """A scheduled call."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Clock(Protocol):
    """What FakePlane needs of a loop."""

    @property
    def now_ns(self) -> int: ...

    def call_soon(self, callback: Callable[[], None]) -> FakeHandle: ...

    def advance(self, seconds: float) -> None: ...


class FakeLoop:
    """A clock, and the calls that wait for it.  It starts at an hour past boot."""

    def __init__(self) -> None:
        self.now_ns = 3600 * S
        self._order = count()
        self._calls: list[tuple[int, int, FakeHandle]] = []

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> FakeHandle:
        handle = FakeHandle(callback)
        heappush(self._calls, (when_ns, next(self._order), handle))
        return handle

    def call_soon(self, callback: Callable[[], None]) -> FakeHandle:
        return self.call_at(self.now_ns, callback)

    def run(self) -> None:
        """Make all calls that are due, and those that they lead to."""
        self.advance(0)

    def advance(self, seconds: float) -> None:
        """Let time pass, each call at its time."""
        end_ns = self.now_ns + round(seconds * S)
        while self._calls and self._calls[0][0] <= end_ns:
            when_ns, _, handle = heappop(self._calls)
            self.now_ns = max(self.now_ns, when_ns)
            if handle.callback is not None:
                handle.callback()
        self.now_ns = end_ns

    def deadlines(self) -> list[int]:
        """When calls wait to be made."""
        return sorted(when for when, _, handle in self._calls if handle.callback is not None)


@dataclass(frozen=True, slots=True)
class Datagram:
    source: Endpoint
    to: Endpoint
    data: bytes
    tos: int

    @property
    def kind(self) -> int:
        return self.data[0]

    @property
    def is_keepalive(self) -> bool:
        return self.kind == MESSAGE_TRANSPORT and len(self.data) == WIRE_LEN


class Receiver(Protocol):
    """Takes datagrams: a FakePlane."""

    def receive(self, datagram: Datagram) -> None: ...


class Network(Protocol):
    """What FakePlane needs of a network."""

    def attach(self, endpoint: Endpoint, receiver: Receiver) -> None: ...

    def detach(self, endpoint: Endpoint) -> None: ...

    def send(self, datagram: Datagram) -> None: ...


class FakeNetwork:
    """Carries datagrams without delay.  `log` has all of them, `lose` tells which get lost."""

    def __init__(self, loop: FakeLoop) -> None:
        self.log: list[Datagram] = []
        self.lose: Callable[[Datagram], bool] = lambda datagram: False
        self._loop = loop
        self._receivers: dict[Endpoint, Receiver] = {}

    def attach(self, endpoint: Endpoint, receiver: Receiver) -> None:
        self._receivers[endpoint] = receiver

    def detach(self, endpoint: Endpoint) -> None:
        self._receivers.pop(endpoint, None)

    def send(self, datagram: Datagram) -> None:
        self.log.append(datagram)
        if not self.lose(datagram):
            self._loop.call_soon(lambda: self.deliver(datagram))

    def deliver(self, datagram: Datagram) -> None:
        receiver = self._receivers.get(datagram.to)
        if receiver is not None:
            receiver.receive(datagram)

    def kinds(self) -> list[int]:
        return [datagram.kind for datagram in self.log]


class FakeBoundSockets:
    """What FakeSockets opened: an address with a port."""

    fds = ((4, 6),)
    features = Feature.UDP_GSO
    buffers = (7 << 20, 32 << 20)

    def __init__(self, sockets: "FakeSockets", port: int, fwmark: int) -> None:
        self.port = port
        self.fwmark = fwmark
        self.closed = False
        self._sockets = sockets

    def set_fwmark(self, fwmark: int) -> None:
        if self._sockets.fwmark_error is not None:
            raise self._sockets.fwmark_error
        self.fwmark = fwmark

    def close(self) -> None:
        self.closed = True
        self._sockets.release(self.port)


class FakeSockets:
    """The ports of a host; call it to open sockets."""

    def __init__(self, address: bytes) -> None:
        self.address = address
        self.busy: set[int] = set()  # ports that somebody else has
        self.fwmark_error: OSError | None = None
        self.opened: list[FakeBoundSockets] = []
        self._ports = count(40000)
        self._open: set[int] = set()

    def __call__(self, port: int, fwmark: int) -> FakeBoundSockets:
        if port in self.busy | self._open:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        if fwmark and self.fwmark_error is not None:
            raise self.fwmark_error
        bound = FakeBoundSockets(self, port or next(self._ports), fwmark)
        self._open.add(bound.port)
        self.opened.append(bound)
        return bound

    def release(self, port: int) -> None:
        self._open.discard(port)

    @property
    def live(self) -> list[FakeBoundSockets]:
        return [bound for bound in self.opened if not bound.closed]
