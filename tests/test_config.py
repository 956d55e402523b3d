# SPDX-License-Identifier: MIT
"""A change that asks for what cannot be is never made."""

import errno
from collections.abc import Callable

import pytest

from wgpy.config import AllowedIP, DeviceChange, Endpoint, PeerChange
from wgpy.errors import ConfigError

KEY = bytes(32)
BAD_CHANGES: dict[str, Callable[[], object]] = {
    "short private key": lambda: DeviceChange(private_key=bytes(31)),
    "port": lambda: DeviceChange(listen_port=65536),
    "fwmark": lambda: DeviceChange(fwmark=-1),
    "large fwmark": lambda: DeviceChange(fwmark=1 << 32),
    "short public key": lambda: PeerChange(b"short"),
    "preshared key": lambda: PeerChange(KEY, preshared_key=bytes(33)),
    "keepalive": lambda: PeerChange(KEY, persistent_keepalive_s=65536),
    "endpoint": lambda: PeerChange(KEY, endpoint=Endpoint(b"abc", 1)),
    "port of an endpoint": lambda: PeerChange(KEY, endpoint=Endpoint(bytes(4), 65536)),
    "prefix": lambda: PeerChange(KEY, allowed_ips=(AllowedIP(bytes(4), 33),)),
    "prefix of IPv6": lambda: PeerChange(KEY, allowed_ips=(AllowedIP(bytes(16), 129),)),
    "address": lambda: PeerChange(KEY, allowed_ips=(AllowedIP(bytes(5), 3),)),
}


@pytest.mark.parametrize("make", BAD_CHANGES.values(), ids=BAD_CHANGES)
def test_what_cannot_be_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError) as refusal:
        make()
    assert refusal.value.errno == errno.EINVAL


def test_the_largest_of_everything_is_taken() -> None:
    peer = PeerChange(
        KEY,
        preshared_key=KEY,
        endpoint=Endpoint(bytes(16), 65535),
        persistent_keepalive_s=65535,
        allowed_ips=(AllowedIP(bytes(4), 32), AllowedIP(bytes(16), 128), AllowedIP(bytes(4), 0)),
    )
    assert DeviceChange(KEY, listen_port=65535, fwmark=(1 << 32) - 1, peers=(peer,)).peers == (
        peer,
    )
