# SPDX-License-Identifier: MIT
"""What an interface is given besides its TUN: addresses, MTU, and routes into it.

In a private network all that is not at an address of its own goes into the TUN, which leaves it to
the allowed IPs of the peers: what no peer has is answered with ICMP unreachable there, and so no
route has to follow a peer that comes or goes.  An interface of the system has the routes that it is
told.  See rtnetlink(7).

Raised is OSError, whose filename says what could not be had.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Final

from wgpy.linux.netlink import Netlink, Network, Refused

LOOPBACK: Final = "lo"
DEFAULT_ROUTE: Final[Mapping[int, Network]] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}

InterfaceAddress = IPv4Interface | IPv6Interface


def equip(netlink: Netlink, name: str, addresses: Sequence[InterfaceAddress], mtu: int) -> None:
    """Do for a private network what set_up does, and lead all of it into the interface.

    A family without an address has no route either, so that programs do not try it in vain.
    """
    with _telling(LOOPBACK):
        netlink.set_link(LOOPBACK, up=True)
    index = set_up(netlink, name, addresses, mtu)
    for version in sorted({address.version for address in addresses}):
        with _telling("a default route"):
            netlink.add_route(index, DEFAULT_ROUTE[version])


def set_up(netlink: Netlink, name: str, addresses: Sequence[InterfaceAddress], mtu: int) -> int:
    """Set addresses and MTU (bytes) of the interface and bring it up; return its index."""
    with _telling(f"an MTU of {mtu}"):
        index = netlink.link(name).index
        netlink.set_link(name, mtu=mtu)
    for address in addresses:
        with _telling(f"the address {address}"):
            netlink.add_address(index, address)
    with _telling("its link up"):
        netlink.set_link(name, up=True)
    return index


def add_route(netlink: Netlink, index: int, network: Network) -> None:
    """Lead what is for the network into the interface."""
    with _telling(f"the route to {network}"):
        netlink.add_route(index, network)


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), what) from error
