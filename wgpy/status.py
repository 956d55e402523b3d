# SPDX-License-Identifier: MIT
"""What can be seen of an interface and its peers: plain frozen data, its form as JSON, and back.

No private or preshared key has a place in it.  Times are ages in seconds before the status was
taken, so that whoever reads it needs neither our clock nor an earlier status; None is never.
What others can tell of themselves (`wg show NAME dump`) fits in as well: None is also unknown.
"""

import enum
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from wgpy.addresses import format_endpoint, format_prefix, parse_endpoint, parse_prefix
from wgpy.config import AllowedIP, Endpoint
from wgpy.errors import StatusError
from wgpy.keys import format_key, parse_key
from wgpy.protocol.handshake import Handshake
from wgpy.text import printable

VERSION: Final = 1  # of the JSON: another when something is gone or means something else
DIRECTORY: Final = Path("/run/wgpy")  # of the sockets that give it, a line of JSON each time
SUFFIX: Final = ".status"  # of their names, after the interface's
DOCUMENT_MAX: Final = 64 << 20  # bytes of a line; 10,000 peers take about 7 MiB
TEXT_MAX: Final = 1024  # characters of a name, an address, a sentence
INTERVAL_S: Final = 1.0  # at which a status is told, or looked at, again
SHARE: Final = 10  # of control's time, at most one in so many goes into that

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Tally:
    """How often something happened, when last, and what it was about then."""

    reason: str  # a stable code, such as "not-allowed"
    count: int
    age_s: float | None = None
    address: str = ""  # an address, with a port if it is an endpoint; empty: none
    public_key: bytes = b""  # of a stranger; empty: none
    errno: int = 0  # of a system call that failed; 0: none did


class Severity(str, enum.Enum):
    """How bad something is."""

    __str__ = str.__str__

    ERROR = "error"  # a tunnel does not work
    WARNING = "warning"  # something is lost or refused, and that may be right so
    NOTE = "note"  # it works, and could do better


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that is wrong.  The text is for people and may change; "the peer" is `peer`."""

    code: str  # a stable name, such as "no-answer"
    severity: Severity
    text: str
    peer: bytes | None = None  # its public key; None: it is about the whole interface


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
    responses: int | None = None  # in a row to handshakes of the peer, which it did not confirm
    responses_age_s: float | None = None  # of the first of them
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
    diagnoses: tuple[Diagnosis, ...] | None = None  # the worst first; None: nobody has looked
    peers: tuple[PeerStatus, ...] = ()


# ---- as JSON ----


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
        "diagnoses": _diagnoses(status.diagnoses),
        "peers": [*map(peer_to_json, status.peers)],
    }


def _diagnoses(diagnoses: Iterable[Diagnosis] | None) -> list[dict[str, Any]] | None:
    return None if diagnoses is None else [*map(diagnosis_to_json, diagnoses)]


def diagnosis_to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return a member of "diagnoses"."""
    return {
        "code": diagnosis.code,
        "severity": diagnosis.severity,
        "peer": _key(diagnosis.peer),
        "text": diagnosis.text,
    }


def peer_to_json(peer: PeerStatus) -> dict[str, Any]:
    """Return a member of "peers"."""
    return {
        "public_key": _key(peer.public_key),
        "endpoint": None if peer.endpoint is None else format_endpoint(peer.endpoint),
        "allowed_ips": [format_prefix(prefix) for prefix in peer.allowed_ips],
        "persistent_keepalive_s": peer.persistent_keepalive_s,
        "handshake": None if peer.handshake is None else peer.handshake.value,
        "attempts": peer.attempts,
        "attempts_age_s": _age(peer.attempts_age_s),
        "responses": peer.responses,
        "responses_age_s": _age(peer.responses_age_s),
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
    return None if key is None else format_key(key)


# ---- and back ----


def from_json_untrusted(text: bytes) -> DeviceStatus:
    """Return the status whose JSON this is, of at most DOCUMENT_MAX bytes.

    What is missing has its default and what is unknown is passed over, for the daemon may be older
    or newer.  Characters that a terminal might take for commands are spelt out.  Raises
    StatusError.
    """
    if len(text) > DOCUMENT_MAX:
        raise StatusError(f"a status of {len(text)} bytes")
    try:
        members = _object(json.loads(text, parse_constant=_refuse))
        if members.get("version") != VERSION:
            raise StatusError("a status of another version of wgpy")
        return _read(DeviceStatus, members)
    except (ValueError, TypeError, OSError, RecursionError):
        raise StatusError("not the JSON of a status") from None


def _refuse(_: object) -> Any:
    raise ValueError  # NaN and the infinities too


def _read(kind: type[_T], value: object) -> _T:
    """Make a dataclass of a JSON object, each field in the way of its type."""
    readers = _FIELDS[kind]
    members = _object(value).items()
    return kind(**{name: readers[name](member) for name, member in members if name in readers})


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError
    return value


def _each(read: Callable[[object], _T]) -> Callable[[object], tuple[_T, ...]]:
    def read_list(value: object) -> tuple[_T, ...]:
        if not isinstance(value, list):
            raise ValueError
        return tuple(map(read, value))

    return read_list


def _or_none(read: Callable[[object], _T]) -> Callable[[object], _T | None]:
    return lambda value: None if value is None else read(value)


def _read_text(value: object) -> str:
    if not isinstance(value, str) or len(value) > TEXT_MAX:
        raise ValueError
    return printable(value)


def _read_number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:  # True is an int as well
        raise ValueError
    return value


def _read_age(value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError
    return float(value)  # type: ignore[arg-type]


def _read_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _read_key(value: object) -> bytes:
    return parse_key(_read_text(value))


_READERS: Final[Mapping[object, Callable[[object], object]]] = {
    str: _read_text,
    str | None: _or_none(_read_text),
    tuple[str, ...]: _each(_read_text),
    int: _read_number,
    int | None: _or_none(_read_number),
    Mapping[str, int]: lambda value: {
        _read_text(name): _read_number(number) for name, number in _object(value).items()
    },
    float | None: _or_none(_read_age),
    bool: _read_flag,
    bool | None: _or_none(_read_flag),
    bytes: _read_key,
    bytes | None: _or_none(_read_key),
    Endpoint | None: _or_none(lambda value: parse_endpoint(_read_text(value))),
    tuple[AllowedIP, ...]: _each(lambda value: parse_prefix(_read_text(value))),
    Handshake | None: _or_none(Handshake),
    Severity: Severity,
    tuple[Diagnosis, ...] | None: _or_none(_each(lambda value: _read(Diagnosis, value))),
    tuple[Tally, ...]: _each(lambda value: _read(Tally, value)),
    tuple[PeerStatus, ...]: _each(lambda value: _read(PeerStatus, value)),
}
_FIELDS: Final[Mapping[object, Mapping[str, Callable[[object], object]]]] = {
    kind: {field.name: _READERS[field.type] for field in fields(kind)}
    for kind in (DeviceStatus, Diagnosis, PeerStatus, Tally)
}
