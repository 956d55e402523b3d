# SPDX-License-Identifier: MIT
"""What a device needs from the platform, and a platform's part from a device: Protocols only.

wgpy.linux fills them for Linux, tests fill them with fakes.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import IntFlag
from typing import Final, NoReturn, Protocol

from wgpy.config import Endpoint

BUFFER_LEN: Final = 7 << 20  # bytes of a socket each way; the default of 208 KiB drops at speed


class Feature(IntFlag):
    """What TUN and sockets can do (enum wg_feature of the data plane)."""

    VNET_HDR = 1  # frames carry a virtio_net_hdr
    TUN_TSO = 2  # and hold super-packets of TCP
    TUN_USO = 4  # and of UDP
    UDP_GSO = 8  # one send gives many datagrams
    UDP_GRO = 16  # one receive takes many datagrams

    @property
    def names(self) -> tuple[str, ...]:
        """Those of each, in the order above."""
        return tuple(str(one.name) for one in Feature if one in self)

    def __str__(self) -> str:
        """Return their names, for the log."""
        return " ".join(self.names) or "none"


class Handle(Protocol):
    """A call that was scheduled."""

    def cancel(self) -> None:
        """Do not call."""


class Scheduler(Protocol):
    """What runs callbacks later, on the control thread."""

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Handle:
        """Call once the plane's clock shows `when_ns`, never before this returns."""


class Sockets(Protocol):
    """The open UDP sockets of a device."""

    @property
    def port(self) -> int:
        """The port that they are bound to."""

    @property
    def fds(self) -> Sequence[tuple[int, int]]:
        """The IPv4 and IPv6 socket of each worker, -1 for a missing one."""

    @property
    def features(self) -> Feature:
        """What they are able to do: UDP_GSO and UDP_GRO."""

    @property
    def buffers(self) -> tuple[int, int]:
        """How many bytes each was given to receive and to send."""

    def set_fwmark(self, fwmark: int) -> None:
        """Mark what they send, 0 for no mark; OSError when that is not permitted."""

    def close(self) -> None:
        """Close them."""


class OpenSockets(Protocol):
    """What opens UDP sockets."""

    def __call__(self, port: int, fwmark: int) -> Sockets:
        """Bind to a port, 0 for any; OSError when it is in use or the mark is not permitted."""


class TxQueue(Protocol):
    """What waits in the TUN for the data threads."""

    def want(self, length: int) -> None:
        """Let so many frames wait in each queue of the TUN, 0: as many as by default."""

    def leave(self) -> None:
        """Let keep() end."""

    async def keep(self) -> None:
        """Do what want() says until leave(), and leave the length as it was."""


class Interface(Protocol):
    """The network interface at whose TUN a device is."""

    @property
    def queue(self) -> TxQueue:
        """What waits in its TUN."""

    @property
    def index(self) -> int:
        """Its index where we live, 0 if it is somewhere else or gone."""

    async def watch(
        self,
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        on_mtu: Callable[[int], None],
    ) -> NoReturn:
        """Report the state now and every change; raise LinkDeletedError at the end."""


class Paths(Protocol):
    """Who sends by paths that may cease to hold: a device."""

    @property
    def listen_port(self) -> int:
        """The UDP port that is sent from."""

    @property
    def fwmark(self) -> int:
        """The mark that decides on routes, 0 for none."""

    def paths(self) -> Iterator[list[tuple[int, Endpoint]]]:
        """Give slots and endpoints that have a sticky source, in pieces."""

    def allow_source(self, slot: int, path: Endpoint, holds: bool) -> None:
        """Send from the source of this path, or no more."""

    def loops(self) -> list[tuple[int, Endpoint]]:
        """Return slots and endpoints whose route may lead into the tunnel itself."""

    def set_leads_in(self, slot: int, endpoint: Endpoint, leads_in: bool) -> None:
        """Send nothing to this endpoint or something again; whether its route leads into us."""
