# SPDX-License-Identifier: MIT
"""A peer written by hand: it speaks the wire format (5.4) and keeps none of the rules.

Nothing of wgpy is in it: the handshake is an independent implementation of Noise, the rest is
struct and libraries.  The caller decides what is sent when, under which index, key and counter.
"""

import hmac
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from hashlib import blake2s
from socket import AddressFamily
from struct import Struct
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from noise.connection import Keypair, NoiseConnection

INITIATION, RESPONSE, COOKIE_REPLY, TRANSPORT = 1, 2, 3, 4
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
NO_PSK = bytes(32)

_U32 = Struct("<I")
_TRANSPORT = Struct("<IIQ")  # type, receiver, counter
_TIMESTAMP = Struct(">QI")
_SOME_TIME = 2**62 + 1_000_000_000


@dataclass
class Link:
    """A session as this side has it; `counter` is the next to be sent."""

    send_key: bytes
    receive_key: bytes
    ours: int
    theirs: int
    counter: int = 0

    def seal(self, payload: bytes = b"", counter: int | None = None) -> bytes:
        """A transport message; payload is padded to 16 bytes."""
        if counter is None:
            counter = self.counter
            self.counter += 1
        padded = payload + bytes(-len(payload) % 16)
        sealed = ChaCha20Poly1305(self.send_key).encrypt(_nonce(counter), padded, None)
        return _TRANSPORT.pack(TRANSPORT, self.theirs, counter) + sealed

    def open(self, message: bytes) -> bytes:
        """The padded payload of a message under this session, else an exception."""
        kind, receiver, counter = _TRANSPORT.unpack_from(message)
        assert (kind, receiver) == (TRANSPORT, self.ours)
        sealed = message[_TRANSPORT.size :]
        return ChaCha20Poly1305(self.receive_key).decrypt(_nonce(counter), sealed, None)


class HostilePeer:
    """One UDP socket of each family, and a static key."""

    def __init__(self, stack: ExitStack, private_key: bytes) -> None:
        self.private_key = private_key
        self.public_key = public(private_key)
        self.device_key = b""  # whom we talk to, and ...
        self.device_port = 0  # ... where
        self.time = 0  # of the next initiation, in seconds
        self.sockets = {}
        for family, address in LOOPBACK.items():
            udp = stack.enter_context(closing(socket.socket(family, socket.SOCK_DGRAM)))
            udp.bind((address, 0))
            udp.setblocking(False)
            self.sockets[family] = udp

    def port(self, family: AddressFamily = socket.AF_INET) -> int:
        number: int = self.sockets[family].getsockname()[1]
        return number

    def send(self, message: bytes, family: AddressFamily = socket.AF_INET) -> None:
        self.sockets[family].sendto(message, (LOOPBACK[family], self.device_port))

    def receive(self, family: AddressFamily = socket.AF_INET) -> bytes | None:
        """The next datagram, None if there is none yet."""
        try:
            return self.sockets[family].recv(65535)
        except BlockingIOError:
            return None

    # ---- handshake ----

    def initiate(
        self, index: int, psk: bytes = NO_PSK, time: int | None = None
    ) -> tuple[bytes, Callable[[bytes], Link]]:
        """A first message, and what makes a session of the response to it."""
        if time is None:
            time = self.time
            self.time += 1
        noise = self._noise(psk)
        noise.set_as_initiator()
        noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, self.device_key)
        noise.start_handshake()
        timestamp = _TIMESTAMP.pack(_SOME_TIME + time, 0)
        body = _U32.pack(INITIATION) + _U32.pack(index) + bytes(noise.write_message(timestamp))

        def finish(response: bytes) -> Link:
            assert len(response) == 92
            assert _U32.unpack_from(response)[0] == RESPONSE
            assert _U32.unpack_from(response, 8)[0] == index
            noise.read_message(response[12:60])
            return _link(noise, index, _U32.unpack_from(response, 4)[0])

        return self.with_macs(body), finish

    def respond(self, initiation: bytes, index: int, psk: bytes = NO_PSK) -> tuple[bytes, Link]:
        """The answer to a first message, and the session."""
        assert len(initiation) == 148
        assert _U32.unpack_from(initiation)[0] == INITIATION
        noise = self._noise(psk)
        noise.set_as_responder()
        noise.start_handshake()
        noise.read_message(initiation[8:116])
        theirs = _U32.unpack_from(initiation, 4)[0]
        head = _U32.pack(RESPONSE) + _U32.pack(index) + _U32.pack(theirs)
        message = self.with_macs(head + bytes(noise.write_message()))
        return message, _link(noise, index, theirs)

    def with_macs(self, body: bytes) -> bytes:
        """Append a right mac1 and no mac2 (5.4.4)."""
        key = blake2s(b"mac1----" + self.device_key).digest()
        return body + blake2s(body, key=key, digest_size=16).digest() + bytes(16)

    def addressed_by(self, initiation: bytes) -> bool:
        """Whether an initiation was made for us, by its mac1."""
        key = blake2s(b"mac1----" + self.public_key).digest()
        expected = blake2s(initiation[:116], key=key, digest_size=16).digest()
        return hmac.compare_digest(initiation[116:132], expected)

    def _noise(self, psk: bytes) -> Any:
        noise = NoiseConnection.from_name(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
        noise.set_prologue(b"WireGuard v1 zx2c4 Jason@zx2c4.com")
        noise.set_psks(psk=psk)
        noise.set_keypair_from_private_bytes(Keypair.STATIC, self.private_key)
        return noise


def public(private_key: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def _link(noise: Any, ours: int, theirs: int) -> Link:
    protocol = noise.noise_protocol
    return Link(
        bytes(protocol.cipher_state_encrypt.k), bytes(protocol.cipher_state_decrypt.k), ours, theirs
    )


def _nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")
