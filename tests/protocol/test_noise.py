# SPDX-License-Identifier: MIT
"""The handshake against an independent Noise implementation, in both roles, and against forgers."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from wgpy.errors import BadMessage
from wgpy.protocol.noise import (
    Initiation,
    InitiatorState,
    RemoteStatic,
    StaticKey,
    TransportKeys,
    read_initiation_untrusted,
    read_response_untrusted,
    write_initiation,
    write_response,
)

INITIATOR_PRIVATE = b"\x11" * 32
RESPONDER_PRIVATE = b"\x22" * 32
INITIATOR = StaticKey(INITIATOR_PRIVATE)
RESPONDER = StaticKey(RESPONDER_PRIVATE)
TO_RESPONDER = RemoteStatic(RESPONDER.public_key, INITIATOR.exchange(RESPONDER.public_key))
TO_INITIATOR = RemoteStatic(INITIATOR.public_key, RESPONDER.exchange(INITIATOR.public_key))
TIMESTAMP = bytes.fromhex("400000006789abcd01000000")
PRESHARED = b"\x55" * 32
NO_PRESHARED = bytes(32)
INITIATOR_INDEX = 0x11223344
RESPONDER_INDEX = 0x55667788
MACS = bytes(32)

# What the independent implementation makes of the keys above and these ephemeral private keys: the
# Noise part of the two messages, the initiator's sending key, the responder's.
EPHEMERAL_PRIVATES = (b"\x33" * 32, b"\x44" * 32)
FIRST_VECTOR = (
    "7b0d47d93427f8311160781c7c733fd89f88970aef490d8aa0ee19a4cb8a1b14"
    "81e498317da959fba46669572516a5e6c021bfa620bb6c56ca0082e1feae1498"
    "8c2c64d024c617734a263f76a008df04"
    "d0f94bad8c3d040fe0c269555cfcdec625dc188daac614b5f53b015e"
)
RESPONSE_EPHEMERAL_VECTOR = "ff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6b"
VECTORS = {
    "preshared key": (
        PRESHARED,
        RESPONSE_EPHEMERAL_VECTOR + "c5ed07184a7ed57facc6e64385b41666",
        "a007faf842d83f5bd3be20a14e0ffcec34c84867b78b051980602713205922de",
        "d982d5cd10d34a7802b6c19fa441cd9164d70e4f4d62007ab416879ee8bd1b99",
    ),
    "no preshared key": (
        NO_PRESHARED,
        RESPONSE_EPHEMERAL_VECTOR + "257a2b91bff24bb9a988a5d4d35f8f35",
        "e07b709efbfd0361a08a9de658ceb3847d648c207ed71d4dbdfe248bef23a651",
        "f76ba55a113d83abf16240859ca361a9017ae9fbac0b4aa43179112c40e0163f",
    ),
}

# Every u-coordinate whose order divides 8, on the curve and on its twist, and the encodings
# of 0 and 1 that are not reduced modulo p = 2^255 - 19.
P = 2**255 - 19
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
LOW_ORDER = [u.to_bytes(32, "little") for u in (0, 1, *ORDER_8, P - 1, P, P + 1)]

each_preshared_key = pytest.mark.parametrize(
    "preshared_key", [PRESHARED, NO_PRESHARED], ids=["preshared key", "no preshared key"]
)
each_low_order_point = pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex())


def oracle(private_key: bytes, preshared_key: bytes, remote_public: bytes | None = None) -> Any:
    """Start the independent implementation, as initiator when it knows whom to talk to."""
    connection = NoiseConnection.from_name(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
    connection.set_prologue(b"WireGuard v1 zx2c4 Jason@zx2c4.com")
    connection.set_psks(psk=preshared_key)
    connection.set_keypair_from_private_bytes(Keypair.STATIC, private_key)
    if remote_public is None:
        connection.set_as_responder()
    else:
        connection.set_as_initiator()
        connection.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, remote_public)
    connection.start_handshake()
    return connection


def oracle_keys(connection: Any) -> tuple[bytes, bytes]:
    """Return its sending and its receiving key."""
    protocol = connection.noise_protocol
    return bytes(protocol.cipher_state_encrypt.k), bytes(protocol.cipher_state_decrypt.k)


def only(remote: RemoteStatic) -> Callable[[bytes], RemoteStatic | None]:
    """Return the lookup of a device that has one peer."""
    return {remote.public_key: remote}.get


def first_message() -> tuple[bytes, InitiatorState]:
    message, state = write_initiation(INITIATOR, TO_RESPONDER, INITIATOR_INDEX, TIMESTAMP)
    return message + MACS, state


def read_first(message: bytes) -> Initiation:
    return read_initiation_untrusted(RESPONDER, message, only(TO_INITIATOR))


def second_message(first: bytes, preshared_key: bytes = PRESHARED) -> tuple[bytes, TransportKeys]:
    message, keys = write_response(read_first(first), RESPONDER_INDEX, preshared_key)
    return message + MACS, keys


def flip(message: bytes, byte: int) -> bytes:
    return message[:byte] + bytes([message[byte] ^ 0x01]) + message[byte + 1 :]


@each_preshared_key
def test_an_independent_responder_agrees_with_our_initiator(preshared_key: bytes) -> None:
    responder = oracle(RESPONDER_PRIVATE, preshared_key)
    first, state = write_initiation(INITIATOR, TO_RESPONDER, INITIATOR_INDEX, TIMESTAMP)
    assert first[:8] == bytes.fromhex("0100000044332211")
    assert responder.read_message(first[8:]) == TIMESTAMP

    head = bytes.fromhex("020000008877665544332211")
    second = head + bytes(responder.write_message()) + MACS
    keys = read_response_untrusted(INITIATOR, state, second, preshared_key)
    assert oracle_keys(responder) == (keys.receive_key, keys.send_key)
    assert (keys.local_index, keys.remote_index) == (INITIATOR_INDEX, RESPONDER_INDEX)
    assert keys.initiator


@each_preshared_key
def test_an_independent_initiator_agrees_with_our_responder(preshared_key: bytes) -> None:
    initiator = oracle(INITIATOR_PRIVATE, preshared_key, RESPONDER.public_key)
    head = bytes.fromhex("0100000044332211")
    initiation = read_first(head + bytes(initiator.write_message(TIMESTAMP)) + MACS)
    assert initiation.public_key == INITIATOR.public_key
    assert initiation.timestamp == TIMESTAMP
    assert initiation.sender_index == INITIATOR_INDEX

    second, keys = write_response(initiation, RESPONDER_INDEX, preshared_key)
    assert second[:12] == bytes.fromhex("020000008877665544332211")
    assert initiator.read_message(second[12:]) == b""
    assert oracle_keys(initiator) == (keys.receive_key, keys.send_key)
    assert (keys.local_index, keys.remote_index) == (RESPONDER_INDEX, INITIATOR_INDEX)
    assert not keys.initiator


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
def test_messages_and_keys_are_those_of_the_vector(vector: tuple[bytes, str, str, str]) -> None:
    preshared_key, second_hex, initiator_sends, responder_sends = vector
    ours, theirs = (X25519PrivateKey.from_private_bytes(key) for key in EPHEMERAL_PRIVATES)
    first, state = write_initiation(
        INITIATOR, TO_RESPONDER, INITIATOR_INDEX, TIMESTAMP, ephemeral_private=ours
    )
    assert first[8:].hex() == FIRST_VECTOR

    second, responder_keys = write_response(
        read_first(first + MACS),
        RESPONDER_INDEX,
        preshared_key,
        ephemeral_private=theirs,
    )
    assert second[12:].hex() == second_hex

    initiator_keys = read_response_untrusted(INITIATOR, state, second + MACS, preshared_key)
    assert initiator_keys.send_key.hex() == initiator_sends
    assert initiator_keys.receive_key.hex() == responder_sends
    assert responder_keys.send_key.hex() == responder_sends
    assert responder_keys.receive_key.hex() == initiator_sends


def test_every_handshake_has_its_own_ephemerals_and_keys() -> None:
    outcomes = []
    for _ in range(2):
        first, state = first_message()
        second, _ = second_message(first)
        keys = read_response_untrusted(INITIATOR, state, second, PRESHARED)
        outcomes.append((first[8:40], second[12:44], keys.send_key, keys.receive_key))
    assert not set(outcomes[0]) & set(outcomes[1])


def test_an_identity_and_its_exchange_are_those_of_rfc_7748() -> None:
    alice_private = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
    alice_public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    bob_public = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    alice = StaticKey(bytes.fromhex(alice_private))
    assert alice.public_key.hex() == alice_public
    assert alice.exchange(bytes.fromhex(bob_public)).hex() == shared


def test_the_bits_that_x25519_clamps_do_not_change_an_identity() -> None:
    clamped = bytes([0x11 & 0xF8]) + INITIATOR_PRIVATE[1:31] + bytes([0x11 & 0x7F | 0x40])
    assert StaticKey(clamped).public_key == INITIATOR.public_key


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_private_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32"):
        StaticKey(bytes(length))


@each_low_order_point
def test_a_static_key_of_low_order_is_refused(point: bytes) -> None:
    with pytest.raises(BadMessage, match="low order"):
        INITIATOR.exchange(point)


@each_low_order_point
def test_an_initiation_with_an_ephemeral_of_low_order_is_refused(point: bytes) -> None:
    first, _ = first_message()
    with pytest.raises(BadMessage, match="low order"):
        read_first(first[:8] + point + first[40:])


@each_low_order_point
def test_a_response_with_an_ephemeral_of_low_order_is_refused(point: bytes) -> None:
    first, state = first_message()
    second, _ = second_message(first)
    with pytest.raises(BadMessage, match="low order"):
        read_response_untrusted(INITIATOR, state, second[:12] + point + second[44:], PRESHARED)


# The sender's index (bytes 4 to 7 of both messages) is guarded by mac1 alone; see test_cookie.py.


@pytest.mark.parametrize(
    "byte", [0, 3, 8, 38, 40, 71, 72, 87, 88, 99, 100, 115], ids=lambda byte: f"byte {byte}"
)
def test_an_initiation_with_a_flipped_bit_is_refused(byte: int) -> None:
    first, _ = first_message()
    with pytest.raises(BadMessage):
        read_first(flip(first, byte))


@pytest.mark.parametrize("byte", [0, 3, 8, 11, 12, 42, 44, 59], ids=lambda byte: f"byte {byte}")
def test_a_response_with_a_flipped_bit_is_refused(byte: int) -> None:
    first, state = first_message()
    second, _ = second_message(first)
    with pytest.raises(BadMessage):
        read_response_untrusted(INITIATOR, state, flip(second, byte), PRESHARED)


def test_a_refused_response_does_not_spoil_the_genuine_one() -> None:
    first, state = first_message()
    second, responder_keys = second_message(first)
    with pytest.raises(BadMessage):
        read_response_untrusted(INITIATOR, state, flip(second, 59), PRESHARED)
    keys = read_response_untrusted(INITIATOR, state, second, PRESHARED)
    assert keys.send_key == responder_keys.receive_key


def test_a_response_to_an_earlier_initiation_is_refused() -> None:
    earlier, _ = first_message()
    _, state = first_message()
    second, _ = second_message(earlier)
    with pytest.raises(BadMessage, match="authenticate"):
        read_response_untrusted(INITIATOR, state, second, PRESHARED)


def test_a_response_for_another_index_is_refused() -> None:
    first, state = first_message()
    second, _ = second_message(first)
    with pytest.raises(BadMessage, match="another initiation"):
        read_response_untrusted(INITIATOR, replace(state, local_index=1), second, PRESHARED)


def test_an_initiation_from_an_unknown_peer_is_refused() -> None:
    asked = []

    def nobody(public_key: bytes) -> None:
        asked.append(public_key)

    first, _ = first_message()
    with pytest.raises(BadMessage, match="unknown peer"):
        read_initiation_untrusted(RESPONDER, first, nobody)
    assert asked == [INITIATOR.public_key]


def test_an_initiation_to_somebody_else_is_refused_before_the_peer_is_looked_up() -> None:
    def unreachable(public_key: bytes) -> None:
        pytest.fail("looked up a key that was not authenticated")

    first, _ = first_message()
    with pytest.raises(BadMessage, match="authenticate"):
        read_initiation_untrusted(StaticKey(os.urandom(32)), first, unreachable)


def test_who_claims_a_peers_public_key_without_its_private_key_is_refused() -> None:
    class Impostor(StaticKey):
        def __init__(self) -> None:
            super().__init__(os.urandom(32))
            self.public_key = INITIATOR.public_key

    impostor = Impostor()
    guess = RemoteStatic(RESPONDER.public_key, impostor.exchange(RESPONDER.public_key))
    first, _ = write_initiation(impostor, guess, INITIATOR_INDEX, TIMESTAMP)
    with pytest.raises(BadMessage, match="authenticate"):
        read_first(first + MACS)


@pytest.mark.parametrize("preshared_key", [NO_PRESHARED, b"\x56" * 32])
def test_a_wrong_preshared_key_is_refused(preshared_key: bytes) -> None:
    first, state = first_message()
    second, _ = second_message(first)
    with pytest.raises(BadMessage, match="authenticate"):
        read_response_untrusted(INITIATOR, state, second, preshared_key)


@given(st.binary(min_size=144, max_size=144))
def test_an_initiation_of_garbage_raises_nothing_but_bad_message(garbage: bytes) -> None:
    with pytest.raises(BadMessage):
        read_first(bytes.fromhex("01000000") + garbage)


@given(st.binary(min_size=80, max_size=80))
def test_a_response_of_garbage_raises_nothing_but_bad_message(garbage: bytes) -> None:
    _, state = first_message()
    head = bytes.fromhex("020000008877665544332211")
    with pytest.raises(BadMessage):
        read_response_untrusted(INITIATOR, state, head + garbage, PRESHARED)


def test_no_key_shows_in_a_repr() -> None:
    first, state = first_message()
    _, keys = second_message(first)
    initiation = read_first(first)
    shown = repr((INITIATOR, TO_RESPONDER, state, initiation, keys))
    secrets = [
        INITIATOR_PRIVATE,
        TO_RESPONDER.static_static,
        state.ephemeral_private.private_bytes_raw(),
        state.chaining_key,
        state.hash,
        initiation.chaining_key,
        initiation.hash,
        keys.send_key,
        keys.receive_key,
    ]
    for secret in secrets:
        assert repr(secret) not in shown
        assert secret.hex() not in shown
