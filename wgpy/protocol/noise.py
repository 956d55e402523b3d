# SPDX-License-Identifier: MIT
"""The handshake, Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (5.4.1-5.4.5), without clock or I/O.

The initiator writes message 1 and keeps an InitiatorState until message 2 comes; the responder
reads message 1 into an Initiation and answers it at once, so it keeps nothing.  Both end with
TransportKeys.

Python cannot wipe bytes objects: whoever holds a state or keys drops them as soon as they are of
no more use, and none of them shows in a repr.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2s
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from wgpy.errors import BadMessage, Refusal
from wgpy.protocol.messages import (
    InitiationMessage,
    ResponseMessage,
    pack_initiation,
    pack_response,
    parse_initiation_untrusted,
    parse_response_untrusted,
)

CONSTRUCTION: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"  # 5.4
IDENTIFIER: Final = b"WireGuard v1 zx2c4 Jason@zx2c4.com"  # 5.4

_INITIAL_CHAINING_KEY: Final = blake2s(CONSTRUCTION).digest()
_INITIAL_HASH: Final = blake2s(_INITIAL_CHAINING_KEY + IDENTIFIER).digest()
_ZERO_NONCE: Final = bytes(12)  # every handshake key seals once


class StaticKey:
    """Our identity: a Curve25519 private key, ready to use, and its public key."""

    __slots__ = ("_private", "public_key")

    public_key: bytes

    def __init__(self, private_key: bytes) -> None:
        """Take 32 bytes, which X25519 itself clamps; ValueError on another length."""
        self._private = X25519PrivateKey.from_private_bytes(private_key)
        self.public_key = self._private.public_key().public_bytes_raw()

    def private_bytes(self) -> bytes:
        """Return the private key, for a key log."""
        return self._private.private_bytes_raw()

    def exchange(self, public_key: bytes) -> bytes:
        """Do DH with a public key; BadMessage when it is of low order (an all-zero result)."""
        return _exchange(self._private, public_key)


@dataclass(frozen=True, slots=True)
class RemoteStatic:
    """A peer's identity, and DH(our private key, its public key), which never changes."""

    public_key: bytes
    static_static: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Initiation:
    """A genuine first message as the responder read it; the caller judges the timestamp."""

    public_key: bytes
    timestamp: bytes
    sender_index: int
    ephemeral_public: bytes
    chaining_key: bytes = field(repr=False)
    hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class InitiatorState:
    """What the initiator keeps between the two messages."""

    local_index: int
    ephemeral_private: X25519PrivateKey = field(repr=False)
    chaining_key: bytes = field(repr=False)
    hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TransportKeys:
    """The outcome (5.4.5); `initiator` tells whether we sent the first message."""

    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    local_index: int
    remote_index: int
    initiator: bool


@dataclass(frozen=True, slots=True)
class HandshakeSecrets:
    """All that somebody needs to read a handshake of ours, and the traffic after it."""

    local_private: bytes = field(repr=False)
    remote_public: bytes
    ephemeral_private: bytes = field(repr=False)
    preshared_key: bytes = field(repr=False)


def new_ephemeral() -> X25519PrivateKey:
    """Return a key for one handshake message."""
    return X25519PrivateKey.generate()


def write_initiation(
    local: StaticKey,
    remote: RemoteStatic,
    sender_index: int,
    timestamp: bytes,
    *,
    ephemeral_private: X25519PrivateKey | None = None,
) -> tuple[bytes, InitiatorState]:
    """Write the first message (5.4.2): 116 bytes, the macs are still to come.

    `timestamp` is 12 bytes of TAI64N.  `ephemeral_private` is for tests and for a key log.
    """
    ephemeral = ephemeral_private or new_ephemeral()
    ephemeral_public = ephemeral.public_key().public_bytes_raw()
    hash_ = _mix_hash(_mix_hash(_INITIAL_HASH, remote.public_key), ephemeral_public)
    chaining_key = _kdf1(_INITIAL_CHAINING_KEY, ephemeral_public)

    chaining_key, key = _kdf2(chaining_key, _exchange(ephemeral, remote.public_key))
    encrypted_static = _seal(key, local.public_key, hash_)
    hash_ = _mix_hash(hash_, encrypted_static)

    chaining_key, key = _kdf2(chaining_key, remote.static_static)
    encrypted_timestamp = _seal(key, timestamp, hash_)
    hash_ = _mix_hash(hash_, encrypted_timestamp)

    message = InitiationMessage(
        sender_index, ephemeral_public, encrypted_static, encrypted_timestamp
    )
    return pack_initiation(message), InitiatorState(sender_index, ephemeral, chaining_key, hash_)


def read_initiation_untrusted(
    local: StaticKey, message: bytes, find_remote: Callable[[bytes], RemoteStatic | None]
) -> Initiation:
    """Read and authenticate a first message of 148 bytes.

    Its macs are not checked here, and its timestamp is for the caller to compare.

    `find_remote` maps a public key to a configured peer, or None.  BadMessage when the message is
    malformed, forged, or from nobody we know.
    """
    initiation = parse_initiation_untrusted(message)
    ephemeral_public = initiation.ephemeral_public
    hash_ = _mix_hash(_mix_hash(_INITIAL_HASH, local.public_key), ephemeral_public)
    chaining_key = _kdf1(_INITIAL_CHAINING_KEY, ephemeral_public)

    chaining_key, key = _kdf2(chaining_key, local.exchange(ephemeral_public))
    public_key = _open(key, initiation.encrypted_static, hash_)
    hash_ = _mix_hash(hash_, initiation.encrypted_static)

    remote = find_remote(public_key)
    if remote is None:
        text = "initiation from an unknown peer"
        raise BadMessage(text, Refusal.UNKNOWN_INITIATOR, public_key)
    chaining_key, key = _kdf2(chaining_key, remote.static_static)
    timestamp = _open(key, initiation.encrypted_timestamp, hash_)
    hash_ = _mix_hash(hash_, initiation.encrypted_timestamp)

    return Initiation(
        public_key, timestamp, initiation.sender_index, ephemeral_public, chaining_key, hash_
    )


