# SPDX-License-Identifier: MIT
"""What the kernel of this host and hosts on the way tell of a path, when they are asked.

Every question has a socket of its own: an error that comes back on a socket fails the next send of
whoever uses it, so never on one that carries a tunnel (IP_RECVERR of ip(7)).
"""

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wgpy.addresses import format_address
from wgpy.config import Endpoint
from wgpy.linux.netlink import Netlink, Refused
from wgpy.linux.sockets import IP_MTU_DISCOVER, IPV6_MTU_DISCOVER

ERROR_WAIT_S: Final = 1.0  # for errors from the way; most come within a round trip
_PROC_NET: Final = Path("/proc/net")

# <linux/in.h>, <linux/in6.h>, <linux/errqueue.h>
_PMTUDISC_DO: Final = 2
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_IP_MTU, _IPV6_MTU = 14, 24
_EXTENDED_ERROR: Final = struct.Struct("=I4B2I")  # sock_extended_err: errno, origin, ..., info
_ORIGIN_LOCAL: Final = 1


@dataclass(frozen=True, slots=True)
class Link:
    """An interface of this network namespace."""

    up: bool
    mtu: int  # bytes


@dataclass(frozen=True, slots=True)
class WayError:
    """What came back of a datagram."""

    errno: int
    reporter: str = ""  # the address of the host that said so, empty: this one
    mtu: int = 0  # of the path, with EMSGSIZE


@dataclass(frozen=True, slots=True)
class Way:
    """What a connected socket learned of a path."""

    mtu: int  # bytes, as far as this host knows
    errors: tuple[WayError, ...]
    marked: bool  # sent with the mark that the tunnel's own messages have


def find_link(name: str) -> Link | None:
    """Return it, None if it is not in this network namespace.  Raises OSError."""
    with contextlib.closing(Netlink()) as netlink:
        try:
            state = netlink.link(name)
        except Refused:
            return None
    return Link(state.up, state.mtu)


def find_way_out(to: Endpoint, fwmark: int, port: int) -> str | None:
    """Return the interface by which a tunnel's own messages leave, None if there is no route.

    Raises OSError.
    """
    if to.scope_id:  # fixes it
        return _name_of(to.scope_id)
    with contextlib.closing(Netlink()) as netlink:
        try:
            return _name_of(netlink.way_out(to, port, fwmark))
        except Refused:
            return None


def _name_of(index: int) -> str | None:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return None


def try_way(to: Endpoint, fwmark: int, size: int | None) -> Way:
    """Send an empty datagram and one of size bytes (with all headers) that must not be cut up.

    No WireGuard answers to either.  Without a size only the first one is sent.  Raises OSError for
    what this host refuses at once.
    """
    family = socket.AF_INET if len(to.address) == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        marked = _mark(udp, fwmark)
        _ask_for_errors(udp)
        udp.connect(_sockaddr(to))
        udp.send(b"")
        if size is not None:
            # What fails now is too long, or the answer to the first one: _errors tells it.
            with contextlib.suppress(OSError):
                udp.send(bytes(size - _headers(family)))
        errors = tuple(_errors(udp))
        return Way(_known_mtu(udp), errors, marked)


def bound_ports() -> set[int]:
    """Return the UDP ports that somebody has in this network namespace, as far as one may know."""
    ports = set()
    for table in ("udp", "udp6"):
        try:
            lines = (_PROC_NET / table).read_text().splitlines()[1:]
        except OSError:
            continue
        ports |= {int(line.split()[1].rpartition(":")[2], 16) for line in lines}
    return ports


def _sockaddr(to: Endpoint) -> tuple[str, int] | tuple[str, int, int, int]:
    address = format_address(to.address)
    return (address, to.port) if len(to.address) == 4 else (address, to.port, 0, to.scope_id)


def _headers(family: int) -> int:
    return 28 if family == socket.AF_INET else 48  # IP and UDP


def _mark(udp: socket.socket, fwmark: int) -> bool:
    if fwmark:
        try:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", fwmark))
        except PermissionError:
            return False
    return True


def _ask_for_errors(udp: socket.socket) -> None:
    if udp.family == socket.AF_INET:
        udp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, _PMTUDISC_DO)
        udp.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    else:
        udp.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, _PMTUDISC_DO)
        udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)


def _known_mtu(udp: socket.socket) -> int:
    if udp.family == socket.AF_INET:
        return udp.getsockopt(socket.IPPROTO_IP, _IP_MTU)
    return udp.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)


def _errors(udp: socket.socket) -> Iterator[WayError]:
    """Yield what comes back in ERROR_WAIT_S."""
    poll = select.poll()
    poll.register(udp, 0)  # POLLERR is always told
    deadline_s = time.monotonic() + ERROR_WAIT_S
    while (left_s := deadline_s - time.monotonic()) > 0 and poll.poll(left_s * 1000):
        try:
            _, control, _, _ = udp.recvmsg(1, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except BlockingIOError:
            udp.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # or POLLERR stays
            continue
        yield from (_error(data) for _, kind, data in control if kind in _ERROR_KINDS)


_ERROR_KINDS: Final = (_IP_RECVERR, _IPV6_RECVERR)


def _error(data: bytes) -> WayError:
    number, origin, _type, _code, _pad, info, _data = _EXTENDED_ERROR.unpack_from(data)
    reporter = "" if origin == _ORIGIN_LOCAL else _offender(data[_EXTENDED_ERROR.size :])
    return WayError(number, reporter, info if number == errno.EMSGSIZE else 0)


def _offender(sockaddr: bytes) -> str:
    """Return the address of SO_EE_OFFENDER."""
    (family,) = struct.unpack_from("=H", sockaddr)
    if family == socket.AF_INET:
        return format_address(sockaddr[4:8])
    return format_address(sockaddr[8:24]) if family == socket.AF_INET6 else ""


def is_before_program() -> bool:
    """Tell whether the clock shows a time before this very file was written."""
    return time.time() < os.stat(__file__).st_mtime
