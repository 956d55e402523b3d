# SPDX-License-Identifier: MIT
"""What the data plane is given and gives, between Python and C; for plane.py.

The only module that imports the C core: others have ffi and lib from here.
"""

import errno
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any, Final

from wgpy.config import KEY_LEN, AllowedIP, Endpoint, PackedAllowedIPs
from wgpy.dataplane.types import (
    Counted,
    DeviceFacts,
    MessageEvent,
    PeerFacts,
    PeerShown,
    PeerStats,
    PendingEvent,
    Session,
)

try:
    from wgpy.dataplane._core import ffi as ffi
    from wgpy.dataplane._core import lib as lib
except ModuleNotFoundError as error:
    raise ImportError(
        f"{Path(__file__).parents[2]} is a checkout of wgpy in which nothing is built for this "
        f"Python ({sys.version.split()[0]}): either `pip install -e` it, or let Python look "
        "elsewhere for the wgpy that is installed (another working directory, or `python -P`)"
    ) from error

_ADDRESS_FAMILY: Final = {4: AF_INET, 16: AF_INET6}
_ADDRESS_LEN: Final = {AF_INET: 4, AF_INET6: 16}
_ALLOWED_IPS: Final = ffi.typeof("wg_allowedip[]")
IP_VERSION: Final = {4: 4, 16: 6}  # address length -> wg_allowedip.family
# wg_peer_shown, of its wg_endpoint up to source_ifindex.
_SHOWN: Final = struct.Struct("=QQHHI16s16sI4xI4x")
_TALLY: Final = struct.Struct("=QQ16sIHHi4x")  # wg_tally: count, last_ns, wg_about


