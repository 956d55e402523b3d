# SPDX-License-Identifier: MIT
"""What `wg show NAME dump` tells of any WireGuard interface, as a status.

Its columns are described in wg(8); those of the private and the preshared keys are passed over.
"""

from dataclasses import dataclass
from typing import Final

from wgpy.addresses import parse_endpoint, parse_prefix
from wgpy.config import Endpoint
from wgpy.errors import StatusError
from wgpy.keys import parse_key
from wgpy.status import DeviceStatus, PeerStatus

_NONE: Final = "(none)"
_OFF: Final = "off"


@dataclass(frozen=True, slots=True)
class _Columns:
    """Of a peer, as text."""

    public_key: str
    endpoint: str
    allowed_ips: str
    latest_handshake: str
    received: str
    sent: str
    keepalive: str


def parse_dump_untrusted(interface: str, text: str, now_s: float) -> DeviceStatus:
    """Return the status that a dump tells at now_s (Unix time).  Raises StatusError."""
    try:
        head, *lines = text.splitlines()
        _private_key, public_key, listen_port, fwmark = head.split("\t")
        return DeviceStatus(
            interface,
            public_key=None if public_key == _NONE else parse_key(public_key),
            listen_port=int(listen_port),
            fwmark=0 if fwmark == _OFF else int(fwmark, 0),
            peers=tuple(_peer(line, now_s) for line in lines),
        )
    except (ValueError, TypeError, OSError):
        raise StatusError(f"not what `wg show {interface} dump` says") from None


def _peer(line: str, now_s: float) -> PeerStatus:
    public_key, _preshared_key, *others = line.split("\t")
    columns = _Columns(public_key, *others)
    handshake_s = int(columns.latest_handshake)
    prefixes = [] if columns.allowed_ips == _NONE else columns.allowed_ips.split(",")
    return PeerStatus(
        parse_key(columns.public_key),
        endpoint=_endpoint(columns.endpoint),
        allowed_ips=tuple(map(parse_prefix, prefixes)),
        persistent_keepalive_s=0 if columns.keepalive == _OFF else int(columns.keepalive),
        last_handshake_age_s=max(0.0, now_s - handshake_s) if handshake_s else None,
        rx_bytes=int(columns.received),
        tx_bytes=int(columns.sent),
    )


def _endpoint(text: str) -> Endpoint | None:
    if text == _NONE:
        return None
    try:
        return parse_endpoint(text)
    except (ValueError, OSError):
        address, percent, zone_and_port = text.partition("%")
        if not percent:
            raise
        _zone, end, port = zone_and_port.partition("]")  # of an interface that has gone
        return parse_endpoint(address + end + port)
