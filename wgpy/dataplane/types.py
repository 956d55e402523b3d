# SPDX-License-Identifier: MIT
"""What the data plane is given and gives, as Python has it: no C."""

from dataclasses import dataclass, field
from typing import NamedTuple

from wgpy.config import Endpoint, PackedAllowedIPs
from wgpy.ports import Feature


@dataclass(frozen=True, slots=True)
class WorkerIO:
    """Descriptors of one worker, -1 for a missing one."""

    tun_fd: int
    udp4_fd: int
    udp6_fd: int


@dataclass(frozen=True, slots=True)
class PlaneIO:
    """What is lent to the data threads; features are Feature bits."""

    workers: tuple[WorkerIO, ...]
    features: Feature


@dataclass(frozen=True, slots=True)
class Session:
    """One session to install; keys are raw, receive direction first as the peer's sending key."""

    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    local_index: int
    remote_index: int
    created_ns: int
    initiator: bool


@dataclass(slots=True)  # not frozen: that makes each take five times as long to make
class PeerStats:
    """Traffic counters (bytes) and stamps (ns, 0 = never) of a peer; see wg_peer_stats in api.h."""

    tx_bytes: int
    rx_bytes: int
    tx_any_ns: int
    rx_any_ns: int
    tx_data_ns: int
    rx_data_ns: int
    tx_unanswered_since_ns: int
    rx_unanswered_since_ns: int
    tx_congested: int
    staged: int
    sessions: int
    endpoint: Endpoint | None


@dataclass(slots=True)
class Counted:
    """How often something happened, when last (ns), and what it was about then."""

    reason: str
    count: int = 0
    last_ns: int = 0
    about: Endpoint | None = None  # port 0: the address alone
    errno: int = 0  # 0: no system call failed
    public_key: bytes = b""  # of a stranger; empty: none


@dataclass(slots=True)
class PeerFacts:
    """Inner packets; when the session that sends was made, 0 for none; what was dropped."""

    tx_packets: int
    rx_packets: int
    session_ns: int
    looped: bool
    drops: list[Counted]


class PeerShown(NamedTuple):
    """What `wg show` shows of a peer, but for what only control knows."""

    tx_bytes: int
    rx_bytes: int
    endpoint: Endpoint | None
    allowed_ips: PackedAllowedIPs  # in order of insertion


@dataclass(slots=True)
class DeviceFacts:
    """What no peer can be named for, and whether handshake messages have to show mac2 (5.3)."""

    under_load: bool
    drops: list[Counted]
    refusals: list[Counted]


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """Bits of enum wg_pending for the peer in slot."""

    slot: int
    want_handshake: bool
    key_confirmed: bool
    timer_armed: bool
    loop_seen: bool = False
    endpoint_moved: bool = False


@dataclass(frozen=True, slots=True)
class MessageEvent:
    """A handshake message that C found right so far.

    Size and type; mac1, and mac2 under load, but for a cookie reply; index, but for an initiation,
    which has no slot.
    """

    slot: int | None
    data: bytes
    source: Endpoint
