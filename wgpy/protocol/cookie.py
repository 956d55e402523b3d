# SPDX-License-Identifier: MIT
"""mac1 and mac2 of the messages that we send, and the cookies that we get for them (5.4.4, 5.4.7).

mac1 shows that the sender knows the receiver's public key.  mac2 shows that it also reads what is
sent to its address: it is keyed with a cookie, a MAC of that address under a secret of the
receiver, who asks for it under load.  The receiver's side is dataplane/cookie.c: no flood comes up
to Python.
"""

from hashlib import blake2s
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from wgpy.errors import BadMessage, Refusal
from wgpy.protocol.messages import MAC_LEN, parse_cookie_reply_untrusted
from wgpy.units import NS_PER_S

LABEL_MAC1: Final = b"mac1----"  # 5.4
LABEL_COOKIE: Final = b"cookie--"  # 5.4

# The receiver's secret changes every 120 s (5.4.7).  The sender gives a cookie up 5 s earlier, an
# allowance for the way, as the Linux kernel does.
COOKIE_LIFETIME_NS: Final = (120 - 5) * NS_PER_S

_NO_MAC2 = bytes(MAC_LEN)


def mac1_key(public_key: bytes) -> bytes:
    """Return the key of mac1 in messages to the owner of `public_key` (5.4.4)."""
    return blake2s(LABEL_MAC1 + public_key).digest()


def cookie_key(public_key: bytes) -> bytes:
    """Return the key of cookie replies from the owner of `public_key` (5.4.7)."""
    return blake2s(LABEL_COOKIE + public_key).digest()


class CookieGenerator:
    """The macs of the messages that we send to one peer, and the cookie it gave us."""

    __slots__ = ("_cookie", "_cookie_key", "_expires_ns", "_mac1_key", "_unanswered_mac1")

    def __init__(self, remote_public: bytes) -> None:
        """Start without a cookie, for the peer with this public key."""
        self._mac1_key = mac1_key(remote_public)
        self._cookie_key = cookie_key(remote_public)
        self._cookie = b""
        self._expires_ns = 0
        self._unanswered_mac1: bytes | None = None

    def add_macs(self, message: bytes, now_ns: int) -> bytes:
        """Complete message 1 or 2: append mac1, and mac2, which is zero without a fresh cookie."""
        mac1 = _mac(self._mac1_key, message)
        self._unanswered_mac1 = mac1
        message += mac1
        if now_ns >= self._expires_ns:
            return message + _NO_MAC2
        return message + _mac(self._cookie, message)

    def consume_reply_untrusted(self, reply: bytes, now_ns: int) -> None:
        """Take the cookie from a reply of 64 bytes, to be used for 115 s.

        BadMessage when the reply is malformed or forged, or answers nothing: each message that we
        send may be answered once, and only the newest.
        """
        message = parse_cookie_reply_untrusted(reply)
        if self._unanswered_mac1 is None:
            raise BadMessage("cookie reply to nothing", Refusal.BAD_COOKIE)
        aead, nonce = _xchacha20poly1305(self._cookie_key, message.nonce)
        try:
            cookie = aead.decrypt(nonce, message.encrypted_cookie, self._unanswered_mac1)
        except InvalidTag:
            text = "cookie reply that does not authenticate"
            raise BadMessage(text, Refusal.BAD_COOKIE) from None
        self._cookie = cookie
        self._expires_ns = now_ns + COOKIE_LIFETIME_NS
        self._unanswered_mac1 = None


def _mac(key: bytes, data: bytes) -> bytes:
    return blake2s(data, key=key, digest_size=MAC_LEN).digest()


# XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) out of the library's ChaCha20 and ChaCha20-Poly1305,
# which has no XChaCha of its own.

_WORDS4 = Struct("<4I")
_WORDS8 = Struct("<8I")
_WORDS16 = Struct("<16I")
_CHACHA_CONSTANTS = _WORDS4.unpack(b"expand 32-byte k")


def _xchacha20poly1305(key: bytes, nonce: bytes) -> tuple[ChaCha20Poly1305, bytes]:
    """Return the AEAD and the 12-byte nonce for a key and a 24-byte nonce (section 2.3)."""
    return ChaCha20Poly1305(_hchacha20(key, nonce[:16])), bytes(4) + nonce[16:]


def _hchacha20(key: bytes, nonce: bytes) -> bytes:
    """Derive a subkey from a key and 16 bytes (section 2.2).

    A ChaCha20 block is the state after its rounds plus the state before; HChaCha20 is the first and
    the last row of the state after.  Those rows began as constants and nonce, which are known, so
    subtracting them from a block that the library made gives the result.
    """
    encryptor = Cipher(ChaCha20(key, nonce), mode=None).encryptor()
    block = _WORDS16.unpack(encryptor.update(bytes(_WORDS16.size)))
    before = _CHACHA_CONSTANTS + _WORDS4.unpack(nonce)
    after_plus_before = block[:4] + block[12:]
    words = [(a - b) & 0xFFFFFFFF for a, b in zip(after_plus_before, before, strict=True)]
    return _WORDS8.pack(*words)
