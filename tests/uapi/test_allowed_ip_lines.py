# SPDX-License-Identifier: MIT
"""Many `allowed_ip` lines: C and Python read the same from them, and write what can be read."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from uapi.requests import PEER_LINE, requests

from wgpy.addresses import format_prefix
from wgpy.config import (
    ZERO_KEY,
    AllowedIP,
    DeviceChange,
    DeviceSnapshot,
    PackedAllowedIPs,
    PeerChange,
    PeerSnapshot,
)
from wgpy.dataplane.plane import format_allowed_ips, parse_allowed_ips_untrusted
from wgpy.errors import ConfigError
from wgpy.uapi import protocol
from wgpy.uapi.protocol import SetRequest, format_get

addresses = st.ip_addresses().map(str)
odd = st.sampled_from(["", "032", "+1", "1 ", "-1", "0x1", "99999"])
lengths = st.integers(0, 130).map(str) | odd
values = st.builds("{}{}".format, st.sampled_from(["", "", "", "-", "--"]), addresses)
values |= st.builds("{}{}/{}".format, st.sampled_from(["", "", "-"]), addresses, lengths)
values |= st.text("0123456789abcdef.:/%-\0 \r", max_size=60)
good = st.builds(
    AllowedIP, st.binary(min_size=4, max_size=4), st.integers(0, 32), st.booleans()
) | st.builds(AllowedIP, st.binary(min_size=16, max_size=16), st.integers(0, 128), st.booleans())


def line(prefix: AllowedIP) -> str:
    return f"allowed_ip={'-' if prefix.remove else ''}{format_prefix(prefix)}"


def by_python(value: str) -> AllowedIP | None:
    """What SetRequest reads of one line, None for an error."""
    request = SetRequest()
    request.add_untrusted([PEER_LINE])
    try:
        request.add_untrusted([f"allowed_ip={value}"])
    except ConfigError:
        return None
    (peer,) = request.finish().peers
    return peer.allowed_ips[0]


@settings(max_examples=1000)
@given(values)
@example("1.2.3.4/0")
@example("::ffff:1.2.3.4/128")
@example("0000:0000:0000:0000:0000:0000:255.255.255.255/128")
@example("-0000:0000:0000:0000:0000:0000:255.255.255.255/128")
@example("-0000:0000:0000:0000:0000:0000:255.255.255.255/1280")
@example("1.2.3.4/32\0")
@example("1.2.3.4/33")
@example("1.2.3.4/")
@example("fe80::1%lo/64")
def test_c_takes_what_python_takes_and_the_same(value: str) -> None:
    text = f"allowed_ip={value}\n".encode("latin-1")
    prefixes, used = parse_allowed_ips_untrusted(text)
    expected = by_python(value)
    assert list(prefixes) == ([] if expected is None else [expected])
    assert used == (0 if expected is None else len(text))


@given(st.lists(good, max_size=30), st.binary(max_size=40))
def test_c_stops_before_what_is_no_such_line(prefixes: list[AllowedIP], rest: bytes) -> None:
    text = "".join(f"{line(prefix)}\n" for prefix in prefixes).encode()
    read, used = parse_allowed_ips_untrusted(text + b"remove=true\n" + rest)
    assert (list(read), used) == (prefixes, len(text))


@pytest.mark.parametrize("text", [b"", b"allowed_ip=", b"allowed_ip=1.2.3.4/32", b"\n", b"allowed"])
def test_c_takes_no_line_without_an_end(text: bytes) -> None:
    prefixes, used = parse_allowed_ips_untrusted(text)
    assert (list(prefixes), used) == ([], 0)


# ---- in a request ----

LINES = (
    st.lists(good.map(line), min_size=6, max_size=30).map("\n".join)
    | values.map("allowed_ip={}".format)
    | st.sampled_from(["set=1", "", PEER_LINE, "replace_allowed_ips=true", "fwmark=1", "rubbish"])
)


@settings(max_examples=300)
@given(st.lists(LINES, max_size=8), st.integers(1, 200))
def test_requests_are_the_same_with_c_and_without(lines: list[str], size: int) -> None:
    text = "\n".join(["set=1", PEER_LINE, *lines, "", ""]).encode("latin-1")
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(protocol, "parse_allowed_ips_untrusted", nothing)
        expected = [comparable(request) for request in requests(*chunks)]
    assert [comparable(request) for request in requests(text)] == expected
    assert [comparable(request) for request in requests(*chunks)] == expected


def nothing(text: bytes) -> tuple[PackedAllowedIPs, int]:
    return PackedAllowedIPs(b""), 0


def comparable(request: object) -> object:
    if isinstance(request, ConfigError):
        return request.errno, request.reason, request.line
    return request


def test_what_stands_before_replace_allowed_ips_counts_for_nothing() -> None:
    many = [AllowedIP(bytes([10, 0, 0, n]), 32) for n in range(40)]
    text = "\n".join(map(line, many))
    sent = f"set=1\n{PEER_LINE}\n{text}\nreplace_allowed_ips=true\n{text}\n\n"
    (change,) = requests(sent.encode())
    assert isinstance(change, DeviceChange)
    assert change.peers[0].allowed_ips == many


# ---- packed prefixes ----


@given(st.lists(good), st.integers(-5, 5), st.integers(-5, 5))
def test_packed_prefixes_are_a_sequence(prefixes: list[AllowedIP], start: int, stop: int) -> None:
    packed = PackedAllowedIPs.of(prefixes)
    assert list(packed) == prefixes
    assert packed == tuple(prefixes)
    assert hash(packed) == hash(tuple(prefixes))
    assert packed[start:stop] == prefixes[start:stop]
    assert [packed[n] for n in range(len(packed))] == prefixes
    assert [packed[-n] for n in range(1, len(packed) + 1)] == prefixes[::-1]
    assert PeerChange(bytes(32), allowed_ips=packed) == PeerChange(
        bytes(32), allowed_ips=tuple(prefixes)
    )


@pytest.mark.parametrize("index", [2, -3])
def test_there_is_no_packed_prefix_beyond_the_ends(index: int) -> None:
    packed = PackedAllowedIPs.of([AllowedIP(bytes(4), 0)] * 2)
    with pytest.raises(IndexError):
        packed[index]


# ---- in a reply ----


@given(st.lists(good.map(lambda prefix: prefix._replace(remove=False)), max_size=40))
def test_what_is_shown_is_what_addresses_are_written_as(prefixes: list[AllowedIP]) -> None:
    shown = format_allowed_ips(PackedAllowedIPs.of(prefixes))
    assert shown == "".join(f"allowed_ip={format_prefix(prefix)}\n" for prefix in prefixes)


def test_a_long_reply_comes_in_pieces_and_complete() -> None:
    v4 = [AllowedIP(IPv4Address(n << 8).packed, 24) for n in range(20_000)]
    v6 = [AllowedIP(IPv6Address((1 << 128) - 1 - n).packed, 128) for n in range(20_000)]
    peer = PeerSnapshot(bytes(32), ZERO_KEY, None, 0, 0, 0, 0, (*v4, *v6))
    pieces = list(format_get(DeviceSnapshot(ZERO_KEY, 0, 0, (peer,))))
    assert max(map(len, pieces)) < 1 << 17
    lines = [one for one in b"".join(pieces).decode().splitlines() if one.startswith("allowed_ip")]
    assert lines == [line(prefix) for prefix in (*v4, *v6)]
