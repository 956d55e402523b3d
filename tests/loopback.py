# SPDX-License-Identifier: MIT
"""Devices with the real data plane, over loopback; a socket pair stands for each TUN.

Time is real, but for the jumps that a test makes.  Nobody sleeps: `until` serves the devices until
something has come true.
"""

import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

from changes import DeviceFields
from core import advance_clock
from fakes import FakeHandle, S

from wgpy.config import DeviceChange, PeerChange, PeerSnapshot
from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import PeerStats
from wgpy.device import Device
from wgpy.linux.sockets import open_sockets
from wgpy.ports import Feature
from wgpy.protocol.noise import StaticKey

if TYPE_CHECKING:
    from typing_extensions import Unpack

PATIENCE_S = 10  # until a test fails
EPOCH_NS = 1_700_000_000 * S
LOOPBACK = {4: socket.inet_aton("127.0.0.1"), 6: socket.inet_pton(socket.AF_INET6, "::1")}
IPV4 = struct.Struct("!BBHHHBBH4s4s")
NO_NEXT_HEADER = 59


def packet(source: bytes, destination: bytes, payload: bytes, tos: int = 0) -> bytes:
    """An IPv4 packet of a protocol that nobody looks into."""
    length = IPV4.size + len(payload)
    fields = (0x45, tos, length, 0, 0, 64, NO_NEXT_HEADER)
    words = struct.unpack("!10H", IPV4.pack(*fields, 0, source, destination))
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return IPV4.pack(*fields, checksum, source, destination) + payload


def frames(queue: socket.socket) -> Iterator[bytes]:
    """All that came out of a queue so far."""
    with suppress(BlockingIOError):
        while True:
            yield queue.recv(65535)


class Loop:
    """Serves the devices' events and timers, on the planes' clock."""

    def __init__(self) -> None:
        self.planes: list[Plane] = []
        self._devices: dict[int, Device] = {}
        self._poll = select.poll()
        self._order = count()
        self._calls: list[tuple[int, int, FakeHandle]] = []

    def add(self, plane: Plane, device: Device) -> None:
        self.planes.append(plane)
        self._devices[plane.event_fd] = device
        self._poll.register(plane.event_fd, select.POLLIN)

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> FakeHandle:
        handle = FakeHandle(callback)
        heappush(self._calls, (when_ns, next(self._order), handle))
        return handle

    def advance(self, seconds: float) -> None:
        """Jump; what has become due happens in the next `until`."""
        advance_clock(round(seconds * S))

    def until(self, condition: Callable[[], object]) -> None:
        end_ns = self.planes[0].now_ns() + PATIENCE_S * S
        while not condition():
            assert self.planes[0].now_ns() < end_ns, "it did not come true"
            for fd, _ in self._poll.poll(5):
                self._devices[fd].on_events()
            self._make_calls()

    def _make_calls(self) -> None:
        while self._calls and self._calls[0][0] <= self.planes[0].now_ns():
            _, _, handle = heappop(self._calls)
            if handle.callback is not None:
                handle.callback()


class Host:
    """A device whose tunnel address is 10.0.0.NUMBER; its TUN has a queue for each worker."""

    def __init__(
        self, stack: ExitStack, loop: Loop, number: int, workers: int = 1, lanes: int = 1
    ) -> None:
        self.private_key = bytes([number]) * 32
        self.public_key = StaticKey(self.private_key).public_key
        self.address = bytes([10, 0, 0, number])
        kind = socket.AF_UNIX, socket.SOCK_SEQPACKET
        pairs = [socket.socketpair(*kind) for _ in range(workers)]
        lent = [ours for ours, _ in pairs]
        self.queues = [theirs for _, theirs in pairs]
        for end in (*lent, *self.queues):
            end.setblocking(False)
            stack.enter_context(closing(end))
        self.tun = self.queues[0]
        self.plane = stack.enter_context(closing(Plane(workers=workers, lanes=lanes)))
        self.device = Device(
            self.plane,
            partial(open_sockets, workers=workers),
            loop,
            [end.fileno() for end in lent],
            tun_features=Feature(0),
            wall_clock=lambda: EPOCH_NS + self.plane.now_ns(),  # it makes the same jumps
        )
        stack.enter_context(closing(self.device))
        self.received: list[bytes] = []
        loop.add(self.plane, self.device)

    def configure(self, *peers: PeerChange, **changes: "Unpack[DeviceFields]") -> None:
        self.device.configure(DeviceChange(peers=peers, **changes))

    def send(self, other: "Host", payload: bytes, source: bytes = b"") -> None:
        self.tun.send(packet(source or self.address, other.address, payload))

    def read(self) -> list[bytes]:
        """All payloads that came out of the tunnel so far."""
        for queue in self.queues:
            self.received += [frame[IPV4.size :] for frame in frames(queue)]
        return self.received

    @property
    def port(self) -> int:
        return self.device.snapshot().listen_port

    @property
    def peer(self) -> PeerSnapshot:
        [peer] = self.device.snapshot().peers
        return peer

    @property
    def stats(self) -> PeerStats:
        return self.plane.stats(0)
