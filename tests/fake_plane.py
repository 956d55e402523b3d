# SPDX-License-Identifier: MIT
"""A data plane without C.

FakePlane keeps what the C data plane promises in api.h, simply: one list for each thing.  Transport
messages carry their payload in the clear and a MAC under the session's key, so that a message is
accepted by the right session only.  Payload is handed over by slot; there are no IP packets.
"""

import errno
import hmac
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2s
from itertools import count
from random import Random

from core_numbers import (
    KEEPALIVE_TIMEOUT_S,
    MESSAGE_COOKIE_REPLY,
    MESSAGE_INITIATION,
    MESSAGE_RESPONSE,
    MESSAGE_TRANSPORT,
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME_S,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME_S,
    REKEY_TIMEOUT_S,
)
from fake_inbox import FakeInbox
from fake_peer import NO_TRAFFIC, FakeKeypair, FakePeer
from fakes import WIRE_LEN, Clock, Datagram, FakeSockets, Network, S

from wgpy.config import AllowedIP, Endpoint, PackedAllowedIPs
from wgpy.dataplane._core import lib
from wgpy.dataplane.convert import ShownPeers, endpoint_to_c, ffi
from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import (
    Counted,
    DeviceFacts,
    MessageEvent,
    PeerFacts,
    PeerStats,
    PendingEvent,
    PlaneIO,
    Session,
)
from wgpy.protocol.cookie import _xchacha20poly1305, cookie_key

STAGED_MAX = lib.WG_STAGED_MAX


