# SPDX-License-Identifier: MIT
"""A link in motion: two UDP sockets of 127.0.0.1, one for each tunnel to send to.

The kernel hands over every datagram by itself here, however many were sent as one (UDP_SEGMENT),
for the sockets do not ask for UDP_GRO.
"""

import asyncio
import contextlib
import socket
import struct
from dataclasses import replace
from typing import Final

from wgpy.linux.sockets import SO_RCVBUFFORCE
from wgpy.ports import BUFFER_LEN
from wgpy.testing.way import MTU_MAX, Counters, Link, Way

LOOPBACK: Final = "127.0.0.1"
BATCH: Final = 64  # datagrams before others on the loop have their turn
# <asm/socket.h>, <linux/sock_diag.h>: SK_MEMINFO_DROPS is the last of nine
SO_MEMINFO: Final = 55
MEMINFO: Final = struct.Struct("=32xI")


class Wire:
    """Carries datagrams between two tunnels of this host, as its link says, until it is closed.

    What it is asked may be asked from any thread.
    """

    def __init__(self, link: Link) -> None:
        """Open its ports, on the running loop.  Raises OSError."""
        with contextlib.ExitStack() as stack:
            left, right = (stack.enter_context(_open_port()) for _ in range(2))
            self._to_right = _Lane(Way(link, "to right"), left, right)
            self._to_left = _Lane(Way(link, "to left"), right, left)
            self.ports: tuple[int, int] = (_port(left), _port(right))  # for the left, for the right
            stack.callback(self._to_right.close)
            stack.callback(self._to_left.close)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Carry nothing any more; what is under way is lost."""
        self._stack.close()

    def connect(self, left_port: int, right_port: int) -> None:
        """Carry from now on, between the tunnels that listen there and nobody else."""
        self._to_right.begin(left_port)
        self._to_left.begin(right_port)

    @property
    def link(self) -> Link:
        """What it does to datagrams; another one counts for those that are sent from then on.

        Chances go on as they would have: the seed of another one means nothing.
        """
        return self._to_right.way.link

    @link.setter
    def link(self, link: Link) -> None:
        self._to_right.way.link = self._to_left.way.link = link

    def cut(self) -> None:
        """Lose all that is sent or would arrive, until `heal`."""
        self._to_right.way.is_cut = self._to_left.way.is_cut = True

    def heal(self) -> None:
        """Carry again."""
        self._to_right.way.is_cut = self._to_left.way.is_cut = False

    @property
    def to_left(self) -> Counters:
        """What has become of all that the right tunnel sent: as of now."""
        return self._to_left.counters()

    @property
    def to_right(self) -> Counters:
        """What has become of all that the left tunnel sent: as of now."""
        return self._to_right.counters()


class _Lane:
    """One way, from a socket to another.  Both are borrowed."""

    def __init__(self, way: Way, entry: socket.socket, leave: socket.socket) -> None:
        self.way = way
        self._entry = entry
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._overrun: int | None = None  # once it is closed

    def begin(self, port: int) -> None:
        """Take what is sent from this port of the host."""
        self._entry.connect((LOOPBACK, port))
        self._loop.add_reader(self._entry, self._on_readable)

    def close(self) -> None:
        self._overrun = _overrun(self._entry)
        self._loop.remove_reader(self._entry)
        if self._timer is not None:
            self._timer.cancel()

    def counters(self) -> Counters:
        overrun = _overrun(self._entry) if self._overrun is None else self._overrun
        return replace(self.way.counters, overrun=overrun)

    def _on_readable(self) -> None:
        for _ in range(BATCH):
            try:
                datagram = self._entry.recv(MTU_MAX)
            except BlockingIOError:
                break
            except ConnectionRefusedError:  # what went the other way found nobody
                continue
            self.way.take(datagram, self._loop.time())
        self._deliver()

    def _deliver(self) -> None:
        """Hand over what is due, and come back for the next."""
        for datagram in self.way.due(self._loop.time()):
            with contextlib.suppress(ConnectionRefusedError):  # nobody is there any more
                self._leave.send(datagram)
        if self._timer is not None:
            self._timer.cancel()
        due_s = self.way.next_s
        self._timer = None if due_s is None else self._loop.call_at(due_s, self._deliver)


def _open_port() -> socket.socket:
    with contextlib.ExitStack() as stack:
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.setblocking(False)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_LEN)  # rmem_max at most
        with contextlib.suppress(PermissionError):
            udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_LEN)
        udp.bind((LOOPBACK, 0))
        stack.pop_all()
    return udp


def _port(udp: socket.socket) -> int:
    return int(udp.getsockname()[1])


def _overrun(udp: socket.socket) -> int:
    """Return how many datagrams found its receive buffer full."""
    (drops,) = MEMINFO.unpack(udp.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size))
    return int(drops)
