# SPDX-License-Identifier: MIT
"""The ways that a stream can take: from one host to the other, and through them as gateways.

Each makes what it needs beside a tunnel that is up, and takes it away again.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from bench.topology import NESTED, Host, Namespace, Tunnel, tunnel

LAN = "lan"  # both ends of the cable between a gateway and the host behind it
NO_DAD = f"/proc/sys/net/ipv6/conf/{LAN}/accept_dad"  # a gateway asks by its link-local address
SWITCHES = "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"


@dataclass(frozen=True, slots=True)
class Ends:
    """Who talks to whom, and the tunnels on the way, the outermost first."""

    client: Namespace
    server: Namespace
    address4: str  # the server's
    address6: str
    tunnels: tuple[Tunnel, ...]

    def check(self) -> None:
        """Ping.  LabError: a packet doesn't come through."""
        for address in (self.address4, self.address6):
            self.client.run("ping", "-n", "-q", "-c", "1", "-w", "10", address)


Way = Callable[[Tunnel], AbstractContextManager[Ends]]


@dataclass(frozen=True, slots=True)
class LanHost(Namespace):
    """A machine behind a gateway, on a network of their own."""

    gateway: Host

    @property
    def prefixes(self) -> tuple[str, str]:
        """What all addresses of the network begin with."""
        return f"10.8{self.gateway.number}.0.", f"fd8{self.gateway.number}::"

    @property
    def networks(self) -> tuple[str, str]:
        """Both of IPv4 and IPv6, for a route."""
        prefix4, prefix6 = self.prefixes
        return f"{prefix4}0/24", f"{prefix6}/64"

    @property
    def addresses(self) -> tuple[str, str]:
        """Likewise."""
        prefix4, prefix6 = self.prefixes
        return f"{prefix4}2", f"{prefix6}2"

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Make it for as long as the context lasts; it reaches all others by its gateway."""
        prefix4, prefix6 = self.prefixes
        with self.made(), self.gateway.joined(self, LAN):
            for machine, number in ((self.gateway, 1), (self, 2)):
                machine.run("tee", NO_DAD, stdin="0\n")
                machine.ip("address", "add", f"{prefix4}{number}/24", "dev", LAN)
                machine.ip("address", "add", f"{prefix6}{number}/64", "dev", LAN, "nodad")
                machine.ip("link", "set", LAN, "up")
            for prefix in self.prefixes:
                self.ip("route", "add", "default", "via", f"{prefix}1")
            yield


@contextlib.contextmanager
def direct(up: Tunnel) -> Iterator[Ends]:
    """Let the hosts themselves talk."""
    yield Ends(up.a, up.b, up.b.inner4, up.b.inner6, (up,))


@contextlib.contextmanager
def forwarded(up: Tunnel) -> Iterator[Ends]:
    """Make the hosts gateways: one behind the one talks to one behind the other."""
    lans = [LanHost(f"{host.name}-{LAN}", host) for host in up.hosts]
    with contextlib.ExitStack() as stack:
        for lan in lans:
            stack.enter_context(lan.attached())
            stack.enter_context(_forwarding(lan.gateway))
        far = dict(zip(up.hosts, reversed(lans), strict=True))
        more = {host.name: f"AllowedIPs = {', '.join(lan.networks)}\n" for host, lan in far.items()}
        stack.enter_context(up.with_more(more))
        for host, lan in far.items():
            for network in lan.networks:
                stack.enter_context(_routed(host, network))
        ends = Ends(lans[0], lans[1], *lans[1].addresses, (up,))
        ends.check()
        yield ends


@contextlib.contextmanager
def masqueraded(up: Tunnel) -> Iterator[Ends]:
    """Do the same, but let the client be seen as its gateway."""
    rule = f"oifname {up.a.interface} masquerade"
    chain = f"type nat hook postrouting priority srcnat; {rule};"
    with forwarded(up) as ends, up.a.with_chain(chain):
        yield ends


@contextlib.contextmanager
def nested(up: Tunnel) -> Iterator[Ends]:
    """Let the hosts talk through a second tunnel of the same program, and that through `up`."""
    with tunnel(up.implementation, up.has_pins, NESTED) as inner:
        yield Ends(inner.a, inner.b, inner.b.inner4, inner.b.inner6, (up, inner))


@contextlib.contextmanager
def _forwarding(gateway: Host) -> Iterator[None]:
    """Let the gateway forward while the context lasts."""
    gateway.run("tee", *SWITCHES, stdin="1\n")
    try:
        yield
    finally:
        gateway.run("tee", *SWITCHES, stdin="0\n")


@contextlib.contextmanager
def _routed(host: Host, network: str) -> Iterator[None]:
    """Send what is for the network into the tunnel."""
    host.ip("route", "add", network, "dev", host.interface)
    try:
        yield
    finally:
        host.ip("route", "delete", network, "dev", host.interface)
