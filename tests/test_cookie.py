import os
import struct
from hashlib import blake2s

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgpy.cookie import (
    CookieChecker,
    CookieGenerator,
    _hchacha20,
    _xchacha20poly1305,
    mac1_key,
)
from wgpy.errors import BadMessage

NS_PER_S = 1_000_000_000
START_NS = 1000 * NS_PER_S
PUBLIC_KEY = b"\x07" * 32
MESSAGE = b"\x01\0\0\0\x44\x33\x22\x11" + b"\xe1" * 108  # an initiation before its macs
SOURCE = bytes([192, 0, 2, 1]) + b"\xca\x6c"
OTHER_PORT = bytes([192, 0, 2, 1]) + b"\xca\x6d"
OTHER_ADDRESS = bytes([192, 0, 2, 2]) + b"\xca\x6c"
SOURCE6 = bytes.fromhex("20010db8000000000000000000000001") + b"\xca\x6c"
NO_MAC2 = bytes(16)


class CountingRandom:
    """Every call gives other bytes, the same in each run."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, length: int) -> bytes:
        self.calls += 1
        return bytes([self.calls]) * length


def pair() -> tuple[CookieGenerator, CookieChecker]:
    """Return who sends to PUBLIC_KEY, and its owner."""
    return CookieGenerator(PUBLIC_KEY), CookieChecker(PUBLIC_KEY, CountingRandom())


def pair_with_cookie() -> tuple[CookieGenerator, CookieChecker]:
    """Return the same after a cookie was asked for and given, at START_NS."""
    generator, checker = pair()
    sent = generator.add_macs(MESSAGE, START_NS)
    generator.consume_reply_untrusted(checker.reply(sent, SOURCE, START_NS), START_NS)
    return generator, checker


def mac2(message: bytes) -> bytes:
    return message[-16:]


# ---- mac1


def test_mac1_is_the_keyed_blake2s_of_all_before_it() -> None:
    key = blake2s(b"mac1----" + PUBLIC_KEY).digest()
    assert mac1_key(PUBLIC_KEY) == key
    expected = blake2s(MESSAGE, key=key, digest_size=16).digest()
    assert pair()[0].add_macs(MESSAGE, START_NS) == MESSAGE + expected + NO_MAC2


def test_mac1_is_valid_for_the_owner_of_the_key_only() -> None:
    generator, checker = pair()
    message = generator.add_macs(MESSAGE, START_NS)
    assert checker.mac1_valid(message)
    assert not CookieChecker(b"\x08" * 32).mac1_valid(message)


def test_a_flipped_bit_anywhere_before_mac2_breaks_mac1() -> None:
    generator, checker = pair()
    message = generator.add_macs(MESSAGE, START_NS)
    for byte in range(len(message) - 16):
        forged = message[:byte] + bytes([message[byte] ^ 0x80]) + message[byte + 1 :]
        assert not checker.mac1_valid(forged)


@given(st.binary(max_size=160))
def test_garbage_has_no_valid_macs(garbage: bytes) -> None:
    checker = CookieChecker(PUBLIC_KEY)
    assert not checker.mac1_valid(garbage)
    assert not checker.mac2_valid(garbage, SOURCE, START_NS)


# ---- mac2 and the cookie


def test_without_a_cookie_mac2_is_zero_and_invalid() -> None:
    generator, checker = pair()
    message = generator.add_macs(MESSAGE, START_NS)
    assert mac2(message) == NO_MAC2
    assert not checker.mac2_valid(message, SOURCE, START_NS)


def test_after_a_cookie_reply_both_macs_are_valid() -> None:
    generator, checker = pair_with_cookie()
    message = generator.add_macs(MESSAGE, START_NS)
    assert checker.mac1_valid(message)
    assert checker.mac2_valid(message, SOURCE, START_NS)


def test_mac2_is_the_blake2s_of_all_before_it_keyed_with_the_cookie() -> None:
    generator, _ = pair_with_cookie()
    message = generator.add_macs(MESSAGE, START_NS)
    secret = b"\x02" * 32  # the second random bytes taken, after the nonce
    cookie = blake2s(SOURCE, key=secret, digest_size=16).digest()
    assert mac2(message) == blake2s(message[:-16], key=cookie, digest_size=16).digest()


@pytest.mark.parametrize("source", [OTHER_PORT, OTHER_ADDRESS, SOURCE6], ids=lambda s: s.hex())
def test_a_cookie_is_worth_nothing_from_another_address_or_port(source: bytes) -> None:
    generator, checker = pair_with_cookie()
    message = generator.add_macs(MESSAGE, START_NS)
    assert not checker.mac2_valid(message, source, START_NS)


def test_a_cookie_serves_an_ipv6_source() -> None:
    generator, checker = pair()
    sent = generator.add_macs(MESSAGE, START_NS)
    generator.consume_reply_untrusted(checker.reply(sent, SOURCE6, START_NS), START_NS)
    assert checker.mac2_valid(generator.add_macs(MESSAGE, START_NS), SOURCE6, START_NS)


def test_a_flipped_bit_anywhere_breaks_mac2() -> None:
    generator, checker = pair_with_cookie()
    message = generator.add_macs(MESSAGE, START_NS)
    for byte in range(len(message)):
        forged = message[:byte] + bytes([message[byte] ^ 0x01]) + message[byte + 1 :]
        assert not checker.mac2_valid(forged, SOURCE, START_NS)


def test_a_received_cookie_is_used_for_115_seconds() -> None:
    generator, checker = pair_with_cookie()
    end_ns = START_NS + 115 * NS_PER_S
    last = generator.add_macs(MESSAGE, end_ns - 1)
    assert checker.mac2_valid(last, SOURCE, end_ns - 1)
    assert mac2(generator.add_macs(MESSAGE, end_ns)) == NO_MAC2


def test_the_secret_changes_120_seconds_after_it_was_made() -> None:
    generator, checker = pair_with_cookie()
    message = generator.add_macs(MESSAGE, START_NS)
    end_ns = START_NS + 120 * NS_PER_S
    assert checker.mac2_valid(message, SOURCE, end_ns - 1)
    assert not checker.mac2_valid(message, SOURCE, end_ns)


def test_a_new_cookie_replaces_one_that_the_changed_secret_made_worthless() -> None:
    generator, checker = pair_with_cookie()
    later_ns = START_NS + 3600 * NS_PER_S
    sent = generator.add_macs(MESSAGE, later_ns)
    generator.consume_reply_untrusted(checker.reply(sent, SOURCE, later_ns), later_ns)
    assert checker.mac2_valid(generator.add_macs(MESSAGE, later_ns), SOURCE, later_ns)


def test_two_checkers_do_not_share_a_secret() -> None:
    generator, checker = CookieGenerator(PUBLIC_KEY), CookieChecker(PUBLIC_KEY)
    sent = generator.add_macs(MESSAGE, START_NS)
    generator.consume_reply_untrusted(checker.reply(sent, SOURCE, START_NS), START_NS)
    message = generator.add_macs(MESSAGE, START_NS)
    assert checker.mac2_valid(message, SOURCE, START_NS)
    assert not CookieChecker(PUBLIC_KEY).mac2_valid(message, SOURCE, START_NS)


# ---- the cookie reply


def test_a_reply_is_addressed_to_the_index_of_the_sender() -> None:
    generator, checker = pair()
    reply = checker.reply(generator.add_macs(MESSAGE, START_NS), SOURCE, START_NS)
    assert len(reply) == 64
    assert reply[:8] == bytes.fromhex("0300000044332211")


def test_every_reply_has_its_own_nonce() -> None:
    generator, checker = pair()
    message = generator.add_macs(MESSAGE, START_NS)
    replies = {checker.reply(message, SOURCE, START_NS)[8:32] for _ in range(3)}
    assert len(replies) == 3


def test_a_reply_to_nothing_is_refused() -> None:
    generator, checker = pair()
    message = generator.add_macs(MESSAGE, START_NS)
    reply = checker.reply(message, SOURCE, START_NS)
    with pytest.raises(BadMessage, match="to nothing"):
        CookieGenerator(PUBLIC_KEY).consume_reply_untrusted(reply, START_NS)


def test_a_replayed_reply_is_refused() -> None:
    generator, checker = pair()
    reply = checker.reply(generator.add_macs(MESSAGE, START_NS), SOURCE, START_NS)
    generator.consume_reply_untrusted(reply, START_NS)
    with pytest.raises(BadMessage, match="to nothing"):
        generator.consume_reply_untrusted(reply, START_NS)
    generator.add_macs(MESSAGE[::-1], START_NS)
    with pytest.raises(BadMessage, match="authenticate"):
        generator.consume_reply_untrusted(reply, START_NS)


def test_a_reply_to_an_older_message_is_refused() -> None:
    generator, checker = pair()
    older = generator.add_macs(MESSAGE, START_NS)
    generator.add_macs(MESSAGE[::-1], START_NS)
    with pytest.raises(BadMessage, match="authenticate"):
        generator.consume_reply_untrusted(checker.reply(older, SOURCE, START_NS), START_NS)


def test_a_reply_from_somebody_with_another_key_is_refused() -> None:
    generator, _ = pair()
    message = generator.add_macs(MESSAGE, START_NS)
    reply = CookieChecker(b"\x08" * 32).reply(message, SOURCE, START_NS)
    with pytest.raises(BadMessage, match="authenticate"):
        generator.consume_reply_untrusted(reply, START_NS)


@pytest.mark.parametrize("byte", [0, 3, 8, 23, 24, 31, 32, 47, 48, 63])
def test_a_reply_with_a_flipped_bit_is_refused_and_the_genuine_one_still_taken(byte: int) -> None:
    generator, checker = pair()
    reply = checker.reply(generator.add_macs(MESSAGE, START_NS), SOURCE, START_NS)
    forged = reply[:byte] + bytes([reply[byte] ^ 0x10]) + reply[byte + 1 :]
    with pytest.raises(BadMessage):
        generator.consume_reply_untrusted(forged, START_NS)
    assert mac2(generator.add_macs(MESSAGE, START_NS)) == NO_MAC2
    generator.consume_reply_untrusted(reply, START_NS)  # the same mac1 went out again
    assert mac2(generator.add_macs(MESSAGE, START_NS)) != NO_MAC2


@given(st.binary(max_size=80) | st.binary(min_size=60, max_size=60).map(b"\x03\0\0\0".__add__))
def test_a_reply_of_garbage_raises_nothing_but_bad_message(garbage: bytes) -> None:
    generator, _ = pair()
    generator.add_macs(MESSAGE, START_NS)
    with pytest.raises(BadMessage):
        generator.consume_reply_untrusted(garbage, START_NS)


def test_no_secret_shows_in_a_repr() -> None:
    generator, checker = pair_with_cookie()
    secret = b"\x02" * 32
    cookie = blake2s(SOURCE, key=secret, digest_size=16).digest()
    shown = repr((generator, checker))
    for hidden in (secret, cookie):
        assert repr(hidden) not in shown
        assert hidden.hex() not in shown


# ---- XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03)


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
