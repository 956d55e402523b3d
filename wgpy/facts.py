"""What is to be shown of a peer, out of what Python and the data plane know of it."""

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