def checked(result: int) -> int:
    """Pass a C result on; raise OSError for -errno."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def endpoint_to_c(endpoint: Endpoint) -> Any:
    """Make a new wg_endpoint.  ValueError: an address that is neither 4 nor 16 bytes."""
    size = len(endpoint.address)
    if size not in _ADDRESS_FAMILY or len(endpoint.source) not in (0, size):
        raise ValueError("an endpoint's address and source have 4 or 16 bytes")
    out = ffi.new("wg_endpoint *")
    out.family = _ADDRESS_FAMILY[size]
    out.port = endpoint.port
    out.scope_id = endpoint.scope_id
    ffi.memmove(out.addr, endpoint.address, size)
    ffi.memmove(out.source, endpoint.source, len(endpoint.source))
    out.source_ifindex = endpoint.source_ifindex
    return out


def endpoint_from_c(c: Any) -> Endpoint | None:
    """Read a wg_endpoint, None if it is none."""
    if not c.family:
        return None
    size = _ADDRESS_LEN[c.family]
    source = bytes(ffi.buffer(c.source, size))
    return Endpoint(
        address=bytes(ffi.buffer(c.addr, size)),
        port=c.port,
        scope_id=c.scope_id,
        source=source if any(source) else b"",
        source_ifindex=c.source_ifindex,
    )


def event_from_c(c: Any) -> PendingEvent | MessageEvent:
    """Read a wg_event."""
    if c.kind == lib.WG_EVENT_PENDING:
        return PendingEvent(
            slot=c.slot,
            want_handshake=bool(c.pending & lib.WG_WANT_HANDSHAKE),
            key_confirmed=bool(c.pending & lib.WG_KEY_CONFIRMED),
            timer_armed=bool(c.pending & lib.WG_TIMER_ARMED),
            loop_seen=bool(c.pending & lib.WG_LOOP_SEEN),
            endpoint_moved=bool(c.pending & lib.WG_ENDPOINT_MOVED),
        )
    source = endpoint_from_c(c.source)
    assert source is not None, "every datagram has a source"
    return MessageEvent(
        slot=None if c.slot == lib.WG_NO_SLOT else c.slot,
        data=bytes(ffi.buffer(c.data, c.length)),
        source=source,
    )


def allowed_ips_to_c(entries: Iterable[AllowedIP]) -> Any:
    """Make an array of wg_allowedip.  OSError with EINVAL: one that cannot be."""
    if not isinstance(entries, PackedAllowedIPs):
        try:
            entries = PackedAllowedIPs.of(entries)
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error)) from None
    return ffi.from_buffer(_ALLOWED_IPS, entries.packed)


def allowed_ips_from_c(entries: Any, count: int) -> PackedAllowedIPs:
    """Read the first `count` of an array of wg_allowedip."""
    return PackedAllowedIPs(bytes(ffi.buffer(entries, count * PackedAllowedIPs.ENTRY.size)))


def key_to_c(key: bytes) -> bytes:
    """Pass the key on.  ValueError: it has another length than a key."""
    if len(key) != KEY_LEN:
        raise ValueError(f"a key has {KEY_LEN} bytes")
    return key


def stats_from_c(c: Any) -> PeerStats:
    """Read a wg_peer_stats."""
    return PeerStats(
        tx_bytes=c.tx_bytes,
        rx_bytes=c.rx_bytes,
        tx_any_ns=c.tx_any_ns,
        rx_any_ns=c.rx_any_ns,
        tx_data_ns=c.tx_data_ns,
        rx_data_ns=c.rx_data_ns,
        tx_unanswered_since_ns=c.tx_unanswered_since_ns,
        rx_unanswered_since_ns=c.rx_unanswered_since_ns,
        tx_congested=c.tx_congested,
        staged=c.staged,
        sessions=c.sessions,
        endpoint=endpoint_from_c(c.endpoint),
    )


class ShownPeers:
    """Peers as they were at one moment, in the form of C, which is made into objects one by one."""

    __slots__ = ("_allowed_ips", "_shown")

    def __init__(self, shown: Any, allowed_ips: PackedAllowedIPs) -> None:
        """Copy an array of wg_peer_shown; allowed_ips are theirs, peer after peer."""
        self._shown = bytes(ffi.buffer(shown))
        self._allowed_ips = allowed_ips.packed

    def __len__(self) -> int:
        """Count them."""
        return len(self._shown) // _SHOWN.size

    def __iter__(self) -> Iterator[PeerShown]:
        """Give them in order."""
        at, size = 0, PackedAllowedIPs.ENTRY.size
        for tx_bytes, rx_bytes, family, *endpoint, count in _SHOWN.iter_unpack(self._shown):
            end = at + size * count
            allowed_ips = PackedAllowedIPs(self._allowed_ips[at:end])
            yield PeerShown(tx_bytes, rx_bytes, _endpoint_of(family, *endpoint), allowed_ips)
            at = end


def _endpoint_of(
    family: int, port: int, scope_id: int, address: bytes, source: bytes, source_ifindex: int
) -> Endpoint | None:
    if not family:
        return None
    size = 4 if family == AF_INET else 16
    source = source[:size] if any(source) else b""
    return Endpoint(address[:size], port, scope_id, source, source_ifindex)


def _reasons(enum: str, prefix: str) -> tuple[str, ...]:
    """Return what Python calls the numbers of a C enum, but for the last, which is how many.

    WG_PEER_DROP_BAD_TAG without its prefix is bad-tag.
    """
    numbers: dict[str, int] = ffi.typeof(f"enum {enum}").relements
    names = sorted(numbers, key=numbers.__getitem__)[:-1]
    return tuple(name.removeprefix(prefix).lower().replace("_", "-") for name in names)


PEER_DROPS: Final = _reasons("wg_peer_drop", "WG_PEER_DROP_")
DEVICE_DROPS: Final = _reasons("wg_device_drop", "WG_DEVICE_DROP_")
REFUSALS: Final = _reasons("wg_refusal", "WG_REFUSAL_")


def peer_facts_from_c(c: Any) -> PeerFacts:
    """Read a wg_peer_facts."""
    return PeerFacts(
        tx_packets=c.tx_packets,
        rx_packets=c.rx_packets,
        session_ns=c.session_ns,
        looped=bool(c.looped),
        drops=_tallies_from_c(c.drops, PEER_DROPS),
    )


def device_facts_from_c(c: Any) -> DeviceFacts:
    """Read a wg_device_facts."""
    return DeviceFacts(
        under_load=bool(c.under_load),
        drops=_tallies_from_c(c.drops, DEVICE_DROPS),
        refusals=_tallies_from_c(c.refusals, REFUSALS),
    )


def _tallies_from_c(tallies: Any, reasons: Iterable[str]) -> list[Counted]:
    """Read what is not 0 of an array of wg_tally."""
    fields = _TALLY.iter_unpack(ffi.buffer(tallies))
    return [
        Counted(reason, count, last_ns, _about(family, address, port, scope_id), error)
        for reason, (count, last_ns, address, scope_id, family, port, error) in zip(
            reasons, fields, strict=True
        )
        if count
    ]


def _about(family: int, address: bytes, port: int, scope_id: int) -> Endpoint | None:
    if not family:
        return None
    return Endpoint(address[:4] if family == AF_INET else address, port, scope_id)


@contextmanager
def session_to_c(session: Session) -> Iterator[Any]:
    """Make a wg_session, wiped when the context is left.  ValueError: a key of another length."""
    c = ffi.new("wg_session *")
    try:
        ffi.memmove(c.send_key, key_to_c(session.send_key), KEY_LEN)
        ffi.memmove(c.receive_key, key_to_c(session.receive_key), KEY_LEN)
        c.local_index = session.local_index
        c.remote_index = session.remote_index
        c.created_ns = session.created_ns
        c.initiator = session.initiator
        yield c
    finally:
        ffi.buffer(c)[:] = bytes(ffi.sizeof("wg_session"))