class FakePlane(Plane):
    """The data plane of a host; everything happens at once, in the caller."""

    def __init__(self, loop: Clock, network: Network, sockets: FakeSockets, seed: int = 0) -> None:
        self.event_fd = -1
        self.on_readable: Callable[[], None] = lambda: None
        self.payloads: list[tuple[int, bytes]] = []  # what came out of the tunnel, with the slot
        self.peers: dict[int, FakePeer] = {}
        self.indexes: dict[int, tuple[int, FakeKeypair | None]] = {}  # -> slot, session
        self.mac1_key: bytes | None = None
        self.cookie_key: bytes | None = None
        self.io: PlaneIO | None = None
        self.mtu = 0
        self.here = Endpoint(sockets.address, 0)  # where we receive, once started
        self.send_error: OSError | None = None
        self._loop = loop
        self._network = network
        self._sockets = sockets
        self._random = Random(seed)
        self._owners: dict[tuple[bytes, int], int] = {}  # prefix -> slot, in order of insertion
        self._inbox = FakeInbox()
        self.readable = False  # the eventfd
        self._polled = False  # whether a look at it is scheduled

    # ---- Plane: device ----

    def close(self) -> None:
        self.stop()

    @property
    def workers(self) -> int:
        return 1

    @property
    def aead(self) -> str:
        return "fake"

    def now_ns(self) -> int:
        return self._loop.now_ns

    def set_mtu(self, mtu: int) -> None:
        self.mtu = mtu

    def tun_queue(self) -> int:
        return 0

    def set_mac1_key(self, key: bytes | None) -> None:
        self.mac1_key = key

    def set_cookie_key(self, key: bytes | None) -> None:
        self.cookie_key = key

    def counters(self) -> dict[str, int]:
        return {}

    def device_facts(self) -> DeviceFacts:
        return DeviceFacts(under_load=False, drops=[], refusals=[])

    def start(self, io: PlaneIO) -> None:
        if self.io is not None:
            raise OSError(errno.EBUSY, "the data threads run already")
        [bound] = self._sockets.live
        self.io = io
        self.here = Endpoint(self._sockets.address, bound.port)
        self._network.attach(self.here, self)

    def stop(self) -> None:
        self.io = None
        self._network.detach(self.here)

    @property
    def running(self) -> bool:
        return self.io is not None

    @property
    def failure(self) -> OSError | None:
        return None

    # ---- Plane: peers ----

    def add_peer(self) -> int:
        slot = next(slot for slot in count() if slot not in self.peers)
        self.peers[slot] = FakePeer(slot, replace(NO_TRAFFIC))
        return slot

    def remove_peer(self, slot: int) -> None:
        self.replace_allowed_ips(slot, ())
        self.drop_keypairs(slot)
        self.indexes = {i: entry for i, entry in self.indexes.items() if entry[0] != slot}
        self._inbox.forget(slot)
        del self.peers[slot]

    def set_endpoint(self, slot: int, endpoint: Endpoint) -> None:
        self._update(slot, endpoint=endpoint)

    def clear_source(self, slot: int) -> None:
        endpoint = self.peers[slot].stats.endpoint
        if endpoint is not None:
            self._update(slot, endpoint=replace(endpoint, source=b"", source_ifindex=0))

    def allow_source(self, slot: int, path: Endpoint, holds: bool) -> None:
        assert slot in self.peers
        assert holds, "routes do not change in here"

    def set_looped(self, slot: int, endpoint: Endpoint, looped: bool) -> None:
        peer = self.peers[slot]
        if endpoint == peer.stats.endpoint:
            peer.looped = endpoint if looped else None

    def set_handshake_gate(self, slot: int, gate_ns: int) -> None:
        self.peers[slot].gate_ns = gate_ns

    def set_wake(self, slot: int, wake_ns: int | None) -> None:
        self.peers[slot].wake_ns = wake_ns

    def rearm_keepalive(self, slot: int, since_ns: int) -> None:
        self._update(slot, rx_unanswered_since_ns=since_ns)

    def stats(self, slot: int) -> PeerStats:
        peer = self.peers[slot]
        sessions = bool(peer.current) | bool(peer.previous) << 1 | bool(peer.next) << 2
        return replace(peer.stats, staged=len(peer.staged), sessions=sessions)

    def show(self, slots: Sequence[int]) -> ShownPeers:
        all_stats = [self.stats(slot) for slot in slots]
        prefixes = [self.allowed_ips(slot) for slot in slots]
        shown = ffi.new("wg_peer_shown[]", len(slots))
        for number, stats in enumerate(all_stats):
            shown[number].tx_bytes, shown[number].rx_bytes = stats.tx_bytes, stats.rx_bytes
            shown[number].allowed_ips = len(prefixes[number])
            if stats.endpoint is not None:
                shown[number].endpoint = endpoint_to_c(stats.endpoint)[0]
        return ShownPeers(shown, PackedAllowedIPs(b"".join(some.packed for some in prefixes)))

    def facts(self, slot: int) -> PeerFacts:
        peer = self.peers[slot]
        keypair = self._sending(peer)
        session_ns = 0 if keypair is None else keypair.session.created_ns
        drops = list(peer.drops.values())
        return PeerFacts(peer.tx_packets, peer.rx_packets, session_ns, peer.is_looped, drops)

    def watch_endpoint(self, slot: int) -> None:
        self.peers[slot].moved = False

    def kick(self, slot: int, *, keepalive: bool) -> None:
        peer = self.peers[slot]
        peer.kicks.append(keepalive)
        if keepalive and not peer.staged:
            peer.staged.append(b"")
        self._send_staged(peer)

    def drop_staged(self, slot: int) -> None:
        self.peers[slot].staged.clear()

    def peer_received(self, slot: int, source: Endpoint, length: int, now_ns: int) -> None:
        self._stamp_received(self.peers[slot], source, length, data=False)

    # ---- Plane: allowed IPs ----

    def change_allowed_ips(self, slot: int, entries: Sequence[AllowedIP]) -> None:
        for address, cidr, remove in entries:
            bits = 8 * len(address)
            number = int.from_bytes(address, "big") >> (bits - cidr) << (bits - cidr)
            prefix = (number.to_bytes(len(address), "big"), cidr)
            if not remove:
                self._owners.pop(prefix, None)
                self._owners[prefix] = slot
            elif self._owners.get(prefix) == slot:
                del self._owners[prefix]

    def replace_allowed_ips(self, slot: int, entries: Sequence[AllowedIP]) -> None:
        self._owners = {prefix: owner for prefix, owner in self._owners.items() if owner != slot}
        self.change_allowed_ips(slot, entries)

    def allowed_ips(self, slot: int) -> PackedAllowedIPs:
        owned = (AllowedIP(*prefix) for prefix, owner in self._owners.items() if owner == slot)
        return PackedAllowedIPs.of(owned)

    def lookup(self, address: bytes) -> int | None:
        bits = 8 * len(address)
        number = int.from_bytes(address, "big")
        for cidr in range(bits, -1, -1):
            masked = number >> (bits - cidr) << (bits - cidr)
            slot = self._owners.get((masked.to_bytes(len(address), "big"), cidr))
            if slot is not None:
                return slot
        return None

    # ---- Plane: sessions ----

    def reserve_index(self, slot: int) -> int:
        index = self._random.getrandbits(32)
        self.indexes[index] = (slot, None)
        return index

    def release_index(self, index: int) -> None:
        _, keypair = self.indexes[index]
        if keypair is not None:
            raise OSError(errno.EBUSY, "the index of a session")
        del self.indexes[index]

    def install_keypair(self, slot: int, session: Session) -> None:
        if self.indexes.get(session.local_index) != (slot, None):
            raise OSError(errno.EINVAL, "no index of a handshake")
        peer, keypair = self.peers[slot], FakeKeypair(session)
        self._rotate_confirmed(peer)
        if session.initiator:
            demoted = peer.next or peer.current
            for old in (peer.previous, peer.current):
                if old is not demoted:
                    self._forget(old)
            peer.previous, peer.current, peer.next = demoted, keypair, None
        else:
            self._forget(peer.previous)
            self._forget(peer.next)
            peer.previous, peer.next = None, keypair
        self.indexes[session.local_index] = (slot, keypair)

    def confirm_keypair(self, slot: int) -> None:
        self._rotate_confirmed(self.peers[slot])

    def expire_keypairs(self, slot: int) -> None:
        for keypair in (self.peers[slot].current, self.peers[slot].next):
            if keypair is not None:
                keypair.can_send = False

    def drop_keypairs(self, slot: int) -> None:
        peer = self.peers[slot]
        for keypair in (peer.current, peer.previous, peer.next):
            self._forget(keypair)
        peer.current = peer.previous = peer.next = None

    # ---- Plane: inboxes ----

    def take_events(self, limit: int = 64) -> list[PendingEvent | MessageEvent]:
        self.readable = False
        events = self._inbox.take(limit)
        if self.waiting:
            self._wake()
        return events

    @property
    def waiting(self) -> bool:
        """Whether there are events that control has not taken."""
        return self._inbox.waiting

    def send_message(self, slot: int, data: bytes, tos: int, now_ns: int) -> None:
        if self.send_error is not None:
            raise self.send_error
        peer = self.peers[slot]
        to = peer.stats.endpoint
        if to is None:
            raise OSError(errno.EDESTADDRREQ, "no endpoint")
        if peer.is_looped:
            raise OSError(errno.ELOOP, "looped")
        self._stamp_sent(peer, len(data), data=False)
        self._transmit(to, data, tos)

    # ---- what the data threads do ----

    def send_payload(self, slot: int, payload: bytes) -> None:
        """Take a packet from the TUN that is the peer's."""
        peer = self.peers[slot]
        if peer.is_looped:
            self._drop(peer, "looped")
            return
        peer.staged.append(payload)
        if len(peer.staged) > STAGED_MAX:
            del peer.staged[0]
            self._drop(peer, "staged")
        self._send_staged(peer)

    def receive(self, datagram: Datagram) -> None:
        """Take a datagram from the network."""
        if self.io is None:
            return
        if datagram.kind == MESSAGE_TRANSPORT:
            self._receive_transport(datagram)
        else:
            self._receive_handshake(datagram)

    def inject(self, event: MessageEvent) -> None:
        """Put a handshake message in the ring, if there is room."""
        if self._inbox.add(event):
            self._wake()

    def _send_staged(self, peer: FakePeer) -> None:
        if self.io is None or not peer.staged or peer.stats.endpoint is None or peer.is_looped:
            return
        keypair = self._sending(peer)
        while peer.staged and keypair is not None and self._can_seal(keypair):
            self._seal(peer, keypair, peer.staged.pop(0))
        if peer.staged or keypair is None or self._should_rekey(keypair):
            self._ask_handshake(peer)

    def _sending(self, peer: FakePeer) -> FakeKeypair | None:
        keypair = peer.next if peer.next is not None and peer.next.confirmed else peer.current
        return keypair if keypair is not None and self._can_seal(keypair) else None

    def _can_seal(self, keypair: FakeKeypair) -> bool:
        fresh = self._age_s(keypair) < REJECT_AFTER_TIME_S
        return keypair.can_send and fresh and keypair.send_counter < REJECT_AFTER_MESSAGES

    def _should_rekey(self, keypair: FakeKeypair) -> bool:
        aged = keypair.session.initiator and self._age_s(keypair) >= REKEY_AFTER_TIME_S
        return aged or keypair.send_counter > REKEY_AFTER_MESSAGES

    def _seal(self, peer: FakePeer, keypair: FakeKeypair, payload: bytes) -> None:
        assert peer.stats.endpoint is not None
        header = b"\x04\0\0\0" + keypair.session.remote_index.to_bytes(4, "little")
        body = header + keypair.send_counter.to_bytes(8, "little") + payload
        keypair.send_counter += 1
        self._stamp_sent(peer, len(payload) + WIRE_LEN, data=bool(payload))
        peer.tx_packets += bool(payload)
        message = body + _mac(keypair.session.send_key, body)
        self._transmit(peer.stats.endpoint, message, tos=0)

    def _receive_transport(self, datagram: Datagram) -> None:
        index = int.from_bytes(datagram.data[4:8], "little")
        slot, keypair = self.indexes.get(index, (0, None))
        if keypair is None or self._age_s(keypair) >= REJECT_AFTER_TIME_S:
            return
        peer = self.peers[slot]
        payload = self._open(keypair, datagram.data)
        if payload is None:
            self._drop(peer, "replayed")  # or forged
            return
        if keypair is peer.next and not keypair.confirmed:
            keypair.confirmed = True
            self._pend(slot, "key_confirmed")
        self._stamp_received(peer, datagram.source, len(datagram.data), data=bool(payload))
        self._rekey_on_receive(peer)
        if payload:
            peer.rx_packets += 1
            self.payloads.append((slot, payload))

    def _open(self, keypair: FakeKeypair, message: bytes) -> bytes | None:
        """The payload of a genuine message that did not come before."""
        body, tag = message[:-16], message[-16:]
        genuine = tag == _mac(keypair.session.receive_key, body)
        counter = int.from_bytes(message[8:16], "little")
        return body[16:] if genuine and keypair.is_new(counter) else None

    def _rekey_on_receive(self, peer: FakePeer) -> None:
        keypair = peer.current
        if keypair is None or not keypair.session.initiator or keypair.asked_last_minute:
            return
        limit_s = REJECT_AFTER_TIME_S - KEEPALIVE_TIMEOUT_S - REKEY_TIMEOUT_S
        if keypair.can_send and self._age_s(keypair) >= limit_s:
            keypair.asked_last_minute = True
            self._ask_handshake(peer)

    def _receive_handshake(self, datagram: Datagram) -> None:
        slot: int | None = None
        if datagram.kind != MESSAGE_INITIATION:
            offset = {MESSAGE_RESPONSE: 8, MESSAGE_COOKIE_REPLY: 4}[datagram.kind]
            index = int.from_bytes(datagram.data[offset : offset + 4], "little")
            slot, keypair = self.indexes.get(index, (None, None))
            if slot is None or (datagram.kind == MESSAGE_RESPONSE and keypair is not None):
                return
        if datagram.kind == MESSAGE_COOKIE_REPLY or self._mac1_valid(datagram.data):
            self.inject(MessageEvent(slot, datagram.data, datagram.source))

    def _mac1_valid(self, message: bytes) -> bool:
        if self.mac1_key is None:
            return False
        mac1 = _mac(self.mac1_key, message[:-32])
        return hmac.compare_digest(mac1, message[-32:-16])

    def _transmit(self, to: Endpoint, data: bytes, tos: int) -> None:
        if self.io is None:
            raise OSError(errno.EBADF, "no sockets")
        self._network.send(Datagram(self.here, to, data, tos))

    def _rotate_confirmed(self, peer: FakePeer) -> None:
        if peer.next is not None and peer.next.confirmed:
            self._forget(peer.previous)
            peer.previous, peer.current, peer.next = peer.current, peer.next, None

    def _forget(self, keypair: FakeKeypair | None) -> None:
        if keypair is not None:
            del self.indexes[keypair.session.local_index]

    def _age_s(self, keypair: FakeKeypair) -> float:
        return (self._loop.now_ns - keypair.session.created_ns) / S

    def _update(self, slot: int, **changes: object) -> None:
        stats = self.peers[slot].stats
        for name, value in changes.items():
            setattr(stats, name, value)

    def _stamp_sent(self, peer: FakePeer, length: int, *, data: bool) -> None:
        now_ns, stats = self._loop.now_ns, peer.stats
        first = data and not stats.tx_unanswered_since_ns
        self._update(
            peer.slot,
            tx_bytes=stats.tx_bytes + length,
            tx_any_ns=now_ns,
            rx_unanswered_since_ns=0,
            tx_data_ns=now_ns if data else stats.tx_data_ns,
            tx_unanswered_since_ns=stats.tx_unanswered_since_ns or (now_ns if data else 0),
        )
        if first:
            self._arm(peer, KEEPALIVE_TIMEOUT_S + REKEY_TIMEOUT_S)

    def _stamp_received(self, peer: FakePeer, source: Endpoint, length: int, *, data: bool) -> None:
        now_ns, stats = self._loop.now_ns, peer.stats
        if source != stats.endpoint and not peer.moved:
            peer.moved = True
            self._pend(peer.slot, "endpoint_moved")
        first = data and not stats.rx_unanswered_since_ns
        self._update(
            peer.slot,
            endpoint=source,
            rx_bytes=stats.rx_bytes + length,
            rx_any_ns=now_ns,
            tx_unanswered_since_ns=0,
            rx_data_ns=now_ns if data else stats.rx_data_ns,
            rx_unanswered_since_ns=stats.rx_unanswered_since_ns or (now_ns if data else 0),
        )
        if first:
            self._arm(peer, KEEPALIVE_TIMEOUT_S)

    def _drop(self, peer: FakePeer, reason: str) -> None:
        counted = peer.drops.setdefault(reason, Counted(reason))
        counted.count += 1
        counted.last_ns = self._loop.now_ns

    def see_loop(self, slot: int) -> None:
        """Take a message of ours to the peer from the TUN, for the peer."""
        self._pend(slot, "loop_seen")

    def _arm(self, peer: FakePeer, timeout_s: int) -> None:
        if peer.wake_ns is None or self._loop.now_ns + timeout_s * S < peer.wake_ns:
            peer.wake_ns = 0
            self._pend(peer.slot, "timer_armed")

    def _ask_handshake(self, peer: FakePeer) -> None:
        if self._loop.now_ns >= peer.gate_ns:
            self._inbox.want(peer.slot, peer.stats.rx_any_ns)
            self._wake()

    def _pend(self, slot: int, bit: str) -> None:
        self._inbox.pend(slot, bit)
        self._wake()

    def _wake(self) -> None:
        self.readable = True
        if not self._polled:
            self._polled = True
            self._loop.call_soon(self._poll)

    def _poll(self) -> None:
        """What the loop does once in a turn."""
        self._polled = False
        if self.readable:
            self.on_readable()
        if self.readable:
            self._wake()


def cookie_reply(to: bytes, public_key: bytes, cookie: bytes, nonce: bytes = bytes(24)) -> bytes:
    """What the owner of public_key answers under load to a message 1 or 2."""
    aead, short_nonce = _xchacha20poly1305(cookie_key(public_key), nonce)
    encrypted = aead.encrypt(short_nonce, cookie, to[-32:-16])
    return b"\x03\0\0\0" + to[4:8] + nonce + encrypted


def _mac(key: bytes, data: bytes) -> bytes:
    return blake2s(data, key=key, digest_size=16).digest()
