# SPDX-License-Identifier: MIT
import os
import struct
from hashlib import blake2s

import pytest
from fake_plane import cookie_reply
from hypothesis import given
from hypothesis import strategies as st

from wgpy.errors import BadMessage
from wgpy.protocol.cookie import (
    CookieGenerator,
    _hchacha20,
    _xchacha20poly1305,
    cookie_key,
    mac1_key,
)

NS_PER_S = 1_000_000_000
START_NS = 1000 * NS_PER_S
PUBLIC_KEY = b"\x07" * 32
MESSAGE = b"\x01\0\0\0\x44\x33\x22\x11" + b"\xe1" * 108  # an initiation before its macs
COOKIE = bytes(range(16))
NO_MAC2 = bytes(16)


def generator_with_cookie() -> CookieGenerator:
    """Return who sends to PUBLIC_KEY after a cookie was asked for and given, at START_NS."""
    generator = CookieGenerator(PUBLIC_KEY)
    sent = generator.add_macs(MESSAGE, START_NS)
    generator.consume_reply_untrusted(cookie_reply(sent, PUBLIC_KEY, COOKIE), START_NS)
    return generator


def mac2(message: bytes) -> bytes:
    return message[-16:]


def expected_mac2(message: bytes, cookie: bytes) -> bytes:
    return blake2s(message[:-16], key=cookie, digest_size=16).digest()


# ---- mac1 ----


def test_mac1_is_the_keyed_blake2s_of_all_before_it() -> None:
    key = blake2s(b"mac1----" + PUBLIC_KEY).digest()
    assert mac1_key(PUBLIC_KEY) == key
    expected = blake2s(MESSAGE, key=key, digest_size=16).digest()
    message = CookieGenerator(PUBLIC_KEY).add_macs(MESSAGE, START_NS)
    assert message == MESSAGE + expected + NO_MAC2


def test_the_key_of_cookie_replies_has_a_label_of_its_own() -> None:
    assert cookie_key(PUBLIC_KEY) == blake2s(b"cookie--" + PUBLIC_KEY).digest()


# ---- mac2 and the cookie ----


def test_without_a_cookie_mac2_is_zero() -> None:
    assert mac2(CookieGenerator(PUBLIC_KEY).add_macs(MESSAGE, START_NS)) == NO_MAC2


def test_mac2_is_the_blake2s_of_all_before_it_keyed_with_the_cookie() -> None:
    message = generator_with_cookie().add_macs(MESSAGE, START_NS)
    assert mac2(message) == expected_mac2(message, COOKIE)


def test_a_received_cookie_is_used_for_115_seconds() -> None:
    generator = generator_with_cookie()
    end_ns = START_NS + 115 * NS_PER_S
    last = generator.add_macs(MESSAGE, end_ns - 1)
    assert mac2(last) == expected_mac2(last, COOKIE)
    assert mac2(generator.add_macs(MESSAGE, end_ns)) == NO_MAC2


def test_a_new_cookie_replaces_an_old_one() -> None:
    generator, other = generator_with_cookie(), COOKIE[::-1]
    sent = generator.add_macs(MESSAGE, START_NS)
    generator.consume_reply_untrusted(cookie_reply(sent, PUBLIC_KEY, other), START_NS)
    message = generator.add_macs(MESSAGE, START_NS)
    assert mac2(message) == expected_mac2(message, other)


# ---- the cookie reply ----


def test_a_reply_to_nothing_is_refused() -> None:
    message = CookieGenerator(PUBLIC_KEY).add_macs(MESSAGE, START_NS)
    reply = cookie_reply(message, PUBLIC_KEY, COOKIE)
    with pytest.raises(BadMessage, match="to nothing"):
        CookieGenerator(PUBLIC_KEY).consume_reply_untrusted(reply, START_NS)


def test_a_replayed_reply_is_refused() -> None:
    generator = CookieGenerator(PUBLIC_KEY)
    reply = cookie_reply(generator.add_macs(MESSAGE, START_NS), PUBLIC_KEY, COOKIE)
    generator.consume_reply_untrusted(reply, START_NS)
    with pytest.raises(BadMessage, match="to nothing"):
        generator.consume_reply_untrusted(reply, START_NS)
    generator.add_macs(MESSAGE[::-1], START_NS)
    with pytest.raises(BadMessage, match="authenticate"):
        generator.consume_reply_untrusted(reply, START_NS)


