# SPDX-License-Identifier: MIT
"""The device: who we are, who the peers are, and what happens to them.

One way in for each thing: `configure` for requests, `snapshot` for questions of configuration,
`status_head` and `peer_statuses` for all others, `up` and `down` for the link, `on_events` for what
C has to tell.  All run on the control thread and none of them waits.

C has refused what is cheap to refuse of handshake messages (5.3).  Those that wait stay there until
their turn, so that it sees when there are too many.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from wgpy.changes import Spread, chunks, in_pieces, refuse_too_many_peers
from wgpy.config import ZERO_KEY, DeviceChange, DeviceSnapshot, Endpoint, PeerChange
from wgpy.dataplane.plane import MAX_PEERS, Plane
from wgpy.dataplane.types import MessageEvent, PendingEvent, PlaneIO, WorkerIO
from wgpy.errors import BadMessage, ConfigError, Refusal
from wgpy.events import EndpointMoved, Event, PeerAdded, PeerRemoved
from wgpy.facts import PeerSnapshots, peer_status
from wgpy.moves import Moves
from wgpy.notes import Notes
from wgpy.peer import Peer, PeerServices, random_below
from wgpy.ports import Feature, Handle, OpenSockets, Scheduler, Sockets
from wgpy.protocol.handshake import Handshake
from wgpy.status import DeviceStatus, PeerStatus
from wgpy.tallies import Refusals, tallies
from wgpy.units import NS_PER_S

if TYPE_CHECKING:
    from wgpy.protocol.noise import HandshakeSecrets, RemoteStatic, StaticKey

# Implementation constants.
EVENTS_PER_TURN: Final = 64  # handled before others on the control thread have their turn
PEERS_PER_TURN: Final = 256  # likewise, where something is looked up of all; a millisecond
STATUSES_PER_TURN: Final = 64  # likewise, where much is; a millisecond
PORT_RETRY_NS: Final = NS_PER_S  # from one try to listen to the next, where the first failed

_log = logging.getLogger(__name__)


class Device:
    """A WireGuard interface.  The plane and the descriptors of the TUN are borrowed."""

    def __init__(
        self,
        plane: Plane,
        open_sockets: OpenSockets,
        scheduler: Scheduler,
        tun_fds: Sequence[int],
        tun_features: Feature,
        *,
        wall_clock: Callable[[], int] = time.time_ns,
        randbelow: Callable[[int], int] = random_below,
        key_log: Callable[[HandshakeSecrets], None] | None = None,
    ) -> None:
        """Start without identity and peers, and down.

        There is a queue of the TUN for each worker of the plane, and `open_sockets` gives as many
        pairs.  `wall_clock` gives Unix nanoseconds, `randbelow(n)` a random integer from 0 to
        n - 1; `key_log` gets the secrets of all handshakes.
        """
        self._plane = plane
        self._open_sockets = open_sockets
        self._tun_fds = tun_fds
        self._tun_features = tun_features
        self._notes = Notes()
        self._services = PeerServices(
            plane, scheduler, wall_clock, randbelow, self._tell, self._notes, key_log
        )
        self._moves = Moves(plane, scheduler, self._tell_of_move)

        self._private_key = ZERO_KEY
        self._identity: StaticKey | None = None
        self._listen_port = 0
        self._fwmark = 0
        self._peers: dict[bytes, Peer] = {}  # by public key, in order of creation
        self._peers_by_slot: dict[int, Peer] = {}
        self._forgotten_ns = 0  # when the last initiation went to a peer that was removed since
        # By slot: peers whose messages came back into the tunnel; whether that is sure to go on.
        self._loops: dict[int, bool] = {}
        self.on_suspicion: Callable[[], None] = lambda: None  # when loops() are to be judged

        self._up = False
        self._bound: Sockets | None = None  # None while down, or while there is no port
        self._retry: Handle | None = None  # of the next try to listen, while up without a port
        self._refusal = ""  # why there is none
        self._starting = Spread(scheduler, plane.now_ns)  # of the peers, when the link goes up

        self._refusals = Refusals()  # of messages that named no peer of ours
        self.on_event: Callable[[Event], None] = lambda event: None  # as it happens

    # ---- link ----

    def up(self) -> None:
        """Open the sockets and begin to carry traffic.  Nothing happens if it is up already.

        If the port is in use, an error is logged and it is tried again until it is free.
        """
        if self._up:
            return
        self._up = True
        self._refusal = ""
        self._try_to_listen()

    def _try_to_listen(self) -> None:
        try:
            bound = self._open_sockets(self._listen_port, self._fwmark)
        except OSError as error:
            self._retry_later(error.strerror or str(error))
        else:
            self._listen_on(bound)

    def _retry_later(self, refusal: str) -> None:
        if refusal != self._refusal:  # else the log would have it once a second
            text = "cannot listen on UDP port %d: %s; tries again until it can"
            _log.error(text, self._listen_port, refusal)
        self._refusal = refusal
        when_ns = self._plane.now_ns() + PORT_RETRY_NS
        self._retry = self._services.scheduler.call_at(when_ns, self._try_to_listen)

    def _stop_retries(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def down(self) -> None:
        """Stop all traffic, close the sockets, forget every session and handshake."""
        self._up = False
        self._stop_retries()
        self._starting.stop()
        if self._bound is None:
            return
        self._plane.stop()
        self._bound.close()
        self._bound = None
        for peer in self._peers.values():
            peer.stop()
        while self._plane.take_events(EVENTS_PER_TURN):
            pass  # what waits was for the sessions and handshakes that are gone

    def close(self) -> None:
        """Go down, and forget the peers and who we are."""
        self.down()
        self._moves.close()
        for peer in list(self._peers.values()):
            self._remove_peer(peer)
        self._become(ZERO_KEY)

    def _listen_on(self, bound: Sockets) -> None:
        """Carry traffic over these sockets, instead of over those before, if any."""
        self._stop_retries()
        if self._bound is not None:
            self._plane.stop()
            self._bound.close()
        self._bound = bound
        self._listen_port = bound.port
        pairs = zip(self._tun_fds, bound.fds, strict=True)
        workers = tuple(WorkerIO(tun_fd, *udp_fds) for tun_fd, udp_fds in pairs)
        self._plane.start(PlaneIO(workers, self._tun_features | bound.features))
        _log.info("listens on UDP port %d: %s", bound.port, bound.features)
        self._starting.begin(map(self._start_peers, self._pieces(PEERS_PER_TURN)))

    def _start_peers(self, peers: Iterable[Peer]) -> None:
        """Start those that are not running, if the link is up: it may be that just now."""
        if self._bound is None:
            return
        now_ns = self._plane.now_ns()
        for peer in peers:
            if not peer.running:
                peer.start(now_ns)

    # ---- routes ----

    @property
    def listen_port(self) -> int:
        """The UDP port, 0 while there was none."""
        return self._listen_port

    @property
    def fwmark(self) -> int:
        """The mark of what is sent, 0 for none."""
        return self._fwmark

    def paths(self) -> Iterator[list[tuple[int, Endpoint]]]:
        """Give the slot and endpoint of every peer whose endpoint has a sticky source.

        In pieces, of PEERS_PER_TURN peers each: whoever goes through them leaves others their turn.
        """
        for piece in self._pieces(PEERS_PER_TURN):
            stats = ((peer.slot, self._plane.stats(peer.slot)) for peer in piece)
            yield [(slot, s.endpoint) for slot, s in stats if s.endpoint and s.endpoint.source]

    def allow_source(self, slot: int, path: Endpoint, holds: bool) -> None:
        """Send from the source of a path again, or no more, if it is still the peer's."""
        if slot in self._peers_by_slot:
            self._plane.allow_source(slot, path, holds)

    def loops(self) -> list[tuple[int, Endpoint]]:
        """Return the slot and endpoint of every peer that may be reached through itself only.

        That is when one of our messages to it came out of the TUN, to go to it.
        """
        stats = ((slot, self._plane.stats(slot)) for slot in self._loops)
        return [(slot, s.endpoint) for slot, s in stats if s.endpoint]

    def set_leads_in(self, slot: int, endpoint: Endpoint, leads_in: bool) -> None:
        """Send nothing to a peer, or something again, if the endpoint is still the peer's.

        Nothing if the route to it leads into the tunnel, unless it is another peer who carries on.
        """
        if slot not in self._loops or self._plane.stats(slot).endpoint != endpoint:
            return
        peer = self._peers_by_slot[slot]
        before = self._loops.pop(slot)
        looped = leads_in and self._plane.lookup(endpoint.address) == slot
        self._plane.set_looped(slot, endpoint, looped)
        if looped:
            self._loops[slot] = True
            if not before:  # else a peer that moves from loop to loop would fill the log
                address = ip_address(endpoint.address)
                _log.error("%s: the route to %s leads into the tunnel itself", peer, address)
        elif before:
            _log.info("%s: the route leads out of the tunnel again", peer)
            peer.start_anew()

    # ---- snapshot ----

    def handshake(self, public_key: bytes) -> Handshake | None:
        """Tell where the handshake with a peer stands, None if there is no such peer."""
        peer = self._peers.get(public_key)
        return None if peer is None else peer.handshake

    def snapshot(self) -> DeviceSnapshot:
        """Return the state of the device and of all peers."""
        return DeviceSnapshot(
            private_key=self._private_key,
            listen_port=self._listen_port,
            fwmark=self._fwmark,
            peers=PeerSnapshots(self._peers.values(), self._plane),
        )

    # ---- status ----

    def status_head(self, interface: str) -> DeviceStatus:
        """Return what is to be shown of the device, without its peers, under this name."""
        now_ns, facts = self._plane.now_ns(), self._plane.device_facts()
        features, (receive_buffer, send_buffer) = self._tun_features, (None, None)
        if self._bound is not None:
            features |= self._bound.features
            receive_buffer, send_buffer = self._bound.buffers
        return DeviceStatus(
            interface=interface,
            public_key=None if self._identity is None else self._identity.public_key,
            listen_port=self._listen_port,
            fwmark=self._fwmark,
            up=self._up,
            listening=self._bound is not None,
            aead=self._plane.aead,
            workers=self._plane.workers,
            features=features.names,
            receive_buffer=receive_buffer,
            send_buffer=send_buffer,
            under_load=facts.under_load,
            counters=self._plane.counters(),
            drops=tallies(facts.drops, now_ns),
            refusals=tallies([*facts.refusals, *self._refusals.counted()], now_ns),
        )

    def peer_statuses(self) -> Iterator[list[PeerStatus]]:
        """Give what is to be shown of each peer, in order of creation.

        In pieces, of STATUSES_PER_TURN each: whoever goes through them leaves others their turn.
        """
        for piece in self._pieces(STATUSES_PER_TURN):
            now_ns = self._plane.now_ns()
            yield [peer_status(peer, self._plane, now_ns) for peer in piece]

    def _pieces(self, size: int) -> Iterator[list[Peer]]:
        """Give the peers that there are, in pieces, without those that go in between."""
        for piece in chunks(list(self._peers.values()), size):
            yield [peer for peer in piece if self._peers.get(peer.public_key) is peer]

    # ---- configure ----

    def configure(self, change: DeviceChange) -> None:
        """Apply a request as a whole.

        ConfigError when it cannot be applied, and then nothing of it is.
        """
        for _ in self.changing(change):
            pass

    def changing(self, change: DeviceChange) -> Iterator[None]:
        """Apply a request as configure() does, but in pieces, between which others have their turn.

        Everything that can fail comes before anything changes, in the first piece.  All pieces must
        be asked for.  Meanwhile others may change the same peers.
        """
        import wgpy.exchange  # noqa: F401  with cryptography: who is nobody yet does without

        refuse_too_many_peers(change, self._peers.keys(), MAX_PEERS)
        bound = self._prepare_sockets(change)

        self._apply_sockets(change, bound, self._plane.now_ns())
        if change.replace_peers:
            yield from self._remove_peers()
        if change.private_key is not None:
            self._become(change.private_key)
        for piece in in_pieces(change.peers, self._peers.__contains__):
            self._apply_peers(piece)
            yield
        if self._loops:
            self.on_suspicion()

    def _remove_peers(self) -> Iterator[None]:
        for piece in self._pieces(PEERS_PER_TURN):
            for peer in piece:
                self._remove_peer(peer)
            yield

    def _apply_peers(self, sections: Sequence[PeerChange]) -> None:
        now_ns = self._plane.now_ns()
        for section in sections:
            self._apply_peer(section, now_ns)
        touched = (self._peers.get(section.public_key) for section in sections)
        self._start_peers(filter(None, touched))  # those that are new

    def _prepare_sockets(self, change: DeviceChange) -> Sockets | None:
        """Do what can fail of a new port or mark; -> new sockets, if the port changes while up.

        While down, the port and the mark are tried and let go: at up() nobody waits for an answer.
        """
        fwmark = self._fwmark if change.fwmark is None else change.fwmark
        try:
            if not self._up and (change.listen_port or fwmark != self._fwmark):
                self._open_sockets(change.listen_port or 0, fwmark).close()
            elif self._needs_new_sockets(change):
                assert change.listen_port is not None, "else no new sockets are needed"
                return self._open_sockets(change.listen_port, fwmark)
            if self._bound is not None and fwmark != self._fwmark:
                self._bound.set_fwmark(fwmark)
        except OSError as error:
            code = error.errno or errno.EIO
            raise ConfigError(code, f"cannot set up the UDP sockets: {error.strerror}") from error
        return None

    def _needs_new_sockets(self, change: DeviceChange) -> bool:
        if change.listen_port is None or not self._up:
            return False
        return self._bound is None or change.listen_port != self._listen_port

    def _apply_sockets(self, change: DeviceChange, bound: Sockets | None, now_ns: int) -> None:
        before = (self._listen_port, self._fwmark)
        if change.fwmark is not None:
            self._fwmark = change.fwmark
        if bound is not None:
            self._listen_on(bound)
        elif change.listen_port is not None:
            self._listen_port = change.listen_port
        if (self._listen_port, self._fwmark) != before:
            for peer in self._peers.values():
                self._plane.clear_source(peer.slot)
                if bound is not None:
                    peer.port_changed(now_ns)

    def _become(self, private_key: bytes) -> None:
        """Take another identity; the same is no change."""
        if private_key == self._private_key:
            return
        from wgpy.protocol.cookie import cookie_key, mac1_key
        from wgpy.protocol.noise import StaticKey

        self._private_key = private_key
        self._identity = None if private_key == ZERO_KEY else StaticKey(private_key)
        public_key = None
        if self._identity is not None:
            public_key = self._identity.public_key
            if public_key in self._peers:
                self._remove_peer(self._peers[public_key])
        self._plane.set_mac1_key(None if public_key is None else mac1_key(public_key))
        self._plane.set_cookie_key(None if public_key is None else cookie_key(public_key))
        for peer in self._peers.values():
            peer.set_identity(self._identity)

    def _apply_peer(self, section: PeerChange, now_ns: int) -> None:
        peer = self._peers.get(section.public_key)
        if section.remove:
            if peer is not None:
                self._remove_peer(peer)
            return
        if peer is None:
            if section.update_only or self._is_ourselves(section.public_key):
                return
            peer = self._add_peer(section.public_key)
        peer.configure(section, now_ns)

    def _is_ourselves(self, public_key: bytes) -> bool:
        return self._identity is not None and self._identity.public_key == public_key

    def _add_peer(self, public_key: bytes) -> Peer:
        peer = Peer(public_key, self._identity, self._services, self._forgotten_ns)
        self._peers[public_key] = peer
        self._peers_by_slot[peer.slot] = peer
        self._tell(PeerAdded(public_key))
        return peer

    def _remove_peer(self, peer: Peer) -> None:
        del self._peers[peer.public_key]
        del self._peers_by_slot[peer.slot]
        self._loops.pop(peer.slot, None)
        self._forgotten_ns = max(self._forgotten_ns, peer.initiated_ns)
        self._moves.forget(peer.slot)
        peer.close()
        self._tell(PeerRemoved(peer.public_key))

    def _tell(self, event: Event) -> None:
        self.on_event(event)

    def _tell_of_move(self, slot: int, endpoint: Endpoint) -> None:
        peer = self._peers_by_slot[slot]
        self._notes.moved(peer, endpoint, self._plane.now_ns())
        self._tell(EndpointMoved(peer.public_key, endpoint))

    # ---- events ----

    def on_events(self) -> None:
        """Handle what C has to tell, up to EVENTS_PER_TURN.

        Call it as long as the plane's event_fd is readable, once in each turn of the loop.
        """
        now_ns = self._plane.now_ns()
        for event in self._plane.take_events(EVENTS_PER_TURN):
            if isinstance(event, PendingEvent):
                self._handle_pending(event, now_ns)
            else:
                self._handle_message(event, now_ns)

    def _handle_pending(self, event: PendingEvent, now_ns: int) -> None:
        peer = self._peers_by_slot.get(event.slot)
        if peer is None:
            return
        self._start_peers((peer,))
        if event.key_confirmed:
            peer.confirm_key(now_ns)
        if event.want_handshake:
            peer.want_handshake(now_ns)
        if event.timer_armed:
            peer.run_timers(now_ns)
        if event.loop_seen:
            self._loops.setdefault(event.slot, False)
            self.on_suspicion()
        if event.endpoint_moved:
            self._moves.moved(event.slot, now_ns)

    # ---- handshake messages ----

    def _handle_message(self, event: MessageEvent, now_ns: int) -> None:
        try:
            self._handle_message_untrusted(event, now_ns)
        except BadMessage as error:
            self._count_refused(event, error, now_ns)
            self._notes.refused(error, event.source, now_ns)

    def _count_refused(self, event: MessageEvent, error: BadMessage, now_ns: int) -> None:
        """Count it as the peer's that it was for, or is known to be from; else as nobody's."""
        peer = None if event.slot is None else self._peers_by_slot.get(event.slot)
        peer = peer or self._peers.get(error.public_key)
        if peer is None:
            self._refusals.add(error.refusal, event.source, now_ns, error.public_key)
        else:
            peer.refusals.add(error.refusal, event.source, now_ns)

    def _handle_message_untrusted(self, event: MessageEvent, now_ns: int) -> None:
        if self._identity is None:
            raise BadMessage("no private key is set", Refusal.NO_PRIVATE_KEY)
        from wgpy.protocol.messages import MessageType
        from wgpy.protocol.noise import read_initiation_untrusted

        kind = event.data[0]
        if kind == MessageType.COOKIE_REPLY:
            self._addressee(event).take_cookie(event.data, now_ns)
        elif kind == MessageType.INITIATION:
            initiation = read_initiation_untrusted(self._identity, event.data, self._find_remote)
            peer = self._peers[initiation.public_key]
            self._start_peers((peer,))
            peer.answer(initiation, event.source, len(event.data), now_ns)
        else:
            self._addressee(event).finish(event.data, event.source, now_ns)

    def _addressee(self, event: MessageEvent) -> Peer:
        peer = None if event.slot is None else self._peers_by_slot.get(event.slot)
        if peer is None:
            raise BadMessage("message for a peer that is gone", Refusal.NO_INITIATION)
        return peer

    def _find_remote(self, public_key: bytes) -> RemoteStatic | None:
        peer = self._peers.get(public_key)
        return None if peer is None else peer.remote_static()
