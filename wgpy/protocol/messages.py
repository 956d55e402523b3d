# SPDX-License-Identifier: MIT
"""Wire layouts of the handshake messages (5.4.2, 5.4.3, 5.4.7): bytes to fields and back.

Integers are little-endian.  The type is one byte and three reserved zero bytes, read here as one
32-bit word, so that a message with any reserved bit set is refused.  Messages 1 and 2 end with
mac1 and mac2 (5.4.4); cookie.py writes and checks those.
"""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Any

from wgpy.errors import BadMessage, Refusal

MAC_LEN = 16
MACS_LEN = 2 * MAC_LEN

_INITIATION = Struct("<II32s48s28s")  # type, sender, ephemeral, encrypted static and timestamp
_RESPONSE = Struct("<III32s16s")  # type, sender, receiver, ephemeral, encrypted nothing
_COOKIE_REPLY = Struct("<II24s32s")  # type, receiver, nonce, encrypted cookie

INITIATION_LEN = _INITIATION.size + MACS_LEN
RESPONSE_LEN = _RESPONSE.size + MACS_LEN
COOKIE_REPLY_LEN = _COOKIE_REPLY.size


class MessageType(IntEnum):
    """The first word of a message (5.4)."""

    INITIATION = 1
    RESPONSE = 2
    COOKIE_REPLY = 3


@dataclass(frozen=True, slots=True)
class InitiationMessage:
    """First message (5.4.2), without its macs."""

    sender_index: int
    ephemeral_public: bytes
    encrypted_static: bytes
    encrypted_timestamp: bytes


@dataclass(frozen=True, slots=True)
class ResponseMessage:
    """Second message (5.4.3), without its macs."""

    sender_index: int
    receiver_index: int
    ephemeral_public: bytes
    encrypted_nothing: bytes


@dataclass(frozen=True, slots=True)
class CookieReplyMessage:
    """Cookie reply (5.4.7)."""

    receiver_index: int
    nonce: bytes
    encrypted_cookie: bytes


def parse_initiation_untrusted(data: bytes) -> InitiationMessage:
    """Read 148 bytes off the network; BadMessage on another size or type."""
    return InitiationMessage(*_fields(_INITIATION, INITIATION_LEN, MessageType.INITIATION, data))


def parse_response_untrusted(data: bytes) -> ResponseMessage:
    """Read 92 bytes off the network; BadMessage on another size or type."""
    return ResponseMessage(*_fields(_RESPONSE, RESPONSE_LEN, MessageType.RESPONSE, data))


def parse_cookie_reply_untrusted(data: bytes) -> CookieReplyMessage:
    """Read 64 bytes off the network; BadMessage on another size or type."""
    return CookieReplyMessage(
        *_fields(_COOKIE_REPLY, COOKIE_REPLY_LEN, MessageType.COOKIE_REPLY, data)
    )


def pack_initiation(message: InitiationMessage) -> bytes:
    """Lay out the first message: 116 bytes, the macs are still to come."""
    return _INITIATION.pack(
        MessageType.INITIATION,
        message.sender_index,
        message.ephemeral_public,
        message.encrypted_static,
        message.encrypted_timestamp,
    )


def pack_response(message: ResponseMessage) -> bytes:
    """Lay out the second message: 60 bytes, the macs are still to come."""
    return _RESPONSE.pack(
        MessageType.RESPONSE,
        message.sender_index,
        message.receiver_index,
        message.ephemeral_public,
        message.encrypted_nothing,
    )


def _fields(layout: Struct, length: int, expected: MessageType, data: bytes) -> tuple[Any, ...]:
    if len(data) != length:
        raise BadMessage(f"{expected.name} of {len(data)} bytes", Refusal.MALFORMED)
    message_type, *fields = layout.unpack_from(data)
    if message_type != expected:
        text = f"type word {message_type:#x} where {expected.name} was expected"
        raise BadMessage(text, Refusal.MALFORMED)
    return tuple(fields)
