# SPDX-License-Identifier: MIT
"""aead.c against RFC 8439, against another implementation, and its backends against each other."""

import errno
import random
import threading
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wgpy.dataplane._core import ffi, lib

BACKENDS = ffi.string(lib.wg_aead_backends()).decode().split(",")
TAG_LEN = lib.WG_TAG_LEN

every_backend = pytest.mark.parametrize("backend", BACKENDS)
keys = st.binary(min_size=32, max_size=32)
counters = st.integers(0, 2**64 - 1)
lengths = st.integers(0, 200) | st.integers(0, 70_000)
seeds = st.integers(0, 2**32)


class Refused(Exception):
    """The tag was wrong; left is what the output buffer held afterwards."""

    def __init__(self, left: bytes) -> None:
        self.left = left


def counter_nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")


def seal(
    backend: str | None, key: bytes, counter: int, plaintext: bytes, *, in_place: bool = False
) -> bytes:
    size = len(plaintext) + TAG_LEN
    out = ffi.new("uint8_t[]", size)
    source = ffi.from_buffer(plaintext)
    if in_place:
        ffi.memmove(out, plaintext, len(plaintext))
        source = out
    name = ffi.NULL if backend is None else backend.encode()
    result = lib.door_aead_seal(name, key, counter, source, len(plaintext), out)
    assert result == 0
    return bytes(ffi.buffer(out, size))


def unseal(
    backend: str | None, key: bytes, counter: int, sealed: bytes, *, in_place: bool = False
) -> bytes:
    out = ffi.new("uint8_t[]", max(len(sealed), 1))
    source = ffi.from_buffer(sealed)
    if in_place:
        ffi.memmove(out, sealed, len(sealed))
        source = out
    name = ffi.NULL if backend is None else backend.encode()
    result = lib.door_aead_open(name, key, counter, source, len(sealed), out)
    plaintext = bytes(ffi.buffer(out, max(len(sealed) - TAG_LEN, 0)))
    if result == -errno.EBADMSG:
        raise Refused(plaintext)
    assert result == 0
    return plaintext


@dataclass(frozen=True, slots=True)
class Vector:
    key: str
    nonce: str  # that of a transport message: 0^32 || counter
    aad: str  # which a transport message has not
    plaintext: bytes
    ciphertext: str
    tag: str


RFC_8439_A_5 = Vector(
    key="1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0",
    nonce="000000000102030405060708",
    aad="f33388860000000000004e91",
    plaintext="Internet-Drafts are draft documents valid for a maximum of six months and may be "
    "updated, replaced, or obsoleted by other documents at any time. It is inappropriate to use "
    "Internet-Drafts as reference material or to cite them other than as "
    "/\u201cwork in progress./\u201d".encode(),
    ciphertext="64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb2"
    "4c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b0100d4f03b7f355894cf"
    "332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855"
    "9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4"
    "b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523e"
    "af4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a"
    "0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a10"
    "49e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29"
    "a6ad5cb4022b02709b",
    tag="eead9d67890cbb22392336fea1851f38",
)


def test_the_other_implementation_holds_to_rfc_8439() -> None:
    vector = RFC_8439_A_5
    key, nonce, aad = map(bytes.fromhex, (vector.key, vector.nonce, vector.aad))
    sealed = ChaCha20Poly1305(key).encrypt(nonce, vector.plaintext, aad)
    assert sealed.hex() == vector.ciphertext + vector.tag


@every_backend
@pytest.mark.parametrize("in_place", [False, True])
def test_the_ciphertext_is_that_of_rfc_8439(backend: str, in_place: bool) -> None:
    vector = RFC_8439_A_5
    key, nonce = bytes.fromhex(vector.key), bytes.fromhex(vector.nonce)
    counter = int.from_bytes(nonce[4:], "little")
    sealed = seal(backend, key, counter, vector.plaintext, in_place=in_place)
    assert sealed[:-TAG_LEN].hex() == vector.ciphertext
    assert sealed == ChaCha20Poly1305(key).encrypt(nonce, vector.plaintext, None)


