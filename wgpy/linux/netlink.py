"""Route netlink by pyroute2, without what its messages leave behind.

Each message and each attribute in it refers to itself (`chain` of its nlmsg_base), so reference
counts free none, and the collector, which runs seldom, would let many thousands come together.
They are young when they are done with, and to look through the young alone takes well below a
millisecond.
"""

import contextlib
import gc
import socket
from typing import Any

from pyroute2 import AsyncIPRoute


def open_netlink(held: AsyncIPRoute | None = None) -> Any:
    """Return a context manager for a socket that hears no notifications; forget old messages.

    One that is held stays open; several may request over it at a time.
    """
    forget_messages()
    return AsyncIPRoute(groups=0) if held is None else contextlib.nullcontext(held)


def hold_netlink(netlink: socket.socket) -> AsyncIPRoute:
    """Take over a socket that was opened in another namespace, for open_netlink."""
    return AsyncIPRoute(groups=0, fileno=netlink.detach())


def forget_messages() -> None:
    """Free the messages that nobody refers to any more."""
    gc.collect(0)
