# SPDX-License-Identifier: MIT
"""CONNECT without I/O: whatever the pieces, and whoever sends them."""

import errno
import socket
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgpy.errors import BadRequest
from wgpy.proxy.credentials import Credentials
from wgpy.proxy.requests import Request, Target

pytest.importorskip("h11", reason="not installed: h11")

from wgpy.proxy.http_connect import HEAD_MAX, HttpConnect

CREDENTIALS = Credentials([(b"alice", b"secret")])
REQUEST = b"CONNECT db.internal:443 HTTP/1.1\r\nHost: db.internal:443\r\n\r\n"


def basic(pair: bytes) -> bytes:
    return b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic %s\r\n\r\n" % (
        b64encode(pair)
    )


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


@given(early=st.binary(max_size=20), sizes=st.lists(st.integers(1, 30)))
def test_it_does_not_matter_in_which_pieces_a_request_comes(early: bytes, sizes: list[int]) -> None:
    conversation, data = HttpConnect(None), REQUEST + early
    while data:
        size = sizes.pop() if sizes else len(data)
        assert conversation.feed_untrusted(data[:size]) == b""
        data, late = data[size:], conversation.request is not None
        if late:
            break
    assert conversation.request == Request(Target("db.internal", 443))
    assert early.startswith(conversation.early())
    assert conversation.early() + data == early


@pytest.mark.parametrize(
    ("text", "target"),
    [("10.0.0.1:80", Target("10.0.0.1", 80)), ("[fd00::1]:443", Target("fd00::1", 443))],
)
def test_addresses_of_both_families_are_targets(text: str, target: Target) -> None:
    conversation = HttpConnect(None)
    conversation.feed_untrusted(f"CONNECT {text} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert conversation.request == Request(target)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"CONNECT a:65536 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"CONNECT fd00::1:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"CONNECT [::1%lo]:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"\x05\x01\x00\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nX: %s" % (b"x" * 2 * HEAD_MAX), 431),
    ],
)
def test_what_is_refused_is_answered_by_its_status(said: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as refused:
        HttpConnect(None).feed_untrusted(said)
    assert status_of(refused.value.answer) == status
    assert refused.value.answer.endswith(b"\r\n\r\n")


def test_only_who_has_a_password_gets_in() -> None:
    conversation = HttpConnect(CREDENTIALS)
    conversation.feed_untrusted(basic(b"alice:secret"))
    assert conversation.request is not None
    for said, is_guess in (
        (basic(b"alice:wrong"), True),
        (basic(b"alice"), True),
        (REQUEST, False),
        (basic(b"alice:secret").replace(b"Basic", b"Digest"), True),
        (basic(b"").replace(b"Basic ", b"Basic %%%"), False),
    ):
        with pytest.raises(BadRequest) as refused:
            HttpConnect(CREDENTIALS).feed_untrusted(said)
        assert status_of(refused.value.answer) == 407
        assert b"Proxy-Authenticate: Basic" in refused.value.answer
        assert refused.value.is_guess == is_guess, said


def test_what_cannot_be_reached_has_its_status() -> None:
    for error, status in (
        (OSError(errno.ECONNREFUSED, ""), 502),
        (OSError(errno.ETIMEDOUT, ""), 504),
        (OSError(errno.EACCES, ""), 403),
        (socket.gaierror(socket.EAI_NONAME, ""), 502),
    ):
        assert status_of(HttpConnect(None).refused(error)) == status


@given(st.binary(max_size=300))
def test_rubbish_is_refused_or_waits(data: bytes) -> None:
    conversation = HttpConnect(None)
    answer = b""
    try:
        conversation.feed_untrusted(data)
    except BadRequest as refused:
        answer = refused.answer
    assert conversation.request is None
    assert not answer or status_of(answer) >= 400
