# SPDX-License-Identifier: MIT
"""A device with the real data plane against a peer written by hand, over loopback.

What must not happen is shown by what happens next: a counter of the data plane tells that the
message was seen, and a genuine one that follows is all that came out of the tunnel.
"""

import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import count
from socket import AddressFamily
from typing import TYPE_CHECKING, TypeVar

from changes import PeerFields
from core_numbers import SESSION_CURRENT, SESSION_NEXT
from hostile.peer import INITIATION, RESPONSE, TRANSPORT, HostilePeer, Link
from loopback import LOOPBACK, Host, Loop, packet
from seen import refusals

from wgpy.config import AllowedIP, Endpoint, PeerChange

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")

V4, V6 = socket.AF_INET, socket.AF_INET6
INSIDE = bytes([10, 0, 0, 2])  # the peer's tunnel address
INDEX = 0xFEDCBA98
TWO_INITIATIONS_S = 0.02  # at least so long from one to the next
IPV4_HEADER_LEN = 20


class Duel:
    """A device, and the hostile peer that it is configured to talk to."""

    def __init__(self, stack: ExitStack) -> None:
        self.loop = Loop()
        self.host = Host(stack, self.loop, 1)
        self.peer = HostilePeer(stack, b"\x42" * 32)
        self.peer.device_key = self.host.public_key
        self.host.configure(private_key=self.host.private_key)
        self.host.device.up()
        self.peer.device_port = self.host.port
        self.configure()
        self._markers = count()

    def configure(self, **changes: "Unpack[PeerFields]") -> None:
        usual: PeerFields = {
            "endpoint": Endpoint(LOOPBACK[4], self.peer.port()),
            "allowed_ips": (AllowedIP(INSIDE, 32),),
        }
        section = PeerChange(self.peer.public_key, **(usual | changes))
        self.host.configure(section)

    # ---- what the device does ----

    def send(self, payload: bytes, tos: int = 0) -> None:
        """The host has a packet for the peer."""
        self.host.tun.send(packet(self.host.address, INSIDE, payload, tos))

    def next_frame(self) -> bytes:
        """What comes out of the tunnel next."""
        return self._arrival(lambda: self.host.tun.recv(65535))

    def counter(self, name: str) -> int:
        return self.host.plane.counters()[name]

    def until_counted(self, name: str, number: int) -> None:
        self.loop.until(lambda: self.counter(name) >= number)
        assert self.counter(name) == number

    def until_bad(self, number: int) -> None:
        self.loop.until(lambda: self.bad() >= number)
        assert self.bad() == number

    def bad(self) -> int:
        """How many handshake messages were refused as not genuine."""
        return sum(refusals(self.host.device).values()) - self.counter("rx_bad_mac1")

    # ---- what the peer does ----

    def receive(self, kind: int, family: AddressFamily = V4) -> bytes:
        """The next message of this kind; the device may have had others to send before."""
        got = b""

        def came() -> bool:
            nonlocal got
            got = self.peer.receive(family) or b""
            return got[:1] == bytes([kind])

        self.loop.until(came)
        return got

    def next_kind(self) -> int:
        """The type of the next message, whatever it is."""
        return self._arrival(lambda: self.peer.sockets[V4].recv(65535))[0]

    def receive_marked(self, family: AddressFamily) -> tuple[bytes, int]:
        """The next message and its DSCP and ECN, for which the socket was told to ask."""
        message, ancillary, _, _ = self._arrival(
            lambda: self.peer.sockets[family].recvmsg(65535, socket.CMSG_SPACE(4))
        )
        return message, ancillary[0][2][0]

    def _arrival(self, take: Callable[[], T]) -> T:
        """What a call comes to that would block until something arrives."""
        got: list[T] = []

        def came() -> bool:
            with suppress(BlockingIOError):
                got.append(take())
            return bool(got)

        self.loop.until(came)
        return got[0]

    def inner(self, payload: bytes, source: bytes = INSIDE, tos: int = 0) -> bytes:
        return packet(source, self.host.address, payload, tos)

    def respond(self) -> Link:
        """The device has something to say, initiates and gets its answers."""
        self.send(b"staged")
        response, link = self.peer.respond(self.receive(INITIATION), INDEX)
        self.peer.send(response)
        link.open(self.receive(TRANSPORT))
        self.peer.send(link.seal())
        self.loop.until(lambda: not self.host.stats.tx_unanswered_since_ns)
        return link

    def handshake(self, index: int = INDEX) -> Link:
        """The peer initiates and gets its answer; the session is not confirmed."""
        self.loop.advance(TWO_INITIATIONS_S)
        message, finish = self.peer.initiate(index)
        self.peer.send(message)
        return finish(self.receive(RESPONSE))

    def session(self, index: int = INDEX) -> Link:
        """The peer initiates a session and uses it, so that the device does too."""
        link = self.handshake(index)
        self.deliver(link)
        self.loop.until(lambda: self.host.stats.sessions & SESSION_CURRENT)
        self.loop.until(lambda: not self.host.stats.sessions & SESSION_NEXT)
        return link

    def deliver(self, link: Link, message: bytes | None = None, family: AddressFamily = V4) -> None:
        """Send payload, or the message that carries it, and see it come out of the tunnel."""
        payload = b"genuine %d" % next(self._markers)
        before = len(self.host.read())
        self.peer.send(message or link.seal(self.inner(payload)), family)
        self.loop.until(lambda: len(self.host.read()) > before)
        assert len(self.host.received) == before + 1

    def hear(self, link: Link, payload: bytes, family: AddressFamily = V4) -> None:
        """The device sends payload under this session."""
        self.send(payload)
        opened = link.open(self.receive(TRANSPORT, family))
        assert opened[IPV4_HEADER_LEN:].startswith(payload)

    def sealed(self, link: Link, counter: int) -> bytes:
        return link.seal(self.inner(b"counter %d" % counter), counter)
