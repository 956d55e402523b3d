# SPDX-License-Identifier: MIT
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgpy.errors import BadMessage
from wgpy.protocol.messages import (
    MACS_LEN,
    CookieReplyMessage,
    InitiationMessage,
    ResponseMessage,
    pack_initiation,
    pack_response,
    parse_cookie_reply_untrusted,
    parse_initiation_untrusted,
    parse_response_untrusted,
)

INITIATION = "0100000044332211" + "e1" * 32 + "51" * 48 + "71" * 28 + "aa" * 16 + "bb" * 16
RESPONSE = "020000004433221188776655" + "e2" * 32 + "00" * 16 + "aa" * 16 + "bb" * 16
COOKIE_REPLY = "0300000088776655" + "0c" * 24 + "cc" * 32

PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "initiation": (parse_initiation_untrusted, bytes.fromhex(INITIATION)),
    "response": (parse_response_untrusted, bytes.fromhex(RESPONSE)),
    "cookie reply": (parse_cookie_reply_untrusted, bytes.fromhex(COOKIE_REPLY)),
}
each_message = pytest.mark.parametrize(("parse", "message"), PARSERS.values(), ids=PARSERS)

indexes = st.integers(0, 2**32 - 1)


def octets(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length)


def test_an_initiation_is_read_field_by_field() -> None:
    assert parse_initiation_untrusted(bytes.fromhex(INITIATION)) == InitiationMessage(
        0x11223344, b"\xe1" * 32, b"\x51" * 48, b"\x71" * 28
    )


def test_a_response_is_read_field_by_field() -> None:
    assert parse_response_untrusted(bytes.fromhex(RESPONSE)) == ResponseMessage(
        0x11223344, 0x55667788, b"\xe2" * 32, bytes(16)
    )


def test_a_cookie_reply_is_read_field_by_field() -> None:
    assert parse_cookie_reply_untrusted(bytes.fromhex(COOKIE_REPLY)) == CookieReplyMessage(
        0x55667788, b"\x0c" * 24, b"\xcc" * 32
    )


@each_message
def test_one_byte_more_or_less_is_refused(parse: Callable[[bytes], object], message: bytes) -> None:
    for wrong in (message[:-1], message + b"\0", b""):
        with pytest.raises(BadMessage, match="bytes"):
            parse(wrong)


@each_message
def test_any_other_bit_in_the_type_or_its_reserved_bytes_is_refused(
    parse: Callable[[bytes], object], message: bytes
) -> None:
    for bit in range(32):
        word = int.from_bytes(message[:4], "little") ^ (1 << bit)
        with pytest.raises(BadMessage, match="type word"):
            parse(word.to_bytes(4, "little") + message[4:])


@given(st.builds(InitiationMessage, indexes, octets(32), octets(48), octets(28)), octets(MACS_LEN))
def test_an_initiation_survives_the_wire(message: InitiationMessage, macs: bytes) -> None:
    data = pack_initiation(message)
    assert len(data) == 116
    assert parse_initiation_untrusted(data + macs) == message


@given(st.builds(ResponseMessage, indexes, indexes, octets(32), octets(16)), octets(MACS_LEN))
def test_a_response_survives_the_wire(message: ResponseMessage, macs: bytes) -> None:
    data = pack_response(message)
    assert len(data) == 60
    assert parse_response_untrusted(data + macs) == message


@given(st.binary(max_size=200))
def test_garbage_raises_nothing_but_bad_message(data: bytes) -> None:
    for parse, _ in PARSERS.values():
        with pytest.raises(BadMessage):
            parse(data)
