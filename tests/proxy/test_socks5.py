# SPDX-License-Identifier: MIT
"""SOCKS5 without I/O: whatever the pieces, and whoever sends them."""

import errno
import socket
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wgpy.errors import BadRequest
from wgpy.proxy.credentials import Credentials
from wgpy.proxy.requests import Request, Target
from wgpy.proxy.socks5 import Socks5, read_datagram_untrusted

GREETING = b"\x05\x01\x00"
CREDENTIALS = Credentials([(b"alice", b"secret"), (b"bob", b"x:y")])
V4 = b"\x01" + socket.inet_aton("10.0.0.1") + struct.pack("!H", 80)
V6 = b"\x04" + socket.inet_pton(socket.AF_INET6, "fd00::1") + struct.pack("!H", 443)
NAME = b"\x03\x0bdb.internal" + struct.pack("!H", 5432)
TARGETS = {
    V4: Target("10.0.0.1", 80),
    V6: Target("fd00::1", 443),
    NAME: Target("db.internal", 5432),
}


def in_pieces(conversation: Socks5, data: bytes, sizes: list[int]) -> bytes:
    """Feed it so, each piece as long as the next size says; return all answers."""
    answers = b""
    while data:
        size = sizes.pop() if sizes else len(data)
        answers += conversation.feed_untrusted(data[:size])
        data = data[size:]
    return answers


@given(
    address=st.sampled_from(list(TARGETS)),
    early=st.binary(max_size=20),
    sizes=st.lists(st.integers(1, 9)),
)
def test_it_does_not_matter_in_which_pieces_a_request_comes(
    address: bytes, early: bytes, sizes: list[int]
) -> None:
    conversation = Socks5(None)
    answers = in_pieces(conversation, GREETING + b"\x05\x01\x00" + address + early, sizes)
    assert answers == b"\x05\x00"
    assert conversation.request == Request(TARGETS[address])
    assert conversation.early() == early


def test_an_association_is_a_request_too() -> None:
    conversation = Socks5(None)
    conversation.feed_untrusted(GREETING + b"\x05\x03\x00" + V4)
    assert conversation.request == Request(TARGETS[V4], is_association=True)


@given(user=st.binary(max_size=255), password=st.binary(max_size=255))
@example(b"alice", b"secret")
@example(b"bob", b"x:y")
def test_only_a_pair_of_the_file_gets_in(user: bytes, password: bytes) -> None:
    conversation = Socks5(CREDENTIALS)
    assert conversation.feed_untrusted(b"\x05\x02\x00\x02") == b"\x05\x02"
    said = bytes((1, len(user))) + user + bytes((len(password),)) + password
    if (user, password) in ((b"alice", b"secret"), (b"bob", b"x:y")):
        assert conversation.feed_untrusted(said) == b"\x01\x00"
        return
    with pytest.raises(BadRequest) as refused:
        conversation.feed_untrusted(said)
    assert (refused.value.answer, refused.value.is_guess) == (b"\x01\x01", True)


@pytest.mark.parametrize(
    ("credentials", "said", "answer"),
    [
        (None, b"\x04\x01", b""),
        (None, b"GET / HTTP/1.1\r\n", b""),
        (None, b"\x05\x00", b"\x05\xff"),
        (None, b"\x05\x01\x02", b"\x05\xff"),
        (CREDENTIALS, b"\x05\x01\x00", b"\x05\xff"),
        (CREDENTIALS, b"\x05\x01\x02\x05", b"\x05\x02"),
        (None, GREETING + b"\x04\x01\x00", b"\x05\x00"),
        (None, GREETING + b"\x05\x02\x00" + V4, b"\x05\x00\x05\x07\x00\x01" + bytes(6)),
        (None, GREETING + b"\x05\x01\x00\x02", b"\x05\x00\x05\x08\x00\x01" + bytes(6)),
        (None, GREETING + b"\x05\x01\x00\x03\x00\0\0", b"\x05\x00\x05\x04\x00\x01" + bytes(6)),
        (None, GREETING + b"\x05\x01\x00\x03\x03a\nb\0\0", b"\x05\x00\x05\x04\x00\x01" + bytes(6)),
    ],
)
def test_what_is_refused_is_answered_by_its_code(
    credentials: Credentials | None, said: bytes, answer: bytes
) -> None:
    with pytest.raises(BadRequest) as refused:
        Socks5(credentials).feed_untrusted(said)
    assert refused.value.answer == answer


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ECONNREFUSED, ""), 5),
        (OSError(errno.ENETUNREACH, ""), 3),
        (OSError(errno.EHOSTUNREACH, ""), 4),
        (OSError(errno.ETIMEDOUT, ""), 6),
        (OSError(errno.EACCES, ""), 2),
        (OSError(errno.EMFILE, ""), 1),
        (socket.gaierror(socket.EAI_NONAME, ""), 4),
    ],
)
def test_what_cannot_be_reached_has_its_code(error: OSError, code: int) -> None:
    assert Socks5(None).refused(error)[1] == code


def test_an_answer_names_an_address_of_either_family() -> None:
    assert Socks5(None).granted(Target("10.0.0.1", 80)) == b"\x05\x00\x00" + V4
    assert Socks5(None).granted(Target("fd00::1", 443)) == b"\x05\x00\x00" + V6


@given(data=st.binary(max_size=600), sizes=st.lists(st.integers(1, 300)))
def test_rubbish_is_refused_or_waits_and_never_grows(data: bytes, sizes: list[int]) -> None:
    conversation = Socks5(CREDENTIALS if len(data) % 2 else None)
    try:
        in_pieces(conversation, data, sizes)
    except BadRequest:
        return
    if conversation.request is None:
        assert len(conversation.early()) <= 1 + 2 * 256  # no message is longer


@given(payload=st.binary(max_size=50), address=st.sampled_from(list(TARGETS)))
def test_a_datagram_says_where_it_goes(payload: bytes, address: bytes) -> None:
    read = read_datagram_untrusted(b"\0\0\0" + address + payload)
    assert read == (TARGETS[address], payload)


@given(st.binary(max_size=80))
@example(b"\0\0\x01" + V4)
@example(b"\0\x01\0" + V4)
@example(b"\0\0\0" + V6[:-1])
def test_a_datagram_is_read_or_refused(data: bytes) -> None:
    try:
        target, payload = read_datagram_untrusted(data)
    except BadRequest:
        return
    assert data[:3] == bytes(3)
    assert data.endswith(payload)
    assert 0 <= target.port <= 0xFFFF
