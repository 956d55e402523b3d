"""What can be asked of a device, and what it answers: plain frozen data, no behaviour.

Keys are 32 raw bytes and never show in a repr.  In a change, None means "leave as it is".
"""

from dataclasses import dataclass, field
from typing import NamedTuple

KEY_LEN = 32
ZERO_KEY = bytes(KEY_LEN)


class AllowedIP(NamedTuple):
    """One prefix: address in network order (4 or 16 bytes), prefix length in bits.

    `remove` takes it away, if and only if the peer owns exactly this prefix.
    """

    address: bytes
    cidr: int
    remove: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An outside address: 4 or 16 bytes in network order, UDP port, IPv6 zone as an ifindex.

    `source` and `source_ifindex` are the local address and interface on which it reached us, empty
    and 0 when unknown (sticky source); they are not part of its identity.
    """

    address: bytes
    port: int
    scope_id: int = 0
    source: bytes = field(default=b"", compare=False)
    source_ifindex: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class PeerChange:
    """One peer section of a set request."""

    public_key: bytes
    remove: bool = False
    update_only: bool = False
    preshared_key: bytes | None = field(default=None, repr=False)
    endpoint: Endpoint | None = None
    persistent_keepalive_s: int | None = None
    replace_allowed_ips: bool = False
    allowed_ips: tuple[AllowedIP, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """A whole set request; peers in the order of the request (a key may occur more than once)."""

    private_key: bytes | None = field(default=None, repr=False)
    listen_port: int | None = None
    fwmark: int | None = None
    replace_peers: bool = False
    peers: tuple[PeerChange, ...] = ()


@dataclass(slots=True)  # not frozen: that makes each take five times as long to make
class PeerSnapshot:
    """One peer as `wg show` sees it; last handshake is wall-clock nanoseconds, 0 for never."""

    public_key: bytes
    preshared_key: bytes = field(repr=False)
    endpoint: Endpoint | None
    last_handshake_ns: int
    tx_bytes: int
    rx_bytes: int
    persistent_keepalive_s: int
    allowed_ips: tuple[AllowedIP, ...]


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """A device as `wg show` sees it: private_key zero for none, peers in order of creation."""

    private_key: bytes = field(repr=False)
    listen_port: int
    fwmark: int
    peers: tuple[PeerSnapshot, ...]
