# SPDX-License-Identifier: MIT
"""Two hosts with a router between them.

Everything is run by one process: sockets are opened, and tools started, by short-lived threads that
have entered a namespace, for under emulation a process costs a tenth of a second and a Python
process several.
"""

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from netns.lab import ENVIRONMENT, Namespace, eventually, run

P = ParamSpec("P")
T = TypeVar("T")

# How much slower than usual everything is.
SLOWNESS = 10 if os.environ.get("WGPY_KERNEL_VM") == "tcg" else 1
TIMEOUT_S = 10.0 + 3 * SLOWNESS

CABLE_MTU = 1500
JUMBO_MTU = 65535

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>
BUFFER_LEN = 8 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def _enter(namespace: str) -> None:
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to {namespace}")
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Host(Namespace):
    """A namespace that is entered by threads."""

    def inside(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What it opens or starts belongs to this host."""
        with ThreadPoolExecutor(1, initializer=_enter, initargs=(self.name,)) as executor:
            return executor.submit(call, *args, **kwargs).result()

    def run(self, *command: str, stdin: str = "", check: bool = True) -> str:
        return self.inside(run, command, stdin, check=check)

    def ip(self, *commands: str) -> None:
        """Several commands for ip at the price of one; all have to succeed."""
        self.run("ip", "-batch", "-", stdin="\n".join(commands))

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        def popen() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
            )

        return self.inside(popen)

    def sysctl(self, name: str, value: int) -> None:
        path = Path("/proc/sys/net", name)
        self.inside(path.write_text, str(value))

    def udp(self, address: str, port: int = 0) -> socket.socket:
        """A bound socket with room for all that a test sends."""

        def opened() -> socket.socket:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            made = socket.socket(family, socket.SOCK_DGRAM)
            made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_LEN)
            made.settimeout(TIMEOUT_S)
            made.bind((address, port))
            return made

        return self.inside(opened)

    def set_outer(self, address: str, *, old: str) -> None:
        """Gives it another address on its cable."""
        length = 64 if ":" in address else 24
        nodad = " nodad" if ":" in address else ""
        self.ip(
            f"address add {address}/{length} dev cable{nodad}",
            f"address delete {old}/{length} dev cable",
        )
        self.wait_for_address(address)

    def wait_for_address(self, address: str) -> None:
        """Until it takes packets to its own: Linux puts that off for IPv6, nodad or not."""
        family = "-6" if ":" in address else "-4"
        route = ("ip", family, "route", "show", "table", "local", address)
        eventually(lambda: self.run(*route), f"the use of {address}", TIMEOUT_S)


@dataclass(frozen=True)
class Network:
    """The router's cables are called left and right, the hosts' are called cable."""

    left: Host
    router: Host
    right: Host

    @classmethod
    def named(cls, prefix: str) -> "Network":
        return cls(
            Host(f"{prefix}-left", "192.0.2.2", "2001:db8:1::2"),
            Host(f"{prefix}-router"),
            Host(f"{prefix}-right", "198.51.100.2", "2001:db8:2::2"),
        )

    def create(self) -> None:
        self.router.create()
        self.router.sysctl("ipv4/ip_forward", 1)
        self.router.sysctl("ipv6/conf/all/forwarding", 1)
        gateways = ("192.0.2.1", "2001:db8:1::1"), ("198.51.100.1", "2001:db8:2::1")
        for host, cable, (gate4, gate6) in zip(
            (self.left, self.right), ("left", "right"), gateways, strict=True
        ):
            host.create()
            host.sysctl("ipv4/conf/all/promote_secondaries", 1)  # or set_outer loses the new one
            # addrgenmode none: a link-local address would mean duplicate address detection
            self.router.ip(
                f"link add {cable} type veth peer name cable netns {host.name}",
                f"link set {cable} addrgenmode none up",
                f"address add {gate4}/24 dev {cable}",
                f"address add {gate6}/64 dev {cable} nodad",
                f"address add fe80::1/64 dev {cable} nodad",  # else it does not ask for neighbours
            )
            host.ip(
                "link set cable addrgenmode none up",
                f"address add {host.outer4}/24 dev cable",
                f"address add {host.outer6}/64 dev cable nodad",
                f"route add default via {gate4}",
                f"route add default via {gate6} dev cable",
            )

    def delete(self) -> None:
        for host in (self.left, self.right, self.router):
            host.delete()

    def set_mtu(self, mtu: int) -> None:
        for host in (self.left, self.right):
            host.ip(f"link set cable mtu {mtu}")
        self.router.ip(f"link set left mtu {mtu}", f"link set right mtu {mtu}")

    def has_netem(self) -> bool:
        """Leaves it on the router's lo, where nothing is sent."""
        self.router.run("tc", "qdisc", "replace", "dev", "lo", "root", "netem", check=False)
        return "netem" in self.router.run("tc", "qdisc", "show", "dev", "lo")

    def impair(self, how: str) -> None:
        """Has netem do so in both directions.  Segments travel alone, or a loss would be of 64."""
        for host in (self.left, self.right):
            host.ip("link set cable gso_max_segs 1")
        for cable in ("left", "right"):
            self.router.run(*f"tc qdisc add dev {cable} root netem {how}".split())

    def repair(self) -> None:
        for cable in ("left", "right"):
            self.router.run("tc", "qdisc", "delete", "dev", cable, "root")
        for host in (self.left, self.right):
            host.ip("link set cable gso_max_segs 65535")
