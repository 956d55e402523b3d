"""Keeps sticky sources right while routes change.

What we send to a peer leaves from the address that it asked (C remembers and replays it), and from
there takes the route that the kernel finds.  Too sticky would be to do so when the way to the peer
has changed: a laptop that went from one network to another would go on to send from an address that
nobody answers to any more.

Rule, as the Linux kernel module has it for IPv4, and here for both: a source is good as long as the
route from it to the peer leaves by the interface on which the peer's packets reach it.  Otherwise
the kernel chooses.  The module looks that up with every packet.  Here it is looked up after every
hint that routes, rules, addresses or links have changed, a burst of hints at a time.  To forget all
sources at each hint would be simpler, but hints come with every container and every VPN that
starts, and from another address than the one asked a peer behind NAT or a firewall hears nothing.

Between hints nothing is looked up, so a host whose route to a peer always left by another interface
than the peer's packets come in by still answers from the address that was asked.

An address that is gone is noticed at once, without a hint: the kernel refuses to send from it.
"""

import asyncio
import contextlib
import ipaddress
import socket
import time
from typing import Final, NoReturn, Protocol

from pyroute2 import AsyncIPRoute, NetlinkError
from pyroute2.netlink import rtnl

from wgpy.config import Endpoint
from wgpy.hints import Hints

GROUPS: Final = (
    rtnl.RTNLGRP_LINK,  # IPv4 routes go without a word when their interface goes down
    rtnl.RTNLGRP_IPV4_IFADDR,
    rtnl.RTNLGRP_IPV6_IFADDR,
    rtnl.RTNLGRP_IPV4_ROUTE,
    rtnl.RTNLGRP_IPV6_ROUTE,
    rtnl.RTNLGRP_IPV4_RULE,
    rtnl.RTNLGRP_IPV6_RULE,
)
SETTLE_S: Final = 0.05  # from the first hint of a burst
REST: Final = 4  # times what a look took: with many peers and unruly routes, a fifth of the time


class Paths(Protocol):
    """Whose paths to look after: wgpy.device.Device."""

    @property
    def listen_port(self) -> int:
        """The UDP port that we send from."""

    @property
    def fwmark(self) -> int:
        """The mark that decides on routes, 0 for none."""

    def paths(self) -> list[tuple[int, Endpoint]]:
        """Return slots and endpoints that have a sticky source."""

    def judge_path(self, slot: int, path: Endpoint, holds: bool) -> None:
        """Send from the source of this path, or no more."""


class RouteWatch:
    """Judges paths in the namespace that we live in, which is that of the UDP sockets."""

    def __init__(self, device: Paths) -> None:
        """Look after the paths of this device."""
        self._device = device

    async def run(self) -> NoReturn:
        """Never end.  Raises OSError when hints cannot be had."""
        with contextlib.closing(Hints(*GROUPS)) as hints:
            while True:
                await hints.wait()
                await asyncio.sleep(SETTLE_S)
                hints.take()
                start = time.monotonic()
                with contextlib.suppress(OSError):  # short of memory: the next hint will do
                    await self.look()
                await asyncio.sleep(REST * (time.monotonic() - start))

    async def look(self) -> None:
        """Judge every path by the present routes.  Raises OSError."""
        async with AsyncIPRoute(groups=0) as netlink:
            for slot, path in self._device.paths():
                if not path.scope_id:  # a zone fixes the interface
                    self._device.judge_path(slot, path, await self._holds(netlink, path))

    async def _holds(self, netlink: AsyncIPRoute, path: Endpoint) -> bool:
        try:
            (route,) = await netlink.route(
                "get",
                dst=str(ipaddress.ip_address(path.address)),
                src=str(ipaddress.ip_address(path.source)),
                ip_proto=socket.IPPROTO_UDP,
                sport=self._device.listen_port,
                dport=path.port,
                mark=self._device.fwmark,
            )
        except NetlinkError:  # the source is not ours any more, or nothing leads there from it
            return False
        return bool(route.get_attr("RTA_OIF") == path.source_ifindex)
