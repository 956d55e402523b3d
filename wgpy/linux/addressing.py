"""What a private network is given besides its TUN: addresses, MTU, and routes into it.

All that is not at an address of its own goes into the TUN, which leaves it to the allowed IPs of
the peers: what no peer has is answered with ICMP unreachable there, and so no route has to follow a
peer that comes or goes.  See rtnetlink(7).
"""

import os
import socket
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any, Final

from pyroute2 import NetlinkError

LOOPBACK: Final = "lo"
FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}

InterfaceAddress = IPv4Interface | IPv6Interface


async def equip(netlink: Any, name: str, addresses: Sequence[InterfaceAddress], mtu: int) -> None:
    """Set addresses and MTU (bytes) of the interface and bring it up; raises OSError.

    A family without an address has no route either, so that programs do not try it in vain.
    """
    try:
        await netlink.link("set", ifname=LOOPBACK, state="up")
        (interface,) = await netlink.link("get", ifname=name)
        index = interface["index"]
        await netlink.link("set", index=index, mtu=mtu)
        for address in addresses:
            text, prefix_len = str(address.ip), address.network.prefixlen
            await netlink.addr("add", index=index, address=text, prefixlen=prefix_len)
        await netlink.link("set", index=index, state="up")
        for version in sorted({address.version for address in addresses}):
            await netlink.route("add", family=FAMILY[version], dst="default", oif=index)
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error
