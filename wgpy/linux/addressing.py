"""What an interface is given besides its TUN: addresses, MTU, and routes into it.

In a private network all that is not at an address of its own goes into the TUN, which leaves it to
the allowed IPs of the peers: what no peer has is answered with ICMP unreachable there, and so no
route has to follow a peer that comes or goes.  An interface of the system has the routes that it is
told.  See rtnetlink(7).

Raised is OSError, whose filename says what could not be had.
"""

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Any, Final

from pyroute2 import NetlinkError

LOOPBACK: Final = "lo"
FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}

InterfaceAddress = IPv4Interface | IPv6Interface


async def equip(netlink: Any, name: str, addresses: Sequence[InterfaceAddress], mtu: int) -> None:
    """Do for a private network what set_up does, and lead all of it into the interface.

    A family without an address has no route either, so that programs do not try it in vain.
    """
    with _telling(LOOPBACK):
        await netlink.link("set", ifname=LOOPBACK, state="up")
    index = await set_up(netlink, name, addresses, mtu)
    for version in sorted({address.version for address in addresses}):
        with _telling("a default route"):
            await netlink.route("add", family=FAMILY[version], dst="default", oif=index)


async def set_up(netlink: Any, name: str, addresses: Sequence[InterfaceAddress], mtu: int) -> int:
    """Set addresses and MTU (bytes) of the interface and bring it up; return its index."""
    with _telling(f"an MTU of {mtu}"):
        (interface,) = await netlink.link("get", ifname=name)
        index: int = interface["index"]
        await netlink.link("set", index=index, mtu=mtu)
    for address in addresses:
        with _telling(f"the address {address}"):
            text, prefix_len = str(address.ip), address.network.prefixlen
            await netlink.addr("add", index=index, address=text, prefixlen=prefix_len)
    with _telling("its link up"):
        await netlink.link("set", index=index, state="up")
    return index


async def add_route(netlink: Any, index: int, network: IPv4Network | IPv6Network) -> None:
    """Lead what is for the network into the interface."""
    with _telling(f"the route to {network}"):
        await netlink.route("add", family=FAMILY[network.version], dst=str(network), oif=index)


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code), what) from error