@every_backend
@pytest.mark.parametrize("in_place", [False, True])
@settings(max_examples=200)
@given(key=keys, counter=counters, length=lengths, seed=seeds)
@example(key=bytes(32), counter=0, length=0, seed=0)
@example(key=bytes(32), counter=2**64 - 1, length=65_535, seed=0)
def test_another_implementation_agrees(
    backend: str, in_place: bool, key: bytes, counter: int, length: int, seed: int
) -> None:
    plaintext = random.Random(seed).randbytes(length)
    sealed = seal(backend, key, counter, plaintext, in_place=in_place)
    assert sealed == ChaCha20Poly1305(key).encrypt(counter_nonce(counter), plaintext, None)
    assert unseal(backend, key, counter, sealed, in_place=in_place) == plaintext


@pytest.mark.parametrize("length", [*range(130), 255, 256, 257, 511, 512, 513, 1440, 9000])
def test_all_backends_give_the_same_bytes(length: int) -> None:
    key, plaintext = random.Random(length).randbytes(32), random.Random(length).randbytes(length)
    assert len({seal(backend, key, length, plaintext) for backend in BACKENDS}) == 1


@every_backend
@pytest.mark.parametrize("in_place", [False, True])
def test_every_flipped_bit_is_refused_and_leaves_no_plaintext(backend: str, in_place: bool) -> None:
    key, counter = bytes(range(32)), 7
    sealed = seal(backend, key, counter, b"attack at dawn")
    for bit in range(len(sealed) * 8):
        forged = bytearray(sealed)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Refused) as refused:
            unseal(backend, key, counter, bytes(forged), in_place=in_place)
        assert not any(refused.value.left)


@every_backend
@pytest.mark.parametrize("difference", [1 << bit for bit in range(64)])
def test_a_wrong_counter_is_refused(backend: str, difference: int) -> None:
    sealed = seal(backend, bytes(32), 5, b"payload")
    with pytest.raises(Refused):
        unseal(backend, bytes(32), 5 ^ difference, sealed)


@every_backend
def test_a_wrong_key_is_refused(backend: str) -> None:
    sealed = seal(backend, bytes(32), 0, b"payload")
    with pytest.raises(Refused):
        unseal(backend, bytes(31) + b"\x01", 0, sealed)


@every_backend
@pytest.mark.parametrize("length", range(TAG_LEN))
def test_a_message_shorter_than_its_tag_is_refused(backend: str, length: int) -> None:
    with pytest.raises(Refused):
        unseal(backend, bytes(32), 0, bytes(length))


@every_backend
def test_an_empty_message_needs_no_buffer(backend: str) -> None:
    key, counter, tag = bytes(32), 1, ffi.new("uint8_t[]", TAG_LEN)
    assert lib.door_aead_seal(backend.encode(), key, counter, ffi.NULL, 0, tag) == 0
    assert bytes(ffi.buffer(tag)) == ChaCha20Poly1305(key).encrypt(
        counter_nonce(counter), b"", None
    )
    assert lib.door_aead_open(backend.encode(), key, counter, tag, TAG_LEN, ffi.NULL) == 0


def test_openssl_is_always_there_and_an_unknown_backend_never() -> None:
    assert "openssl" in BACKENDS
    out = ffi.new("uint8_t[]", TAG_LEN)
    for door, length in ((lib.door_aead_seal, 0), (lib.door_aead_open, TAG_LEN)):
        assert door(b"rot13", bytes(32), 0, bytes(length), length, out) == -errno.ENOENT


def test_no_name_means_the_fastest_backend() -> None:
    key = bytes(32)
    assert unseal(None, key, 3, seal(None, key, 3, b"payload")) == b"payload"


@pytest.mark.threads
@every_backend
def test_threads_do_not_disturb_each_other(backend: str) -> None:
    """Each call releases the GIL, so these seals do overlap."""
    results: dict[int, list[bytes]] = {}

    def seal_many(thread: int) -> None:
        key, plaintext = bytes([thread]) * 32, bytes([thread]) * 20_000
        results[thread] = [seal(backend, key, n, plaintext) for n in range(50)]

    threads = [threading.Thread(target=seal_many, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        oracle = ChaCha20Poly1305(bytes([i]) * 32)
        expected = [oracle.encrypt(counter_nonce(n), bytes([i]) * 20_000, None) for n in range(50)]
        assert results[i] == expected
