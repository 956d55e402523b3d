# SPDX-License-Identifier: MIT
"""Requests in a stream: cut into pieces, one after the other, without end, or anything else."""

import errno
import ipaddress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from uapi.requests import KEY, KEY_HEX, OTHER, OTHER_HEX, PEER_LINE, parse, requests

from wgpy.config import AllowedIP, DeviceChange, Endpoint, PeerChange
from wgpy.errors import ConfigError
from wgpy.uapi import protocol
from wgpy.uapi.protocol import LINE_MAX, GetRequest, Request, RequestParser


def test_a_set_request_as_wg_sends_it_is_understood() -> None:
    sent = (
        f"set=1\nprivate_key={OTHER_HEX}\nlisten_port=51820\nfwmark=51820\nreplace_peers=true\n"
        f"public_key={KEY_HEX}\npreshared_key={OTHER_HEX}\nendpoint=[2001:db8::1]:51820\n"
        "persistent_keepalive_interval=25\nreplace_allowed_ips=true\nallowed_ip=10.0.0.0/24\n"
        f"allowed_ip=::/0\npublic_key={OTHER_HEX}\nremove=true\n\n"
    ).encode()
    peer = PeerChange(
        public_key=KEY,
        preshared_key=OTHER,
        endpoint=Endpoint(ipaddress.ip_address("2001:db8::1").packed, 51820),
        persistent_keepalive_s=25,
        replace_allowed_ips=True,
        allowed_ips=(AllowedIP(bytes([10, 0, 0, 0]), 24), AllowedIP(bytes(16), 0)),
    )
    assert requests(sent) == [
        DeviceChange(
            private_key=OTHER,
            listen_port=51820,
            fwmark=51820,
            replace_peers=True,
            peers=(peer, PeerChange(public_key=OTHER, remove=True)),
        )
    ]


def test_a_get_request_is_understood() -> None:
    assert requests(b"get=1\n\n") == [GetRequest()]


def test_requests_may_follow_each_other_with_more_blank_lines_than_needed() -> None:
    sent = b"\nset=1\nfwmark=1\n\n\n\nget=1\n\nset=1\n\n\n"
    assert requests(sent) == [DeviceChange(fwmark=1), GetRequest(), DeviceChange()]


def test_an_empty_connection_asks_for_nothing() -> None:
    assert requests() == []


@given(st.lists(st.integers(0, 40), max_size=12))
def test_fragmentation_makes_no_difference(cuts: list[int]) -> None:
    sent = b"set=1\nfwmark=1\n\n\nget=1\n\nset=1\nbad\nfwmark=2\n\nset=1\nlisten_port=3\n\n"
    chunks = [sent[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), None], strict=True)]
    first, second, refused, last = requests(*chunks)
    assert (first, second, last) == (
        DeviceChange(fwmark=1),
        GetRequest(),
        DeviceChange(listen_port=3),
    )
    assert isinstance(refused, ConfigError)


def test_the_rest_of_a_refused_request_is_passed_over() -> None:
    refused, following = requests(b"set=1\nfwmark=x\nget=1\nset=1\nrubbish\n\nget=1\n\n")
    assert isinstance(refused, ConfigError)
    assert (refused.errno, refused.line) == (errno.EINVAL, "fwmark=x")
    assert following == GetRequest()


@pytest.mark.parametrize(
    ("operation", "code"),
    [(b"set=2", errno.EINVAL), (b"del=1", errno.EINVAL), (b"hello", errno.EPROTO)],
)
def test_an_unknown_operation_is_refused(operation: bytes, code: int) -> None:
    refused, following = requests(operation + b"\nfwmark=1\n\nget=1\n\n")
    assert isinstance(refused, ConfigError)
    assert refused.errno == code
    assert following == GetRequest()


def test_a_get_request_has_no_lines() -> None:
    (refused,) = requests(b"get=1\nfwmark=1\n\n")
    assert isinstance(refused, ConfigError)
    assert refused.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("sent", "found"),
    [(b"set=1\nfwmark=1\n", DeviceChange(fwmark=1)), (b"get=1\n", GetRequest())],
)
def test_the_end_of_the_stream_ends_a_request_after_a_whole_line(
    sent: bytes, found: Request
) -> None:
    assert requests(sent) == [found]


@pytest.mark.parametrize("sent", [b"set=1\nlisten_port=518", b"get=1", b"set=1\nfwmark=x\nfw"])
def test_the_end_of_the_stream_within_a_line_refuses_the_request(sent: bytes) -> None:
    (refused,) = requests(sent)
    assert isinstance(refused, ConfigError)
    assert refused.errno == errno.EPROTO


def test_a_line_without_end_is_not_kept() -> None:
    parser = RequestParser()
    for _ in range(LINE_MAX):
        assert list(parser.feed_untrusted(b"x")) == []
    with pytest.raises(ConfigError, match="line too long") as caught:
        list(parser.feed_untrusted(b"x"))
    assert caught.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize("start", [b"set=1\nfwmark=1\n", b"set=1\nrubbish\n", b"rubbish\n"])
def test_a_request_without_end_is_not_kept(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_MAX", 10_000)
    parser = RequestParser()
    assert list(parser.feed_untrusted(start)) == []
    for _ in range(990):
        assert list(parser.feed_untrusted(b"fwmark=12\n")) == []
    with pytest.raises(ConfigError, match="request too long") as caught:
        list(parser.feed_untrusted(b"fwmark=12\n" * 10))
    assert caught.value.errno == errno.EMSGSIZE


def test_the_bound_of_a_request_is_not_one_of_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "REQUEST_MAX", 100)
    assert requests(*[b"set=1\nfwmark=1\n\nget=1\n\n"] * 50)[-1] == GetRequest()


LINES = st.sampled_from(
    [
        "set=1",
        "get=1",
        "",
        PEER_LINE,
        f"private_key={KEY_HEX}",
        "listen_port=1",
        "allowed_ip=10.0.0.0/8",
        "endpoint=[fe80::1%lo]:1",
        "remove=true",
        "protocol_version=1",
    ]
) | st.builds(
    "{}={}".format,
    st.sampled_from(
        [
            "private_key",
            "public_key",
            "preshared_key",
            "listen_port",
            "fwmark",
            "replace_peers",
            "remove",
            "endpoint",
            "allowed_ip",
            "persistent_keepalive_interval",
        ]
    ),
    st.text(max_size=80) | st.text("0123456789abcdef.:/%[]-", max_size=66),
)


@settings(max_examples=500)
@given(st.lists(LINES, max_size=12))
@example(["public_key=" + "\ud800" * 64])
def test_no_lines_raise_anything_but_a_config_error(lines: list[str]) -> None:
    try:
        outcome: Request = parse(*lines)
    except ConfigError as error:
        outcome = error
    assert isinstance(outcome, DeviceChange | ConfigError)


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=60) | LINES.map(lambda line: f"{line}\n".encode()), max_size=20))
def test_no_bytes_raise_anything_but_a_config_error(chunks: list[bytes]) -> None:
    for request in requests(b"set=1\n", *chunks):
        assert isinstance(request, GetRequest | DeviceChange | ConfigError)
