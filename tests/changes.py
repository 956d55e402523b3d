# SPDX-License-Identifier: MIT
"""The fields of changes by name, for helpers that make a change of keyword arguments."""

from typing import TypedDict

from wgpy.config import AllowedIP, Endpoint


class DeviceFields(TypedDict, total=False):
    """Of a DeviceChange, but its peers."""

    private_key: bytes
    listen_port: int
    fwmark: int
    replace_peers: bool


class PeerFields(TypedDict, total=False):
    """Of a PeerChange, but its public key."""

    remove: bool
    update_only: bool
    preshared_key: bytes
    endpoint: Endpoint
    persistent_keepalive_s: int
    replace_allowed_ips: bool
    allowed_ips: tuple[AllowedIP, ...]