def write_response(
    initiation: Initiation,
    sender_index: int,
    preshared_key: bytes,
    *,
    ephemeral_private: X25519PrivateKey | None = None,
) -> tuple[bytes, TransportKeys]:
    """Write the second message (5.4.3): 60 bytes, the macs are still to come.

    `preshared_key` is 32 bytes, zero for none.  IK mixes no static key of ours into this message.
    `ephemeral_private` is for tests and for a key log.
    """
    ephemeral = ephemeral_private or new_ephemeral()
    ephemeral_public = ephemeral.public_key().public_bytes_raw()
    chaining_key, key, hash_ = _mix_response(
        initiation.chaining_key,
        initiation.hash,
        ephemeral_public,
        _exchange(ephemeral, initiation.ephemeral_public),
        _exchange(ephemeral, initiation.public_key),
        preshared_key,
    )
    message = ResponseMessage(
        sender_index, initiation.sender_index, ephemeral_public, _seal(key, b"", hash_)
    )
    receive_key, send_key = _kdf2(chaining_key, b"")
    keys = TransportKeys(
        send_key, receive_key, sender_index, initiation.sender_index, initiator=False
    )
    return pack_response(message), keys


def read_response_untrusted(
    local: StaticKey, state: InitiatorState, message: bytes, preshared_key: bytes
) -> TransportKeys:
    """Read and authenticate the answer to our initiation, 92 bytes; its macs are not checked.

    BadMessage when it is malformed, forged, for another index, or made with another preshared key;
    `state` then stays good for the genuine answer.
    """
    response = parse_response_untrusted(message)
    if response.receiver_index != state.local_index:
        raise BadMessage("response to another initiation", Refusal.NO_INITIATION)
    chaining_key, key, hash_ = _mix_response(
        state.chaining_key,
        state.hash,
        response.ephemeral_public,
        _exchange(state.ephemeral_private, response.ephemeral_public),
        local.exchange(response.ephemeral_public),
        preshared_key,
    )
    _open(key, response.encrypted_nothing, hash_, Refusal.BAD_RESPONSE)
    send_key, receive_key = _kdf2(chaining_key, b"")
    return TransportKeys(
        send_key, receive_key, state.local_index, response.sender_index, initiator=True
    )


def _mix_response(
    chaining_key: bytes,
    hash_: bytes,
    ephemeral_public: bytes,
    ephemeral_ephemeral: bytes,
    static_ephemeral: bytes,
    preshared_key: bytes,
) -> tuple[bytes, bytes, bytes]:
    """Mix what both sides know of the second message; -> chaining key, key of its payload, hash."""
    chaining_key = _kdf1(chaining_key, ephemeral_public)
    chaining_key = _kdf1(chaining_key, ephemeral_ephemeral)
    chaining_key = _kdf1(chaining_key, static_ephemeral)
    chaining_key, temporary, key = _kdf3(chaining_key, preshared_key)
    return chaining_key, key, _mix_hash(_mix_hash(hash_, ephemeral_public), temporary)


def _exchange(private_key: X25519PrivateKey, public_key: bytes) -> bytes:
    try:
        return private_key.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError:
        raise BadMessage("public key of low order", Refusal.LOW_ORDER) from None


def _mix_hash(hash_: bytes, data: bytes) -> bytes:
    return blake2s(hash_ + data).digest()


# The KDF_n of 5.4: HKDF (RFC 5869) with HMAC-BLAKE2s.


def _kdf1(key: bytes, data: bytes) -> bytes:
    return _hmac(_hmac(key, data), b"\x01")


def _kdf2(key: bytes, data: bytes) -> tuple[bytes, bytes]:
    secret = _hmac(key, data)
    first = _hmac(secret, b"\x01")
    return first, _hmac(secret, first + b"\x02")


def _kdf3(key: bytes, data: bytes) -> tuple[bytes, bytes, bytes]:
    secret = _hmac(key, data)
    first = _hmac(secret, b"\x01")
    second = _hmac(secret, first + b"\x02")
    return first, second, _hmac(secret, second + b"\x03")


def _hmac(key: bytes, data: bytes) -> bytes:
    # The constructor, not its name: by name OpenSSL looks the algorithm up anew each time, which
    # is slower than hmac's own path over hashlib.
    return hmac.digest(key, data, blake2s)


def _seal(key: bytes, plaintext: bytes, hash_: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(_ZERO_NONCE, plaintext, hash_)


def _open(
    key: bytes, ciphertext: bytes, hash_: bytes, otherwise: Refusal = Refusal.MALFORMED
) -> bytes:
    try:
        return ChaCha20Poly1305(key).decrypt(_ZERO_NONCE, ciphertext, hash_)
    except InvalidTag:
        raise BadMessage("handshake message that does not authenticate", otherwise) from None
