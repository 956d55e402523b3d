# SPDX-License-Identifier: MIT
"""Keeps sticky sources right while routes change, and knows of routes into the tunnel itself.

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

A route to a peer's endpoint may lead into our own tunnel, and in there to that peer.  C drops what
comes back so, each message by itself, and says that it has; that alone causes a look, so it costs
nothing to have many peers.  If the route does lead into our interface, nothing is sent until a look
after a hint or a configuration finds it mended.  C's word would not do for that: others could
replay what they saw outside.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final, NoReturn

from wgpy.config import Endpoint
from wgpy.linux.hints import (
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV4_RULE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV6_RULE,
    RTNLGRP_LINK,
    Hints,
)
from wgpy.linux.netlink import Netlink, Refused
from wgpy.ports import Paths

GROUPS: Final = (
    RTNLGRP_LINK,  # IPv4 routes go without a word when their interface goes down
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV4_RULE,
    RTNLGRP_IPV6_RULE,
)
SETTLE_S: Final = 0.05  # from the first hint of a burst; from a look at loops to the next
REST: Final = 4  # times what a look took: with many peers and unruly routes, a fifth of the time


class RouteWatch:
    """Judges paths in the namespace that we live in, which is that of the UDP sockets."""

    def __init__(self, device: Paths, own_interface: Callable[[], int]) -> None:
        """Look after the paths of this device; own_interface gives its index here, 0 for none."""
        self._device = device
        self._own_interface = own_interface
        self._suspicion = asyncio.Event()

    def suspect(self) -> None:
        """Judge the device's loops soon."""
        self._suspicion.set()

    async def run(self) -> NoReturn:
        """Never end.  Raises OSError when hints cannot be had."""
        await asyncio.gather(self._watch_paths(), self._watch_loops())
        raise AssertionError("neither ends")

    async def _watch_paths(self) -> NoReturn:
        with contextlib.closing(Hints(*GROUPS)) as hints:
            while True:
                await hints.wait()
                await asyncio.sleep(SETTLE_S)
                hints.take()
                start = time.monotonic()
                with contextlib.suppress(OSError):  # short of memory: the next hint will do
                    await self.look()
                self.suspect()
                await asyncio.sleep(REST * (time.monotonic() - start))

    async def _watch_loops(self) -> NoReturn:
        while True:
            await self._suspicion.wait()
            self._suspicion.clear()
            start = time.monotonic()
            with contextlib.suppress(OSError):  # likewise
                await self.look_at_loops()
            await asyncio.sleep(SETTLE_S + REST * (time.monotonic() - start))

    async def look(self) -> None:
        """Judge every path by the present routes.  Raises OSError."""
        with contextlib.closing(Netlink()) as netlink:
            for piece in self._device.paths():
                for slot, path in piece:
                    self._check_path(netlink, slot, path)
                await asyncio.sleep(0)

    async def look_at_loops(self) -> None:
        """Judge what may be a loop by the present routes.  Raises OSError."""
        own = self._own_interface()
        with contextlib.closing(Netlink()) as netlink:
            for slot, endpoint in self._device.loops():
                interface = endpoint.scope_id
                if not interface and self._check_path(netlink, slot, endpoint):
                    interface = endpoint.source_ifindex
                if not interface:
                    interface = self._way_out(netlink, endpoint)
                self._device.set_leads_in(slot, endpoint, own != 0 and interface == own)
                await asyncio.sleep(0)

    def _check_path(self, netlink: Netlink, slot: int, path: Endpoint) -> bool:
        """Tell and return whether the path has a source that holds; a zone fixes the interface."""
        if path.scope_id or not path.source:
            return False
        interface = self._way_out(netlink, path, path.source)
        holds = interface != 0 and interface == path.source_ifindex
        self._device.allow_source(slot, path, holds)
        return holds

    def _way_out(self, netlink: Netlink, to: Endpoint, source: bytes = b"") -> int:
        """Ask by which interface the kernel sends, 0 if it cannot."""
        try:
            return netlink.way_out(to, self._device.listen_port, self._device.fwmark, source)
        except Refused:  # the source is not ours any more, or nothing leads there from it
            return 0
