# SPDX-License-Identifier: MIT
"""What the tests share: wgpy and another implementation, with wgpy on the left."""

import itertools
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace

from interop.ageing import Ageing
from interop.capture import Capture
from interop.network import Host, Network
from interop.wireguard import PORT, Interface, Peer

_numbers = itertools.count()


@dataclass(frozen=True)
class Tunnel:
    """wgpy and its peer."""

    network: Network
    wgpy: Interface
    peer: Interface

    @property
    def ends(self) -> tuple[Interface, Interface]:
        return self.wgpy, self.peer

    def pair(self, first: str) -> tuple[Interface, Interface]:
        """The two, with wgpy or its peer first."""
        return self.ends if first == "wgpy" else (self.peer, self.wgpy)

    def connect(self, outside: int = 4, psk: str = "") -> None:
        """New keys, no sessions, each knows the other."""
        for end in self.ends:
            end.speak_over(outside)
            end.renew_keys()
        self.wgpy.configure(Peer(self.peer, outside, psk))
        self.peer.configure(Peer(self.wgpy, outside, psk))

    def capture(self, cable: str = "left") -> Capture:
        """On the left, what wgpy sends arrives and what its peer sends leaves."""
        return Capture(self.network.router, cable)


class Laboratory:
    """For one implementation: a tunnel that every test configures anew, and ageing sessions."""

    def __init__(self, kind: str, stack: ExitStack) -> None:
        """The stack undoes it."""
        self._stack = stack
        near, far = self._network(), self._network()
        wgpy = self._interface("wgpy", near.left, 0, 1)
        self.tunnel = Tunnel(near, wgpy, self._interface(kind, near.right, 0, 2))
        device = self._interface("wgpy", far.left, 1, 1)
        views = [replace(device, inner4=f"10.77.{n}.1", inner6=f"fd77:{n}::1") for n in range(1, 5)]
        peers = [self._interface(kind, far.right, n, 2) for n in range(1, 5)]
        for interface in (*self.tunnel.ends, *views, *peers):
            interface.ready()
        self.ageing = Ageing(far, peers, views)
        stack.callback(self.ageing.close)
        self.ageing.begin()

    def _network(self) -> Network:
        network = Network.named(f"wgpy-i{os.getpid()}-{next(_numbers)}")
        self._stack.callback(network.delete)
        network.create()
        return network

    def _interface(self, kind: str, host: Host, net: int, number: int) -> Interface:
        inner = f"10.77.{net}.{number}", f"fd77:{net}::{number}"
        name = f"wgi{os.getpid()}-{next(_numbers)}"
        interface = Interface(kind, host, name, *inner, port=PORT + net)
        self._stack.callback(interface.vanish)
        interface.start()
        return interface
