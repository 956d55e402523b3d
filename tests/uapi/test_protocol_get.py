# SPDX-License-Identifier: MIT
"""The text of replies to get requests."""

import errno
import ipaddress
import socket
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uapi.requests import KEY, KEY_HEX, OTHER, OTHER_HEX, parse

from wgpy.config import ZERO_KEY, AllowedIP, DeviceSnapshot, Endpoint, PeerSnapshot
from wgpy.uapi.protocol import format_errno, format_get

SNAPSHOT = DeviceSnapshot(
    private_key=OTHER,
    listen_port=51820,
    fwmark=51821,
    peers=(
        PeerSnapshot(
            public_key=KEY,
            preshared_key=ZERO_KEY,
            endpoint=Endpoint(b"\xfe\x80" + bytes(13) + b"\x01", 7, scope_id=2),
            last_handshake_ns=1_700_000_000_000_000_009,
            tx_bytes=2**64 - 1,
            rx_bytes=3,
            persistent_keepalive_s=25,
            allowed_ips=(AllowedIP(bytes([10, 0, 0, 0]), 8), AllowedIP(bytes(16), 0)),
        ),
        PeerSnapshot(
            public_key=OTHER,
            preshared_key=KEY,
            endpoint=None,
            last_handshake_ns=0,
            tx_bytes=0,
            rx_bytes=0,
            persistent_keepalive_s=0,
            allowed_ips=(),
        ),
    ),
)


def get(snapshot: DeviceSnapshot) -> str:
    return b"".join(format_get(snapshot)).decode("ascii")


def test_a_get_reply_has_every_line_in_its_order() -> None:
    assert get(SNAPSHOT) == (
        f"private_key={OTHER_HEX}\n"
        "listen_port=51820\n"
        "fwmark=51821\n"
        f"public_key={KEY_HEX}\n"
        f"preshared_key={'0' * 64}\n"
        "protocol_version=1\n"
        "endpoint=[fe80::1%2]:7\n"
        "last_handshake_time_sec=1700000000\n"
        "last_handshake_time_nsec=9\n"
        "tx_bytes=18446744073709551615\n"
        "rx_bytes=3\n"
        "persistent_keepalive_interval=25\n"
        "allowed_ip=10.0.0.0/8\n"
        "allowed_ip=::/0\n"
        f"public_key={OTHER_HEX}\n"
        f"preshared_key={KEY_HEX}\n"
        "protocol_version=1\n"
        "last_handshake_time_sec=0\n"
        "last_handshake_time_nsec=0\n"
        "tx_bytes=0\n"
        "rx_bytes=0\n"
        "persistent_keepalive_interval=0\n"
    )


def test_a_get_reply_omits_a_missing_private_key_and_fwmark() -> None:
    bare = DeviceSnapshot(private_key=ZERO_KEY, listen_port=0, fwmark=0, peers=())
    assert get(bare) == "listen_port=0\n"


def test_a_big_get_reply_comes_in_small_chunks() -> None:
    many = tuple(AllowedIP(bytes([10, 0, n >> 8, n & 255]), 32) for n in range(50_000))
    chunks = list(
        format_get(replace(SNAPSHOT, peers=(replace(SNAPSHOT.peers[0], allowed_ips=many),)))
    )
    assert max(map(len, chunks)) < 1 << 18
    assert b"".join(chunks).count(b"\n") == 3 + 9 + len(many)


@pytest.mark.parametrize(("code", "line"), [(0, b"errno=0\n\n"), (errno.EINVAL, b"errno=-22\n\n")])
def test_the_end_of_a_reply_has_the_errno_negated(code: int, line: bytes) -> None:
    assert format_errno(code) == line


keys = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
u16 = st.integers(0, 0xFFFF)
u64 = st.integers(0, 2**64 - 1)


@st.composite
def endpoints(draw: st.DrawFn) -> Endpoint:
    address = draw(addresses)
    scope_id = draw(st.integers(0, 0xFFFFFFFF)) if len(address) == 16 else 0
    return Endpoint(address, draw(u16), scope_id)


