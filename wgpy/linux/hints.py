# SPDX-License-Identifier: MIT
"""Netlink notifications, taken only as hints that something may have changed.

Nobody reads what they say: whoever waits for one looks at the present state afterwards.  So none
can be missed, overtaken or misread, and a socket buffer that overflows does no harm.  See
netlink(7), rtnetlink(7).
"""

import asyncio
import contextlib
import errno
import socket
from typing import Final

# <linux/netlink.h>, <linux/socket.h>
NETLINK_ADD_MEMBERSHIP: Final = 1
NETLINK_LISTEN_ALL_NSID: Final = 8
SOL_NETLINK: Final = 270

# <linux/rtnetlink.h>
RTNLGRP_LINK: Final = 1
RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR = 5, 9
RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE = 7, 11
RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE = 8, 19


class Hints:
    """Route netlink groups that somebody waits for, one at a time.

    everywhere tells whether hints come from other namespaces too.
    """

    def __init__(
        self, *groups: int, all_namespaces: bool = False, netlink: socket.socket | None = None
    ) -> None:
        """Begin to listen to RTNLGRP_*, if wanted in all namespaces that have an id here.

        Those take CAP_NET_BROADCAST, and without it hints come from here only.  An open netlink
        socket has another "here"; it is taken over.  Raises OSError.
        """
        with contextlib.ExitStack() as stack:
            if netlink is None:
                netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._socket = stack.enter_context(netlink)
            netlink.setblocking(False)
            netlink.bind((0, 0))
            for group in groups:
                netlink.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
            self.everywhere = all_namespaces and _hears_everywhere(netlink)
            stack.pop_all()

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def fileno(self) -> int:
        """Give the descriptor that is readable when there are hints."""
        return self._socket.fileno()

    async def wait(self) -> None:
        """Return as soon as there has been a hint since the last time."""
        await readable(self.fileno())
        self.take()

    def take(self) -> None:
        """Throw away the hints up to now.  Raises OSError."""
        while True:
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # some were lost, but not that there were any
                    raise


class Pace:
    """How often somebody looks who looks for hints: some times at once, then at a steady rate."""

    def __init__(self, interval_s: float, burst: int) -> None:
        """Allow `burst` looks at once, and one more each interval."""
        self._interval_s = interval_s
        self._tolerance_s = interval_s * (burst - 1)
        self._next_s = 0.0  # when the next look would be, were they all an interval apart

    def wait_s(self, now_s: float) -> float:
        """Take a turn to look; return the seconds until then, on a clock that shows now_s."""
        turn_s = max(self._next_s, now_s)
        self._next_s = turn_s + self._interval_s
        return max(0.0, turn_s - self._tolerance_s - now_s)


def _hears_everywhere(netlink: socket.socket) -> bool:
    """Switch NETLINK_LISTEN_ALL_NSID on, where it is permitted."""
    try:
        netlink.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
    except OSError:
        return False
    return True


async def readable(fd: int, timeout_s: float | None = None) -> None:
    """Wait until the descriptor is readable, or for timeout_s if that is less."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    timer = None if timeout_s is None else loop.call_later(timeout_s, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
        if timer is not None:
            timer.cancel()
