# SPDX-License-Identifier: MIT
"""A running plane whose TUN and socket the test holds the other ends of."""

import hashlib
import select
from contextlib import ExitStack

from core_numbers import (
    COOKIE_REPLY_LEN,
    INITIATION_LEN,
    MESSAGE_COOKIE_REPLY,
    MESSAGE_INITIATION,
    MESSAGE_RESPONSE,
    MESSAGE_TRANSPORT,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from wgpy.config import AllowedIP, Endpoint
from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import MessageEvent, PendingEvent, Session

from .ends import WAIT_S, start

KEY = bytes(range(32))
MAC1_KEY = bytes(reversed(range(32)))
LOOPBACK = bytes([127, 0, 0, 1])
OUR_NET = bytes([10, 0, 0, 0])
THEIR_NET = bytes([10, 9, 0, 0])


def ipv4_packet(source: bytes, destination: bytes) -> bytes:
    """The shortest packet that routing looks at; nobody checks its checksum."""
    return bytes([0x45, 0, 0, 20]) + bytes(8) + source + destination


class Wire:
    """A running plane with one peer: the test holds the other ends of its TUN and its socket."""

    def __init__(self, stack: ExitStack) -> None:
        self.plane = Plane()
        stack.callback(self.plane.close)
        self.plane.set_mac1_key(MAC1_KEY)
        self.tun, self.udp = start(self.plane, stack)
        self.endpoint = Endpoint(LOOPBACK, self.udp.getsockname()[1])
        self.counter = 0
        self.session = 0  # index of the latest
        self.slot = self.add_peer(THEIR_NET)

    def add_peer(self, network: bytes) -> int:
        slot = self.plane.add_peer()
        self.plane.set_endpoint(slot, self.endpoint)
        self.plane.change_allowed_ips(slot, [AllowedIP(network, 16)])
        return slot

    def install(self, *, initiator: bool, slot: int | None = None) -> int:
        slot = self.slot if slot is None else slot
        index = self.plane.reserve_index(slot)
        session = Session(KEY, KEY, index, 1, self.plane.now_ns(), initiator)
        self.plane.install_keypair(slot, session)
        self.session = index
        return index

    def pend(self, count: int) -> None:
        """Leave so many handshake messages in the inbox."""
        index = self.plane.reserve_index(self.slot)
        for number in range(count):
            self.udp.send(cookie_reply(index, number))
        self.settle(self.session)

    def readable(self, timeout_s: float = 0) -> bool:
        return bool(select.select([self.plane.event_fd], [], [], timeout_s)[0])

    def events(self, limit: int = 64) -> list[PendingEvent | MessageEvent]:
        assert self.readable(WAIT_S)
        return self.plane.take_events(limit)

    def receive_data(self, index: int, packet: bytes) -> None:
        """Send a transport message to the plane."""
        nonce = self.counter.to_bytes(8, "little")
        self.counter += 1
        header = MESSAGE_TRANSPORT.to_bytes(4, "little") + index.to_bytes(4, "little")
        sealed = ChaCha20Poly1305(KEY).encrypt(bytes(4) + nonce, packet, b"")
        self.udp.send(header + nonce + sealed)

    def settle(self, index: int) -> None:
        """Return when the plane has worked off every datagram sent before."""
        packet = ipv4_packet(THEIR_NET, OUR_NET)
        self.receive_data(index, packet)
        assert self.tun.recv(65535) == packet

    def pass_data(self, network: bytes = THEIR_NET) -> None:
        """Send a packet to a peer through the TUN."""
        self.tun.send(ipv4_packet(OUR_NET, network))


def message(kind: int, length: int, receiver: int = 0, *, good_mac1: bool = True) -> bytes:
    """A handshake message of which everything is right that C looks at."""
    body = bytearray(length)
    body[0:4] = kind.to_bytes(4, "little")
    at = 8 if kind == MESSAGE_RESPONSE else 4
    body[at : at + 4] = receiver.to_bytes(4, "little")
    if kind != MESSAGE_COOKIE_REPLY:
        mac1 = hashlib.blake2s(body[:-32], key=MAC1_KEY, digest_size=16).digest()
        body[-32:-16] = mac1 if good_mac1 else bytes([mac1[0] ^ 1]) + mac1[1:]
    return bytes(body)


def initiation(sender: int = 0, *, good_mac1: bool = True) -> bytes:
    return message(MESSAGE_INITIATION, INITIATION_LEN, sender, good_mac1=good_mac1)


def cookie_reply(receiver: int, number: int) -> bytes:
    """One of many that differ; they alone are let in under load without a cookie."""
    body = message(MESSAGE_COOKIE_REPLY, COOKIE_REPLY_LEN, receiver)
    return body[:-4] + number.to_bytes(4, "little")