def test_a_reply_to_an_older_message_is_refused() -> None:
    generator = CookieGenerator(PUBLIC_KEY)
    older = generator.add_macs(MESSAGE, START_NS)
    generator.add_macs(MESSAGE[::-1], START_NS)
    with pytest.raises(BadMessage, match="authenticate"):
        generator.consume_reply_untrusted(cookie_reply(older, PUBLIC_KEY, COOKIE), START_NS)


def test_a_reply_from_somebody_with_another_key_is_refused() -> None:
    generator = CookieGenerator(PUBLIC_KEY)
    reply = cookie_reply(generator.add_macs(MESSAGE, START_NS), b"\x08" * 32, COOKIE)
    with pytest.raises(BadMessage, match="authenticate"):
        generator.consume_reply_untrusted(reply, START_NS)


@pytest.mark.parametrize("byte", [0, 3, 8, 23, 24, 31, 32, 47, 48, 63])
def test_a_reply_with_a_flipped_bit_is_refused_and_the_genuine_one_still_taken(byte: int) -> None:
    generator = CookieGenerator(PUBLIC_KEY)
    reply = cookie_reply(generator.add_macs(MESSAGE, START_NS), PUBLIC_KEY, COOKIE)
    forged = reply[:byte] + bytes([reply[byte] ^ 0x10]) + reply[byte + 1 :]
    with pytest.raises(BadMessage):
        generator.consume_reply_untrusted(forged, START_NS)
    assert mac2(generator.add_macs(MESSAGE, START_NS)) == NO_MAC2
    generator.consume_reply_untrusted(reply, START_NS)  # the same mac1 went out again
    assert mac2(generator.add_macs(MESSAGE, START_NS)) != NO_MAC2


@given(st.binary(max_size=80) | st.binary(min_size=60, max_size=60).map(b"\x03\0\0\0".__add__))
def test_a_reply_of_garbage_raises_nothing_but_bad_message(garbage: bytes) -> None:
    generator = CookieGenerator(PUBLIC_KEY)
    generator.add_macs(MESSAGE, START_NS)
    with pytest.raises(BadMessage):
        generator.consume_reply_untrusted(garbage, START_NS)


def test_no_cookie_shows_in_a_repr() -> None:
    shown = repr(generator_with_cookie())
    assert repr(COOKIE) not in shown
    assert COOKIE.hex() not in shown


# ---- XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) ----


def test_hchacha20_gives_the_subkey_of_the_draft() -> None:  # section 2.2.1
    subkey = _hchacha20(bytes(range(32)), bytes.fromhex("000000090000004a0000000031415927"))
    assert subkey.hex() == "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"


def test_the_aead_gives_the_ciphertext_of_the_draft() -> None:  # appendix A.3.1
    plaintext = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip "
        b"for the future, sunscreen would be it."
    )
    ciphertext = (
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
        "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
        "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52e"
    )
    tag = "c0875924c1c7987947deafd8780acf49"
    aead, nonce = _xchacha20poly1305(bytes(range(0x80, 0xA0)), bytes(range(0x40, 0x58)))
    sealed = aead.encrypt(nonce, plaintext, bytes.fromhex("50515253c0c1c2c3c4c5c6c7"))
    assert sealed.hex() == ciphertext + tag


def reference_hchacha20(key: bytes, nonce: bytes) -> bytes:
    """Do what section 2.2 says, word by word: slow, and only to compare with."""
    x = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce))
    columns = [(i, i + 4, i + 8, i + 12) for i in range(4)]
    diagonals = [(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4) for i in range(4)]
    for a, b, c, d in (columns + diagonals) * 10:
        for into, add, turn, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[into] = (x[into] + x[add]) & 0xFFFFFFFF
            mixed = x[turn] ^ x[into]
            x[turn] = (mixed << by | mixed >> (32 - by)) & 0xFFFFFFFF
    return struct.pack("<8I", *x[:4], *x[12:])


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
def test_hchacha20_is_the_one_of_the_draft_for_any_input(key: bytes, nonce: bytes) -> None:
    assert _hchacha20(key, nonce) == reference_hchacha20(key, nonce)


def test_hchacha20_takes_a_nonce_that_a_block_counter_would_overflow() -> None:
    key = os.urandom(32)
    assert _hchacha20(key, b"\xff" * 16) == reference_hchacha20(key, b"\xff" * 16)
