# SPDX-License-Identifier: MIT
"""An interface of the system inside a program, as the command wgpy makes one.

It needs no daemon beside it, and ends with the program.

    async with Interface("wg0", Config.from_file("wg0.conf")) as interface:
        print(await interface.until_end())
"""

import asyncio
import contextlib
import errno
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Final

from wgpy.config import require
from wgpy.embedded import Embedded
from wgpy.errors import ConfigError, StartError
from wgpy.linux.refusals import why_no_interface
from wgpy.linux.tun import DEFAULT_MTU, Tun, check_name, open_tun
from wgpy.settings import Config
from wgpy.wgquick import Network

if TYPE_CHECKING:
    from wgpy.linux.netlink import Netlink

NO_DEFAULT_ROUTE: Final = (
    "its allowed IPs ask for a default route, which would lead its own messages into it: "
    "give routes=False and lay routes as they are to be, or use wg-quick or a Tunnel"
)


class Interface(Embedded):
    """An async context manager: the interface exists inside of it, for all programs of the host.

    It has addresses and MTU of the configuration, its link is up, wg finds its socket and wgpyctl
    its status.  It takes CAP_NET_ADMIN.

    With `routes` the host sends into it what is for the allowed IPs of the configuration, as with
    wg-quick.  That is settled on entering: who comes later, by `configure` or `wg set`, is given no
    route.  A default route (0.0.0.0/0, ::/0) is refused with ConfigError: the tunnel's own messages
    would take it, and without it all would leave the host as before.  `routes=False` is for whoever
    lays the routes otherwise.  DNS servers and search domains are passed over.

    Entering raises StartError where the interface cannot be had, with what to do about it, and
    ConfigError for a configuration that cannot be applied.  What is asked of an interface that has
    ended raises ConnectionResetError.
    """

    def __init__(self, name: str, config: Config, *, routes: bool = True) -> None:
        """Take what it is to be.  Raises ConfigError for a bad name or a default route."""
        super().__init__(config, name)
        try:
            check_name(name)
        except ValueError as error:
            raise ConfigError(errno.EINVAL, str(error)) from None
        self._routes = routes_of(config) if routes else ()

    async def _assemble(self, stack: contextlib.AsyncExitStack) -> None:
        """Open all, in the order of the daemon: TUN, sockets of clients, plane, engine, servers."""
        from wgpy.dataplane.plane import default_workers
        from wgpy.linux.link import Link
        from wgpy.linux.sockets import open_sockets
        from wgpy.listeners import Access, open_listeners, serve

        tun = stack.enter_context(contextlib.closing(self._open_tun(default_workers())))
        link = stack.enter_context(contextlib.closing(Link(tun.fds[0])))
        listeners = open_listeners(stack, link.name, Access())
        open_udp = partial(open_sockets, workers=len(tun.fds))
        engine = self._start_engine(stack, tun, link, open_udp, with_fwmark=True)
        serve(stack, engine, listeners, self._changing)
        await self._set_up(link.netlink)
        await engine.until_up()

    def _open_tun(self, workers: int) -> Tun:
        try:
            return open_tun(self._name, queues=workers)
        except OSError as error:
            raise StartError(why_no_interface(self._name, error)) from error

    async def _set_up(self, netlink: "Netlink") -> None:
        from wgpy.linux.addressing import add_route, set_up

        mtu = self._config.mtu or DEFAULT_MTU
        try:
            index = set_up(netlink, self._name, self._config.addresses, mtu)
            for network in self._routes:
                add_route(netlink, index, network)
                await asyncio.sleep(0)  # there may be many
        except OSError as error:
            reason = f"{self._name} cannot have {error.filename}: {error.strerror}"
            raise StartError(reason) from error


def routes_of(config: Config) -> tuple[Network, ...]:
    """Return what is to be led into the interface beyond the networks of its own addresses.

    Raises ConfigError for a default route.
    """
    own = [address.network for address in config.addresses]
    wanted = {network: None for peer in config.peers for network in peer.allowed_ips}
    require(all(network.prefixlen for network in wanted), NO_DEFAULT_ROUTE)
    return tuple(network for network in wanted if not any(_within(network, one) for one in own))


def _within(network: Network, other: Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(other, IPv4Network) and network.subnet_of(other)
    return isinstance(other, IPv6Network) and network.subnet_of(other)
