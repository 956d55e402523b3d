# SPDX-License-Identifier: MIT
"""One peer: its keys, its handshake and its timers.  Packets, sessions and counters are in C.

A handshake message of ours opens the way at most once per REKEY_TIMEOUT: `gate`, which C knows too,
so that traffic without a session asks only when there is something to be done.  When the link goes
down the gate opens, for what comes up has no session and starts at once.  But the peer does not
forget: it refuses an initiation right after another, and we would wait for an answer until the
gate opens again.  So an initiation waits for as long as that (OWN_INITIATION_INTERVAL_NS).

Unlike the kernel, our own initiation stays open while we answer the peer's: when both sides start
at once, both sessions come to be, and nobody waits for a retry.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wgpy.config import Endpoint, PeerChange
from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import Session
from wgpy.errors import BadMessage
from wgpy.events import Event, HandshakeDone
from wgpy.keys import format_key
from wgpy.log import NOTICE
from wgpy.notes import Notes
from wgpy.ports import Handle, Scheduler
from wgpy.protocol.handshake import Handshake
from wgpy.protocol.timers import INITIATION_INTERVAL_NS, REKEY_TIMEOUT_NS, Action, Timers
from wgpy.tallies import Refusals
from wgpy.units import NS_PER_S

if TYPE_CHECKING:
    from wgpy.protocol.noise import (
        HandshakeSecrets,
        Initiation,
        RemoteStatic,
        StaticKey,
        TransportKeys,
    )

# Implementation constants, as the Linux kernel has them.
HANDSHAKE_TOS: Final = 0x88  # AF41: handshakes should get through when data does not
# Twice as long, for the way takes not always the same time.  It is longer than timestamps are
# coarse as well (tai64n), so whatever the wall clock does, each is greater than the one before.
OWN_INITIATION_INTERVAL_NS: Final = 2 * INITIATION_INTERVAL_NS

_log = logging.getLogger(__name__)


def random_below(limit: int) -> int:
    """Return a random integer from 0 to limit - 1."""
    from secrets import randbelow  # with hmac and OpenSSL, not before there are peers

    return randbelow(limit)


@dataclass(frozen=True, slots=True)
class PeerServices:
    """What all peers of a device share."""

    plane: Plane
    scheduler: Scheduler
    wall_clock: Callable[[], int]  # Unix time in nanoseconds
    randbelow: Callable[[int], int]  # n -> a random integer from 0 to n - 1
    tell: Callable[[Event], None]  # whoever wants to know what happens
    notes: Notes
    key_log: Callable[[HandshakeSecrets], None] | None  # None: nobody is to know


class Peer:
    """A peer in a slot of the data plane.  `now_ns` is the plane's clock everywhere."""

    __slots__ = (
        "_cookies",
        "_deadline_ns",
        "_exchange",
        "_gate_ns",
        "_gave_up",
        "_handle",
        "_plane",
        "_running",
        "_services",
        "_timers",
        "attempts",
        "attempts_since_ns",
        "established_ns",
        "handshake",
        "initiated_ns",
        "last_handshake_ns",
        "public_key",
        "refusals",
        "responses",
        "responses_since_ns",
        "slot",
    )

    public_key: bytes
    slot: int
    handshake: Handshake
    attempts: int  # initiations in a row that no session came of, so far or at last
    attempts_since_ns: int  # when the first of them went out; 0: there are none
    responses: int  # responses in a row that were not confirmed, so far
    responses_since_ns: int  # when the first of them went out; 0: there are none
    last_handshake_ns: int  # wall clock; 0: never
    established_ns: int  # the same by the plane's clock, which nobody sets
    refusals: Refusals  # of messages that named this peer
    initiated_ns: int  # when our last initiation went out, 0: never; whatever else is forgotten

    def __init__(
        self,
        public_key: bytes,
        local: StaticKey | None,
        services: PeerServices,
        initiated_ns: int = 0,
    ) -> None:
        """Take a slot in the data plane; `local` is our identity, if there is one.

        `initiated_ns` tells when an initiation may have gone to this peer, before it was removed.
        """
        from wgpy.exchange import KeyExchange
        from wgpy.protocol.cookie import CookieGenerator

        self.initiated_ns = initiated_ns
        self.public_key = public_key
        self.handshake = Handshake.IDLE
        self.attempts = self.attempts_since_ns = 0
        self.responses = self.responses_since_ns = 0
        self.last_handshake_ns = self.established_ns = 0
        self.refusals = Refusals()
        self._services = services
        self._plane = services.plane
        self._exchange = KeyExchange(public_key, local, services.wall_clock, services.key_log)
        self._cookies = CookieGenerator(public_key)
        self._gate_ns = 0
        self._gave_up = False  # since the last session; said once, or silent peers would fill logs
        self._timers = Timers(services.randbelow)
        self._deadline_ns: int | None = None
        self._handle: Handle | None = None
        self._running = False
        self.slot = self._plane.add_peer()

    def __str__(self) -> str:
        """Return enough of the public key to tell peers apart in a log."""
        text = format_key(self.public_key)
        return f"{text[:4]}…{text[-5:-1]}"

    # ---- configuration ----

    def remote_static(self) -> RemoteStatic:
        """Return the peer's identity with our shared secret, which is computed at its first use.

        BadMessage when the public key is of low order, or while we have no identity.
        """
        return self._exchange.remote_static()

    @property
    def persistent_keepalive_s(self) -> int:
        """The interval in seconds, 0 for none."""
        return self._timers.persistent_keepalive_s

    def set_identity(self, local: StaticKey | None) -> None:
        """Become somebody else: sessions end, and a handshake may start at once."""
        self._exchange.set_identity(local)
        self._plane.expire_keypairs(self.slot)
        self._forget_handshake()
        self._enter(Handshake.IDLE)
        self._set_gate(0)

    def configure(self, section: PeerChange, now_ns: int) -> None:
        """Apply what was found valid; then what waits may be able to go."""
        if section.preshared_key is not None:
            self._exchange.preshared_key = section.preshared_key
        if section.endpoint is not None:
            self._plane.set_endpoint(self.slot, section.endpoint)
        if section.replace_allowed_ips:
            self._plane.replace_allowed_ips(self.slot, section.allowed_ips)
        elif section.allowed_ips:
            self._plane.change_allowed_ips(self.slot, section.allowed_ips)
        if section.persistent_keepalive_s is not None:
            self._set_persistent_keepalive(section.persistent_keepalive_s, now_ns)
        self._send_staged()

    def _set_persistent_keepalive(self, seconds: int, now_ns: int) -> None:
        """Set the interval; switching it on (0 is off) sends a first keepalive at once."""
        switched_on = seconds and not self._timers.persistent_keepalive_s
        self._timers.persistent_keepalive_s = seconds
        if not self._running:
            return
        if switched_on:
            self._send_persistent_keepalive(now_ns)
        self._arm()

    def settings(self) -> tuple[bytes, bytes, int, int]:
        """Return what `wg show` tells of the peer that the plane does not know.

        Public key, preshared key, last handshake (wall clock, ns), persistent keepalive (s).
        """
        preshared_key, keepalive_s = self._exchange.preshared_key, self.persistent_keepalive_s
        return self.public_key, preshared_key, self.last_handshake_ns, keepalive_s

    # ---- life ----

    @property
    def running(self) -> bool:
        """Whether the link is up: between start and stop."""
        return self._running

    def start(self, now_ns: int) -> None:
        """Begin to take part in traffic, with a keepalive if it is to be persistent."""
        self._running = True
        if self._timers.persistent_keepalive_s:
            self._send_persistent_keepalive(now_ns)
            self._arm()  # for all others, the first handshake does it

    def port_changed(self, now_ns: int) -> None:
        """Start anew what is in progress: it would be answered to the port that we had before."""
        if now_ns < self._gate_ns:
            self.start_anew()

    def start_anew(self) -> None:
        """Start at once, for what was sent last will not be answered."""
        self._set_gate(0)
        self._send_staged()

    def _send_staged(self) -> None:
        """Try again to send what waits, for the configuration may have made it possible."""
        if self._running:
            self._plane.kick(self.slot, keepalive=False)

    def stop(self) -> None:
        """Forget sessions, handshake, staged packets and timers: the link goes down."""
        self._running = False
        self._plane.drop_staged(self.slot)
        self._forget_session()
        self._set_gate(0)
        self._timers.stop(self._plane.stats(self.slot))
        self._schedule(None)

    def close(self) -> None:
        """Give the slot back; C wipes the sessions."""
        self._running = False
        self._schedule(None)
        self._exchange.forget_initiation()
        self._plane.remove_peer(self.slot)

    # ---- handshake ----

    def want_handshake(self, now_ns: int) -> None:
        """Start a handshake, for there is traffic and no session, or an ageing one."""
        if not self._running:
            return
        self._timers.handshake_wanted()
        self._initiate(now_ns)
        self._arm()

    def answer(self, initiation: Initiation, source: Endpoint, length: int, now_ns: int) -> None:
        """Respond to an authenticated initiation (5.4.3); the session waits to be confirmed.

        BadMessage when the initiation is a replay, or came too soon after another.
        """
        self._exchange.refuse_replay(initiation.timestamp, now_ns)
        self._plane.peer_received(self.slot, source, length, now_ns)
        index = self._plane.reserve_index(self.slot)
        message, keys = self._exchange.write_response(initiation, index)
        self._begin_session(keys, now_ns)
        self._set_gate(now_ns + REKEY_TIMEOUT_NS)
        self._send_handshake(message, now_ns)
        self.responses_since_ns = self.responses_since_ns or now_ns
        self.responses += 1
        self._enter(Handshake.RESPONDED)
        self._arm()

    def finish(self, message: bytes, source: Endpoint, now_ns: int) -> None:
        """Read the response to our initiation; the session is there, and what is staged goes out.

        BadMessage when it is not genuine, or we wait for none.
        """
        keys = self._exchange.read_response_untrusted(message)
        self._plane.peer_received(self.slot, source, len(message), now_ns)
        self._begin_session(keys, now_ns)
        self._complete_handshake(now_ns)
        self._plane.kick(self.slot, keepalive=True)  # confirms the session to the peer
        self._arm()

    def confirm_key(self, now_ns: int) -> None:
        """Use the session of our response, for the peer does (6.3)."""
        if not self._running:
            return
        self._plane.confirm_keypair(self.slot)
        self._forget_handshake()
        self._complete_handshake(now_ns)
        self._plane.kick(self.slot, keepalive=False)
        self._arm()

    def take_cookie(self, reply: bytes, now_ns: int) -> None:
        """Read a cookie reply; the next handshake message carries the cookie (5.4.7)."""
        self._cookies.consume_reply_untrusted(reply, now_ns)

    def _initiate(self, now_ns: int) -> None:
        """Send an initiation (5.4.2), unless the gate is shut or the peer cannot be reached.

        It is sent later if the peer would refuse it now.
        """
        if now_ns < self._gate_ns or self._endpoint() is None:
            return
        acceptable_ns = self.initiated_ns + OWN_INITIATION_INTERVAL_NS
        if now_ns < acceptable_ns:
            self._set_gate(acceptable_ns)
            self._timers.handshake_postponed(acceptable_ns)
            return
        self._set_gate(now_ns + REKEY_TIMEOUT_NS)
        try:
            message = self._write_initiation(now_ns)
        except BadMessage as error:
            _log.debug("%s: no handshake: %s", self, error)
            return
        _log.debug("%s: sending an initiation", self)
        self.initiated_ns = now_ns
        self._send_handshake(message, now_ns)
        self._count_attempt(now_ns)
        self._enter(Handshake.INITIATED)
        self._timers.handshake_initiated(now_ns)

    def _count_attempt(self, now_ns: int) -> None:
        """Count an initiation, from 1 again after those before were given up."""
        if not self.attempts or self.handshake is Handshake.GIVEN_UP:
            self.attempts = 0
            self.attempts_since_ns = now_ns
        self.attempts += 1

    def _write_initiation(self, now_ns: int) -> bytes:
        remote = self._exchange.remote_static()
        self._forget_handshake()
        index = self._plane.reserve_index(self.slot)
        return self._exchange.write_initiation(remote, index, now_ns)

    def _begin_session(self, keys: TransportKeys, now_ns: int) -> None:
        session = Session(
            send_key=keys.send_key,
            receive_key=keys.receive_key,
            local_index=keys.local_index,
            remote_index=keys.remote_index,
            created_ns=now_ns,
            initiator=keys.initiator,
        )
        self._plane.install_keypair(self.slot, session)
        self._timers.session_derived(now_ns)

    def _complete_handshake(self, now_ns: int) -> None:
        self._services.notes.session(self, self._endpoint, self.established_ns, now_ns)
        self._enter(Handshake.ESTABLISHED)
        self.established_ns = now_ns
        self._gave_up = False
        self.last_handshake_ns = max(NS_PER_S, self._services.wall_clock())  # wg knows none before
        self._timers.handshake_complete()
        self._services.tell(HandshakeDone(self.public_key))

    def _endpoint(self) -> Endpoint | None:
        return self._plane.stats(self.slot).endpoint

    def _send_handshake(self, message: bytes, now_ns: int) -> None:
        """Send message 1 or 2.  A failure is like a loss on the way: the timers see to it."""
        message = self._cookies.add_macs(message, now_ns)
        try:
            self._plane.send_message(self.slot, message, HANDSHAKE_TOS, now_ns)
        except OSError as error:
            _log.debug("%s: handshake message not sent: %s", self, error)

    def _set_gate(self, gate_ns: int) -> None:
        self._gate_ns = gate_ns
        self._plane.set_handshake_gate(self.slot, gate_ns)

    def _enter(self, handshake: Handshake) -> None:
        """Be here now; nothing else sets it."""
        self.handshake = handshake
        if handshake in (Handshake.IDLE, Handshake.ESTABLISHED):
            self.attempts = self.attempts_since_ns = 0
            self.responses = self.responses_since_ns = 0

    def _forget_session(self) -> None:
        self._plane.drop_keypairs(self.slot)
        self._forget_handshake()
        self._enter(Handshake.IDLE)

    def _forget_handshake(self) -> None:
        index = self._exchange.forget_initiation()
        if index is not None:
            self._plane.release_index(index)

    # ---- timers ----

    def run_timers(self, now_ns: int) -> None:
        """Do what is due, and wait for what is due next."""
        if not self._running:
            return
        for action in self._timers.due(self._plane.stats(self.slot), now_ns):
            self._act(action, now_ns)
        self._arm()

    def _act(self, action: Action, now_ns: int) -> None:
        match action:
            case Action.ZERO_KEYS:
                self._forget_session()
            case Action.SEND_KEEPALIVE:
                self._plane.kick(self.slot, keepalive=True)
            case Action.REARM_KEEPALIVE:
                self._plane.rearm_keepalive(self.slot, now_ns)
            case Action.NEW_HANDSHAKE:
                self._timers.handshake_wanted()
                self._plane.clear_source(self.slot)  # in case it is the cause of the trouble
                self._initiate(now_ns)
            case Action.RETRY_HANDSHAKE:
                self._plane.clear_source(self.slot)
                self._initiate_or_postpone(now_ns)
            case Action.POSTPONED_HANDSHAKE:
                self._initiate_or_postpone(now_ns)
            case Action.GIVE_UP_HANDSHAKE:
                level = logging.DEBUG if self._gave_up else NOTICE
                _log.log(level, "%s: no answer to any initiation, gave up", self)
                self._gave_up = True
                self._enter(Handshake.GIVEN_UP)
                self._plane.drop_staged(self.slot)

    def _initiate_or_postpone(self, now_ns: int) -> None:
        if now_ns < self._gate_ns:  # a response of ours went out since
            self._timers.handshake_postponed(self._gate_ns)
        else:
            self._initiate(now_ns)

    def _send_persistent_keepalive(self, now_ns: int) -> None:
        self._timers.persistent_keepalive_sent(now_ns)
        self._plane.kick(self.slot, keepalive=True)

    def _arm(self) -> None:
        """Schedule the next deadline, and have C tell of traffic that brings it forward.

        Traffic between reading the stamps and setting the wake time is seen by the second reading,
        later traffic by C.
        """
        if not self._running:
            return
        deadline_ns = self._timers.deadline(self._plane.stats(self.slot))
        self._plane.set_wake(self.slot, deadline_ns)
        reread_ns = self._timers.deadline(self._plane.stats(self.slot))
        if reread_ns is not None and (deadline_ns is None or reread_ns < deadline_ns):
            deadline_ns = reread_ns
            self._plane.set_wake(self.slot, deadline_ns)
        self._schedule(deadline_ns)

    def _schedule(self, deadline_ns: int | None) -> None:
        if deadline_ns == self._deadline_ns:
            return
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._deadline_ns = deadline_ns
        if deadline_ns is not None:
            self._handle = self._services.scheduler.call_at(deadline_ns, self._deadline_came)

    def _deadline_came(self) -> None:
        self._handle = None
        self._deadline_ns = None
        self.run_timers(self._plane.now_ns())
