# SPDX-License-Identifier: MIT
"""Two gateways with a tunnel, and a host behind each."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from netns.lab import Namespace, Side, eventually, join_two, ping, plan_sides

LAN4 = {"left": "10.81.0", "right": "10.82.0"}
LAN6 = {"left": "fd81", "right": "fd82"}


@dataclass(frozen=True)
class Gateways:
    """The gateways' sides, and the hosts: what is sent from one to the other is forwarded twice."""

    left: Side
    right: Side
    source: Namespace
    target: Namespace

    @property
    def parts(self) -> tuple[Side, Side, Namespace, Namespace]:
        return self.left, self.right, self.source, self.target

    def address(self, family: int) -> str:
        """Of the target, in IPv4 or IPv6."""
        return f"{LAN4['right']}.2" if family == 4 else f"{LAN6['right']}::2"

    def learn_mtu(self, family: int) -> None:
        """The source knows what fits through the tunnel on the way to the target."""
        address = self.address(family)
        too_long = ["ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1440", address]
        self.source.run(*too_long, check=False)
        get = ["ip", "route", "get", address]
        eventually(lambda: "mtu 1420" in self.source.run(*get), "the path's MTU")


def route_behind(host: Namespace, side: str) -> None:
    """The way out of a LAN is its gateway."""
    host.run("ip", "route", "add", "default", "via", f"{LAN4[side]}.1")
    host.run("ip", "route", "add", "default", "via", f"{LAN6[side]}::1")


def number(host: Namespace, device: str, side: str, last: int) -> None:
    """Gives the device its addresses in the LAN and sets it up."""
    host.run("ip", "address", "add", f"{LAN4[side]}.{last}/24", "dev", device)
    host.run("ip", "address", "add", f"{LAN6[side]}::{last}/64", "dev", device, "nodad")
    host.run("sysctl", "-qw", f"net.ipv6.conf.{device}.accept_dad=0")
    host.run("ip", "link", "set", device, "up")


def attach(gateway: Namespace, host: Namespace, side: str) -> None:
    """A host behind a gateway, on a network of their own."""
    veth = ["type", "veth", "peer", "name", "lan", "netns", host.name]
    gateway.run("ip", "link", "add", "lan", *veth)
    for end, last in ((gateway, 1), (host, 2)):
        number(end, "lan", side, last)
    route_behind(host, side)
    gateway.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")


def make_gateways(
    make: Callable[..., Namespace], directory: Path, *, workers: int | None = None
) -> Gateways:
    """Starts the daemons, with so many workers or as they like; they have a session at the end."""
    left, right = plan_sides(join_two(make), directory)
    hosts = make(), make()
    setting = [] if workers is None else ["env", f"WGPY_WORKERS={workers}"]
    names = ("left", "right"), ("right", "left")
    for side, peer, host, (name, other) in zip(
        (left, right), (right, left), hosts, names, strict=True
    ):
        attach(side.host, host, name)
        side.host.run(*setting, "wgpy", side.interface)
        lan = f"{LAN4[other]}.0/24, {LAN6[other]}::/64"
        allowed = f"{peer.inner4}/32, {peer.inner6}/128, {lan}"
        side.configure(side.settings(peer, allowed=allowed))
        for network in lan.split(", "):
            side.host.run("ip", "route", "add", network, "dev", side.interface)
    made = Gateways(left, right, *hosts)
    ping(made.source, made.address(4))
    return made


@contextmanager
def jumbo_frames(gateways: Gateways) -> Iterator[None]:
    """The MTU of both LANs is 9000."""
    _, _, source, target = gateways.parts
    ends = source, target, gateways.left.host, gateways.right.host
    with ExitStack() as stack:
        for end in ends:
            stack.callback(end.run, "ip", "link", "set", "lan", "mtu", "1500")
            end.run("ip", "link", "set", "lan", "mtu", "9000")
        yield
