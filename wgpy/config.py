# SPDX-License-Identifier: MIT
"""What can be asked of a device, and what it answers: plain frozen data, no behaviour.

Keys are 32 raw bytes and never show in a repr.  In a change, None means "leave as it is"; there is
none that asks for what cannot be: making it raises ConfigError.
"""

import errno
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from struct import Struct
from typing import Final, NamedTuple, overload

from wgpy.errors import ConfigError

KEY_LEN = 32
ZERO_KEY = bytes(KEY_LEN)


class AllowedIP(NamedTuple):
    """One prefix: address in network order (4 or 16 bytes), prefix length in bits.

    `remove` takes it away, if and only if the peer owns exactly this prefix.
    """

    address: bytes
    cidr: int
    remove: bool = False


class PackedAllowedIPs(Sequence[AllowedIP]):
    """Valid prefixes, very many in little memory: a wg_allowedip of C each (`packed`)."""

    __slots__ = ("packed",)

    ENTRY: Final = Struct("16sBBBx")  # address, 4 or 6 for its kind, prefix length, remove

    def __init__(self, packed: bytes) -> None:
        """Take entries that are valid."""
        self.packed = packed

    @classmethod
    def of(cls, prefixes: Iterable[AllowedIP]) -> "PackedAllowedIPs":
        """Pack prefixes.  ValueError: one that cannot be."""
        pack, versions = cls.ENTRY.pack, _VERSIONS
        try:
            entries = [pack(ip, versions[len(ip)], cidr, remove) for ip, cidr, remove in prefixes]
        except (KeyError, struct.error):
            raise ValueError("not an address of 4 or 16 bytes with a prefix") from None
        return cls(b"".join(entries))

    def __len__(self) -> int:
        """Count them."""
        return len(self.packed) // self.ENTRY.size

    @overload
    def __getitem__(self, index: int) -> AllowedIP: ...

    @overload
    def __getitem__(self, index: slice) -> "PackedAllowedIPs": ...

    def __getitem__(self, index: int | slice) -> "AllowedIP | PackedAllowedIPs":
        """Return one of them, or some without a gap.  Raises IndexError."""
        if isinstance(index, int):
            at = self.ENTRY.size * range(len(self))[index]  # which raises
            return _unpacked(*self.ENTRY.unpack_from(self.packed, at))
        start, stop, step = index.indices(len(self))
        require(step == 1, "no prefixes with gaps")
        return PackedAllowedIPs(self.packed[self.ENTRY.size * start : self.ENTRY.size * stop])

    def __iter__(self) -> Iterator[AllowedIP]:
        """Give them in order."""
        return starmap(_unpacked, self.ENTRY.iter_unpack(self.packed))

    def __eq__(self, other: object) -> bool:
        """Tell whether the prefixes are the same, in whatever form they are."""
        if isinstance(other, PackedAllowedIPs):
            return self.packed == other.packed
        return isinstance(other, (tuple, list)) and list(self) == list(other)

    def __hash__(self) -> int:
        """As the tuple of them."""
        return hash(tuple(self))

    def __repr__(self) -> str:
        """As the list of them."""
        return repr(list(self))


_VERSIONS: Final = {4: 4, 16: 6}  # by the length of an address


def _unpacked(address: bytes, version: int, cidr: int, remove: int) -> AllowedIP:
    # AllowedIP() takes twice as long.
    address = address if version == 6 else address[:4]
    return tuple.__new__(AllowedIP, (address, cidr, bool(remove)))


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
    allowed_ips: Sequence[AllowedIP] = ()

    def __post_init__(self) -> None:
        """Raise ConfigError for what no peer can have."""
        _require_key(self.public_key)
        _require_key(self.preshared_key)
        _require_bits(self.persistent_keepalive_s, 16, "a keepalive interval is 0 to 65535")
        require(self.endpoint is None or _is_endpoint(self.endpoint), "no endpoint")
        require(_are_prefixes(self.allowed_ips), "no IP prefix")


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """A whole set request; peers in the order of the request (a key may occur more than once)."""

    private_key: bytes | None = field(default=None, repr=False)
    listen_port: int | None = None
    fwmark: int | None = None
    replace_peers: bool = False
    peers: tuple[PeerChange, ...] = ()

    def __post_init__(self) -> None:
        """Raise ConfigError for what no device can have."""
        _require_key(self.private_key)
        _require_bits(self.listen_port, 16, "a port is 0 to 65535")
        _require_bits(self.fwmark, 32, "a mark has 32 bits")


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
    allowed_ips: Sequence[AllowedIP]


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """A device as `wg show` sees it: private_key zero for none, peers in order of creation."""

    private_key: bytes = field(repr=False)
    listen_port: int
    fwmark: int
    peers: Sequence[PeerSnapshot]


def require(condition: bool, reason: str) -> None:
    """Raise ConfigError for what cannot be."""
    if not condition:
        raise ConfigError(errno.EINVAL, reason)


def _require_key(key: bytes | None) -> None:
    require(key is None or len(key) == KEY_LEN, "a key is 32 bytes")


def _require_bits(value: int | None, bits: int, reason: str) -> None:
    require(value is None or 0 <= value < 1 << bits, reason)


def _is_endpoint(endpoint: Endpoint) -> bool:
    return len(endpoint.address) in (4, 16) and 0 <= endpoint.port < 1 << 16


def _are_prefixes(prefixes: Iterable[AllowedIP]) -> bool:
    return isinstance(prefixes, PackedAllowedIPs) or all(
        0 <= cidr <= 32 if len(address) == 4 else len(address) == 16 and 0 <= cidr <= 128
        for address, cidr, _ in prefixes
    )
