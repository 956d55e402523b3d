# SPDX-License-Identifier: MIT
"""What is to be shown of a peer, out of what Python and the data plane know of it."""

from collections.abc import Collection, Iterator, Sequence
from typing import overload

from wgpy.config import PeerSnapshot
from wgpy.dataplane.plane import Plane
from wgpy.peer import Peer
from wgpy.status import PeerStatus
from wgpy.tallies import age_s, tallies


def peer_status(peer: Peer, plane: Plane, now_ns: int) -> PeerStatus:
    """Return it as of now, by the plane's clock."""
    stats, facts = plane.stats(peer.slot), plane.facts(peer.slot)
    return PeerStatus(
        public_key=peer.public_key,
        endpoint=stats.endpoint,
        allowed_ips=tuple(plane.allowed_ips(peer.slot)),
        persistent_keepalive_s=peer.persistent_keepalive_s,
        handshake=peer.handshake,
        attempts=peer.attempts,
        attempts_age_s=age_s(peer.attempts_since_ns, now_ns),
        responses=peer.responses,
        responses_age_s=age_s(peer.responses_since_ns, now_ns),
        last_handshake_age_s=age_s(peer.established_ns, now_ns),
        session_age_s=age_s(facts.session_ns, now_ns),
        last_received_age_s=age_s(stats.rx_any_ns, now_ns),
        last_sent_age_s=age_s(stats.tx_any_ns, now_ns),
        rx_bytes=stats.rx_bytes,
        tx_bytes=stats.tx_bytes,
        rx_packets=facts.rx_packets,
        tx_packets=facts.tx_packets,
        staged=stats.staged,
        looped=facts.looped,
        drops=tallies(facts.drops, now_ns),
        refusals=tallies(peer.refusals.counted(), now_ns),
    )


class PeerSnapshots(Sequence[PeerSnapshot]):
    """Peers as they were at one moment.

    Each is put together when it is asked for: with very many of them that takes long, and others
    may have their turn.
    """

    def __init__(self, peers: Collection[Peer], plane: Plane) -> None:
        """Take note of all that may change."""
        self._settings = [peer.settings() for peer in peers]
        self._shown = plane.show([peer.slot for peer in peers])

    def __len__(self) -> int:
        """Count them."""
        return len(self._settings)

    def __iter__(self) -> Iterator[PeerSnapshot]:
        """Give them in order."""
        for settings, shown in zip(self._settings, self._shown, strict=True):
            public_key, preshared_key, last_handshake_ns, keepalive_s = settings
            yield PeerSnapshot(
                public_key=public_key,
                preshared_key=preshared_key,
                endpoint=shown.endpoint,
                last_handshake_ns=last_handshake_ns,
                tx_bytes=shown.tx_bytes,
                rx_bytes=shown.rx_bytes,
                persistent_keepalive_s=keepalive_s,
                allowed_ips=shown.allowed_ips,
            )

    @overload
    def __getitem__(self, index: int) -> PeerSnapshot: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[PeerSnapshot]: ...

    def __getitem__(self, index: int | slice) -> PeerSnapshot | Sequence[PeerSnapshot]:
        """Return one or some of them, for which all are made.  Raises IndexError."""
        return list(self)[index]

    def __eq__(self, other: object) -> bool:
        """Tell whether all are the same, in whatever sequence."""
        return isinstance(other, Sequence) and list(self) == list(other)