snapshots = st.builds(
    DeviceSnapshot,
    private_key=keys | st.just(ZERO_KEY),
    listen_port=u16,
    fwmark=st.integers(0, 0xFFFFFFFF),
    peers=st.lists(
        st.builds(
            PeerSnapshot,
            public_key=keys,
            preshared_key=keys,
            endpoint=st.none() | endpoints(),
            last_handshake_ns=st.integers(0, 2**63 - 1),
            tx_bytes=u64,
            rx_bytes=u64,
            persistent_keepalive_s=u16,
            allowed_ips=st.lists(
                addresses.flatmap(
                    lambda address: st.builds(
                        AllowedIP,
                        st.just(address),
                        st.integers(0, 8 * len(address)),
                        st.just(False),
                    )
                ),
                max_size=4,
            ).map(tuple),
        ),
        max_size=4,
    ).map(tuple),
)


def read_endpoint(text: str) -> Endpoint:
    """The way of a resolver, as wg goes."""
    host, port = text.rsplit(":", 1)
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    ((family, _, _, _, address),) = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_DGRAM, flags=numeric
    )
    scope_id = address[3] if len(address) == 4 else 0
    packed = socket.inet_pton(family, str(address[0]).partition("%")[0])
    return Endpoint(packed, int(address[1]), scope_id)


def read_get(text: str) -> DeviceSnapshot:
    """A reader of replies that shares nothing with the code under test."""
    head, *sections = text.split("public_key=")
    device = dict(line.split("=") for line in head.splitlines())
    peers = []
    for section in sections:
        public_key, *lines = section.splitlines()
        pairs = [(name, value) for name, _, value in (line.partition("=") for line in lines)]
        only = dict(pairs)
        prefixes = [ipaddress.ip_interface(v) for name, v in pairs if name == "allowed_ip"]
        assert only["protocol_version"] == "1"
        peers.append(
            PeerSnapshot(
                public_key=bytes.fromhex(public_key),
                preshared_key=bytes.fromhex(only["preshared_key"]),
                endpoint=read_endpoint(only["endpoint"]) if "endpoint" in only else None,
                last_handshake_ns=int(only["last_handshake_time_sec"]) * 10**9
                + int(only["last_handshake_time_nsec"]),
                tx_bytes=int(only["tx_bytes"]),
                rx_bytes=int(only["rx_bytes"]),
                persistent_keepalive_s=int(only["persistent_keepalive_interval"]),
                allowed_ips=tuple(AllowedIP(p.packed, p.network.prefixlen) for p in prefixes),
            )
        )
    return DeviceSnapshot(
        private_key=bytes.fromhex(device.get("private_key", "00" * 32)),
        listen_port=int(device["listen_port"]),
        fwmark=int(device.get("fwmark", "0")),
        peers=tuple(peers),
    )


@given(snapshots)
def test_a_get_reply_tells_the_whole_snapshot(snapshot: DeviceSnapshot) -> None:
    assert read_get(get(snapshot)) == snapshot


@given(st.lists(addresses.map(lambda address: Endpoint(address, 1)), min_size=1))
def test_an_endpoint_from_a_reply_can_be_set_again(endpoints: list[Endpoint]) -> None:
    peers = tuple(replace(SNAPSHOT.peers[1], endpoint=endpoint) for endpoint in endpoints)
    lines = get(replace(SNAPSHOT, peers=peers)).splitlines()
    settable = [line for line in lines if line.startswith(("public_key", "endpoint"))]
    for endpoint, change in zip(endpoints, parse(*settable).peers, strict=True):
        assert change.endpoint is not None
        assert change.endpoint.port == endpoint.port
        mapped = endpoint.address.startswith(bytes(10) + b"\xff\xff")
        assert change.endpoint.address == (endpoint.address[12:] if mapped else endpoint.address)
