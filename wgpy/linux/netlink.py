"""Route netlink by pyroute2, without what its messages leave behind.

Each message and each attribute in it refers to itself (`chain` of its nlmsg_base), so reference
counts free none, and the collector, which runs seldom, would let many thousands come together.
They are young when they are done with, and to look through the young alone takes well below a
millisecond.
"""

import gc

from pyroute2 import AsyncIPRoute


def open_netlink() -> AsyncIPRoute:
    """Return a context manager for a socket that hears no notifications; forget old messages."""
    forget_messages()
    return AsyncIPRoute(groups=0)


def forget_messages() -> None:
    """Free the messages that nobody refers to any more."""
    gc.collect(0)
