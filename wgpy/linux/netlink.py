"""Route netlink by pyroute2, without what its messages leave behind.

Each message and each attribute in it refers to itself (`chain` of its nlmsg_base), so reference
counts free none, and the collector, which runs seldom, would let many thousands come together.
They are young when they are done with, and to look through the young alone takes well below a
millisecond.
"""

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator
from typing import Any

from pyroute2 import AsyncIPRoute

from wgpy.addresses import format_address
from wgpy.config import Endpoint


def way_query(to: Endpoint, listen_port: int, fwmark: int) -> dict[str, Any]:
    """Return what asks by which route a tunnel's own messages go (RTM_GETROUTE)."""
    return {
        "dst": format_address(to.address),
        "ip_proto": socket.IPPROTO_UDP,
        "sport": listen_port,
        "dport": to.port,
        "mark": fwmark,
    }


def open_netlink() -> AsyncIPRoute:
    """Return a context manager for a socket that hears no notifications; forget old messages."""
    forget_messages()
    return AsyncIPRoute(groups=0)


class HeldNetlink:
    """A socket that was opened in another namespace, for many requests."""

    def __init__(self, netlink: socket.socket) -> None:
        """Take the socket over."""
        self._netlink = AsyncIPRoute(groups=0, fileno=netlink.detach())
        self._lock = asyncio.Lock()

    def close(self) -> None:
        """Close it."""
        self._netlink.close()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        """Lend it; several may request over it at a time.  Forget old messages."""
        forget_messages()
        async with self._lock:  # two who are the first would give it two transports
            await self._netlink.setup_endpoint()
        yield self._netlink


def forget_messages() -> None:
    """Free the messages that nobody refers to any more."""
    gc.collect(0)
