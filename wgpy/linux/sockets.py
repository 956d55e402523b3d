# SPDX-License-Identifier: MIT
"""Opens the UDP sockets: IPv4 and IPv6 on one port, with all on that the data threads need.

Several workers have a pair each on the same port (SO_REUSEPORT): the kernel gives all that comes
from one address and port to one of them, so nothing of a peer is overtaken.  The first pair is
bound without it, so that a port in use is known as such.

Each ability is asked for and given up on refusal.  Nobody blocks on the sockets: the data threads
say MSG_DONTWAIT, and wait with poll(2).

What is sent counts against the socket until it has left the host, so one peer behind a slow link
may fill the buffer for all.  Where that is permitted it is so large that the queueing discipline
of the slow link drops first, as it does for the kernel module, which has no such buffer.
"""

import contextlib
import errno
import logging
import os
import re
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from wgpy.ports import BUFFER_LEN, Feature

SEND_BUFFER_LEN = 32 << 20  # which the kernel doubles; half of that is the most fq_codel(8) holds
PORT_ATTEMPTS = 100  # for a random port that both families give us
RMEM_MAX = Path("/proc/sys/net/core/rmem_max")
GRO_FROM_LINUX = (5, 12)  # before, UDP_GRO is there but not to be trusted
MISSING_FAMILY = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL)

# <linux/in.h>, <linux/in6.h>, <linux/udp.h>, <asm/socket.h>
IP_PKTINFO = 8
IP_MTU_DISCOVER = 10
IPV6_MTU_DISCOVER = 23
PMTUDISC_DONT = 0
UDP_SEGMENT = 103
UDP_GRO = 104
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS_NEW = 64


_log = logging.getLogger(__name__)

Pair = tuple[socket.socket | None, socket.socket | None]  # IPv4 and IPv6, one at least


class BoundSockets:
    """The sockets of each worker.

    fds has a pair of descriptors for each, IPv4 and IPv6, -1 for a missing family; features are
    those of Feature that concern UDP; buffers is how many bytes each got to receive and to send.
    """

    __slots__ = ("_sockets", "buffers", "fds", "features", "port")

    def __init__(self, pairs: Sequence[Pair], features: Feature) -> None:
        """Take over bound sockets, one pair at least."""
        self._sockets = _present(pairs)
        self.features = features
        self.port: int = self._sockets[0].getsockname()[1]
        self.buffers = _buffers(self._sockets[0])
        self.fds = tuple((_descriptor(udp4), _descriptor(udp6)) for udp4, udp6 in pairs)

    def set_fwmark(self, fwmark: int) -> None:
        """Mark outgoing packets; 0 for none.  Raises OSError."""
        for udp in self._sockets:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", fwmark))

    def close(self) -> None:
        """Free the port."""
        for udp in self._sockets:
            udp.close()


def open_sockets(
    port: int, fwmark: int, *, workers: int = 1, gso: bool = True, gro: bool = True
) -> BoundSockets:
    """Bind both families to the port, or to a random one when it is 0, for so many workers.

    gso and gro switch off UDP_SEGMENT and UDP_GRO.  A family that the host lacks is left out.
    Raises OSError: EADDRINUSE, or EAFNOSUPPORT when the host has neither.
    """
    pairs = [_bind_pair(port)]
    try:
        for _ in range(1, workers):
            pairs.append(_bind_beside(pairs[0]))
        features = Feature(0)
        if gso and all(_can_segment(udp) for udp in _present(pairs)):
            features |= Feature.UDP_GSO
        if gro and all(_receives_coalesced(udp) for udp in _present(pairs)):
            features |= Feature.UDP_GRO
        sockets = BoundSockets(pairs, features)
        if fwmark:
            sockets.set_fwmark(fwmark)
    except OSError:
        for udp in _present(pairs):
            udp.close()
        raise
    _tell_of_small_buffers(*sockets.buffers)
    return sockets


def rmem_max() -> int | None:
    """Read net.core.rmem_max, bytes, None where it cannot be read (containers).

    Who may not force a receive buffer gets no more than that.
    """
    try:
        return int(RMEM_MAX.read_text())
    except (OSError, ValueError):
        return None


def _present(pairs: Sequence[Pair]) -> list[socket.socket]:
    return [udp for pair in pairs for udp in pair if udp is not None]


def _descriptor(udp: socket.socket | None) -> int:
    return -1 if udp is None else udp.fileno()


def _bind_pair(port: int) -> Pair:
    for attempt in range(1, PORT_ATTEMPTS + 1):
        udp4 = _bind(socket.AF_INET, port)
        try:
            udp6 = _bind(socket.AF_INET6, udp4.getsockname()[1] if udp4 else port)
        except OSError as error:
            if udp4 is not None:
                udp4.close()
            if port or error.errno != errno.EADDRINUSE or attempt == PORT_ATTEMPTS:
                raise
            continue
        if udp4 is None and udp6 is None:
            break
        return udp4, udp6
    raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))


def _bind_beside(first: Pair) -> Pair:
    """Bind one more of each family on its port; from now on others of this user could join them."""
    pair: list[socket.socket | None] = []
    try:
        for udp in first:
            pair.append(None if udp is None else _join(udp))
    except OSError:
        if pair and pair[0] is not None:
            pair[0].close()
        raise
    return pair[0], pair[1]


def _join(udp: socket.socket) -> socket.socket | None:
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return _bind(udp.family, udp.getsockname()[1], share=True)


def _bind(family: socket.AddressFamily, port: int, *, share: bool = False) -> socket.socket | None:
    """Bind a configured socket to any address; None when the host lacks the family."""
    with contextlib.ExitStack() as stack:
        try:
            udp = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            _configure(udp)
            if share:
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            udp.bind(("" if family == socket.AF_INET else "::", port))
        except OSError as error:
            if error.errno in MISSING_FAMILY:
                return None
            raise
        stack.pop_all()
    return udp


def _configure(udp: socket.socket) -> None:
    """Have local address and TOS with each datagram, deep buffers, and fragments, not black holes.

    The kernel module lets the outer packet be fragmented (it never sets DF); so do we.
    """
    if udp.family == socket.AF_INET:
        udp.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        udp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT)
    else:
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        udp.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DONT)
    with contextlib.suppress(OSError):  # before Linux 5.1 nobody knows how long what comes waited
        udp.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS_NEW, 1)
    for forced, polite, length in (
        (SO_RCVBUFFORCE, socket.SO_RCVBUF, BUFFER_LEN),
        (SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER_LEN),
    ):
        try:
            udp.setsockopt(socket.SOL_SOCKET, forced, length)
        except PermissionError:
            udp.setsockopt(socket.SOL_SOCKET, polite, BUFFER_LEN)


def _buffers(udp: socket.socket) -> tuple[int, int]:
    received, sent = (
        udp.getsockopt(socket.SOL_SOCKET, option) // 2  # the kernel doubles what is asked for
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF)
    )
    return received, sent


def _tell_of_small_buffers(received: int, sent: int) -> None:
    if received < BUFFER_LEN or sent < SEND_BUFFER_LEN:
        text = "not permitted to have large socket buffers: %d KiB to receive, %d KiB to send"
        _log.info(text, received >> 10, sent >> 10)


def _can_segment(udp: socket.socket) -> bool:
    try:
        udp.getsockopt(socket.IPPROTO_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True


def _receives_coalesced(udp: socket.socket) -> bool:
    """Switch UDP_GRO on, where it can be trusted."""
    version = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    if version < GRO_FROM_LINUX:
        return False
    try:
        udp.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True
