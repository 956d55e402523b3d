"""What can be seen of an interface and its peers: plain frozen data, and its form as JSON.

No private or preshared key has a place in it.  Times are ages in seconds before the status was
taken, so that whoever reads it needs neither our clock nor an earlier status; None is never.
What others can tell of themselves (`wg show NAME dump`) fits in as well: None is also unknown.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from wgpy.addresses import format_endpoint, format_prefix
from wgpy.config import AllowedIP, Endpoint
from wgpy.protocol.handshake import Handshake

VERSION: Final = 1  # of the JSON: another when something is gone or means something else


@dataclass(frozen=True, slots=True)
class Tally:
    """How often something happened, when last, and what it was about then."""

    reason: str  # a stable code, such as "not-allowed"
    count: int
    age_s: float | None = None
    address: str = ""  # an address, with a port if it is an endpoint; empty: none
    public_key: bytes = b""  # of a stranger; empty: none
    errno: int = 0  # of a system call that failed; 0: none did


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One peer.  Packets are inner ones, bytes those of all valid messages (as `wg show` counts).

    drops are packets, refusals handshake messages that named this peer.
    """

    public_key: bytes
    endpoint: Endpoint | None = None
    allowed_ips: tuple[AllowedIP, ...] = ()
    persistent_keepalive_s: int = 0
    handshake: Handshake | None = None
    attempts: int | None = None  # initiations since a handshake was complete, or anew wanted
    attempts_age_s: float | None = None  # of the first of them
    last_handshake_age_s: float | None = None
    session_age_s: float | None = None  # of the one that sends
    last_received_age_s: float | None = None  # any authenticated message
    last_sent_age_s: float | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int | None = None
    tx_packets: int | None = None
    staged: int = 0  # packets that wait for a session
    looped: bool = False  # the route to its endpoint leads into the tunnel
    drops: tuple[Tally, ...] = ()
    refusals: tuple[Tally, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """An interface.  drops and refusals are those that no peer can be named for."""

    interface: str
    public_key: bytes | None = None
    listen_port: int = 0
    fwmark: int = 0
    up: bool | None = None
    listening: bool | None = None  # up, and the port is ours
    mtu: int | None = None
    aead: str | None = None
    workers: int | None = None
    features: tuple[str, ...] = ()  # names of wgpy.ports.Feature
    receive_buffer: int | None = None  # bytes, of each socket
    send_buffer: int | None = None
    rmem_max: int | None = None  # bytes, net.core.rmem_max
    under_load: bool | None = None  # handshake messages need a cookie
    counters: Mapping[str, int] = field(default_factory=dict)  # wg_counters of api.h
    drops: tuple[Tally, ...] = ()
    refusals: tuple[Tally, ...] = ()
    peers: tuple[PeerStatus, ...] = ()


# ---- as JSON -------------------------------------------------------------------------------------


def to_json(status: DeviceStatus) -> dict[str, Any]:
    """Return what json.dumps takes: names as above, keys in base64, addresses as text."""
    return {
        "version": VERSION,
        "interface": status.interface,
        "public_key": _key(status.public_key),
        "listen_port": status.listen_port,
        "fwmark": status.fwmark,
        "up": status.up,
        "listening": status.listening,
        "mtu": status.mtu,
        "aead": status.aead,
        "workers": status.workers,
        "features": list(status.features),
        "receive_buffer": status.receive_buffer,
        "send_buffer": status.send_buffer,
        "rmem_max": status.rmem_max,
        "under_load": status.under_load,
        "counters": dict(status.counters),
        "drops": _tallies(status.drops),
        "refusals": _tallies(status.refusals),
        "peers": [_peer(peer) for peer in status.peers],
    }


def _peer(peer: PeerStatus) -> dict[str, Any]:
    return {
        "public_key": _key(peer.public_key),
        "endpoint": None if peer.endpoint is None else format_endpoint(peer.endpoint),
        "allowed_ips": [format_prefix(prefix) for prefix in peer.allowed_ips],
        "persistent_keepalive_s": peer.persistent_keepalive_s,
        "handshake": None if peer.handshake is None else peer.handshake.value,
        "attempts": peer.attempts,
        "attempts_age_s": _age(peer.attempts_age_s),
        "last_handshake_age_s": _age(peer.last_handshake_age_s),
        "session_age_s": _age(peer.session_age_s),
        "last_received_age_s": _age(peer.last_received_age_s),
        "last_sent_age_s": _age(peer.last_sent_age_s),
        "rx_bytes": peer.rx_bytes,
        "tx_bytes": peer.tx_bytes,
        "rx_packets": peer.rx_packets,
        "tx_packets": peer.tx_packets,
        "staged": peer.staged,
        "looped": peer.looped,
        "drops": _tallies(peer.drops),
        "refusals": _tallies(peer.refusals),
    }


def _tallies(tallies: Iterable[Tally]) -> list[dict[str, Any]]:
    """Leave out of each what it does not have."""
    return [
        {
            "reason": tally.reason,
            "count": tally.count,
            "age_s": _age(tally.age_s),
            **({"address": tally.address} if tally.address else {}),
            **({"public_key": _key(tally.public_key)} if tally.public_key else {}),
            **({"errno": tally.errno} if tally.errno else {}),
        }
        for tally in tallies
    ]


def _age(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _key(key: bytes | None) -> str | None:
    return None if key is None else b64encode(key).decode()
