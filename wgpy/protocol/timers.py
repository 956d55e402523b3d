# SPDX-License-Identifier: MIT
"""When a peer's timers are due (section 6, as the Linux kernel runs them): no clock, no I/O.

A timer is a deadline, and a deadline follows from what is kept here (the handshake in progress,
the age of the keys) and from the traffic stamps that the data plane keeps.  So nobody reports
packets: who waits for `deadline` and then asks for `due` gets what the stamps tell by then.
"""

import enum
from collections.abc import Callable
from typing import Final, Protocol

from wgpy.protocol.constants import (
    KEEPALIVE_TIMEOUT_S,
    REJECT_AFTER_TIME_S,
    REKEY_ATTEMPT_TIME_S,
    REKEY_TIMEOUT_S,
)
from wgpy.units import NS_PER_S

# Specification (6.1 to 6.5).
REKEY_TIMEOUT_NS: Final = REKEY_TIMEOUT_S * NS_PER_S
KEEPALIVE_TIMEOUT_NS: Final = KEEPALIVE_TIMEOUT_S * NS_PER_S
SILENCE_TIMEOUT_NS: Final = KEEPALIVE_TIMEOUT_NS + REKEY_TIMEOUT_NS
REJECT_AFTER_TIME_NS: Final = REJECT_AFTER_TIME_S * NS_PER_S
ZERO_KEYS_AFTER_NS: Final = 3 * REJECT_AFTER_TIME_NS
MAX_RETRIES: Final = REKEY_ATTEMPT_TIME_S // REKEY_TIMEOUT_S

# Implementation: what the Linux kernel adds to REKEY_TIMEOUT, so that two peers that collided once
# do not collide for ever.
JITTER_NS: Final = NS_PER_S // 3
INITIATION_INTERVAL_NS: Final = NS_PER_S // 50  # a peer's initiations are read at most so often


class Stamps(Protocol):
    """What the data plane tells of a peer's traffic: times of the device's clock, 0 for never."""

    tx_any_ns: int  # any message was sent
    rx_any_ns: int
    tx_data_ns: int  # payload was sent
    rx_data_ns: int
    tx_unanswered_since_ns: int  # the first payload sent since anything came
    rx_unanswered_since_ns: int  # the first payload that came since anything was sent
    sessions: int  # not 0 while there are keys


class Action(enum.Enum):
    """What a timer asks for when it is due."""

    ZERO_KEYS = enum.auto()  # forget the sessions and the handshake in progress
    SEND_KEEPALIVE = enum.auto()  # an empty message, or what is staged
    REARM_KEEPALIVE = enum.auto()  # with SEND_KEEPALIVE: payload came during the wait as well
    NEW_HANDSHAKE = enum.auto()  # nothing came back for too long
    RETRY_HANDSHAKE = enum.auto()  # the initiation was not answered
    POSTPONED_HANDSHAKE = enum.auto()  # the initiation may be sent now
    GIVE_UP_HANDSHAKE = enum.auto()  # nor were its repetitions: drop what is staged


class Timers:
    """The timers of one peer; times are nanoseconds of the device's clock, 0 or None for never."""

    __slots__ = (
        "_keepalive_served_ns",
        "_persistent_since_ns",
        "_postponed",
        "_randbelow",
        "_retransmit_ns",
        "_retries",
        "_silence_jitter_ns",
        "_silence_served_ns",
        "_zero_keys_ns",
        "persistent_keepalive_s",
    )

    persistent_keepalive_s: int  # 0: off

    def __init__(self, randbelow: Callable[[int], int]) -> None:
        """Start with nothing due; `randbelow(n)` gives the jitter, 0 <= it < n."""
        self._randbelow = randbelow
        self.persistent_keepalive_s = 0
        self._retransmit_ns: int | None = None
        self._postponed = False  # whether that is for an initiation that has not been sent yet
        self._retries = 0
        self._zero_keys_ns: int | None = None
        self._persistent_since_ns = 0
        self._keepalive_served_ns = 0  # the rx_unanswered_since that had its keepalive
        self._silence_served_ns = 0  # when the silence was last acted upon
        self._silence_jitter_ns = self._jitter()

    # ---- what happens to the peer ----

    def handshake_wanted(self) -> None:
        """Take note of new traffic or silence, for which the retries start again from 0."""
        self._retries = 0

    def handshake_initiated(self, now_ns: int) -> None:
        """Expect the answer to an initiation sent now (6.4)."""
        self._retransmit_ns = now_ns + REKEY_TIMEOUT_NS + self._jitter()
        self._postponed = False

    def handshake_postponed(self, until_ns: int) -> None:
        """Initiate later, for it is too soon after another handshake message of ours."""
        self._retransmit_ns = until_ns
        self._postponed = True

    def session_derived(self, now_ns: int) -> None:
        """Count the life of the keys from now on (6.3)."""
        self._zero_keys_ns = now_ns + ZERO_KEYS_AFTER_NS

    def handshake_complete(self) -> None:
        """End the handshake: our initiation was answered, or our response confirmed."""
        self._retransmit_ns = None
        self._retries = 0

    def persistent_keepalive_sent(self, now_ns: int) -> None:
        """Count the interval from now on, even if the keepalive has to wait for a session."""
        self._persistent_since_ns = now_ns

    def stop(self, traffic: Stamps) -> None:
        """Cancel everything: the link went down.  Old traffic asks for nothing later on."""
        self._retransmit_ns = None
        self._retries = 0
        self._zero_keys_ns = None
        self._keepalive_served_ns = traffic.rx_unanswered_since_ns

    # ---- when, and what then ----

    def deadline(self, traffic: Stamps) -> int | None:
        """Return when something is due if nothing happens, None for never."""
        deadlines = (
            self._retransmit_ns,
            self._zero_keys_ns,
            self._keepalive_deadline(traffic),
            self._silence_deadline(traffic),
            self._persistent_deadline(traffic),
        )
        return min((at_ns for at_ns in deadlines if at_ns is not None), default=None)

    def due(self, traffic: Stamps, now_ns: int) -> list[Action]:
        """Return what is to be done now, in this order; each thing once."""
        actions: list[Action] = []
        if _has_come(self._zero_keys_ns, now_ns):
            self._zero_keys_ns = None
            actions.append(Action.ZERO_KEYS)
        if self._should_send_keepalive(traffic, now_ns):
            actions += self._serve_keepalive(traffic)
        if self._should_send_persistent_keepalive(traffic, now_ns):
            actions += self._serve_persistent_keepalive(now_ns, actions)
        if self._should_break_silence(traffic, now_ns):  # a new handshake makes a retry needless
            actions += self._serve_silence(traffic, now_ns)
        elif _has_come(self._retransmit_ns, now_ns):
            actions += self._serve_retransmit(traffic, now_ns)
        return actions

    # ---- retransmission (6.4) ----

    def _serve_retransmit(self, traffic: Stamps, now_ns: int) -> list[Action]:
        self._retransmit_ns = None
        if self._postponed:
            return [Action.POSTPONED_HANDSHAKE]
        if self._retries < MAX_RETRIES:
            self._retries += 1
            return [Action.RETRY_HANDSHAKE]
        self._keepalive_served_ns = traffic.rx_unanswered_since_ns
        if self._zero_keys_ns is None:  # what a partial exchange left behind
            self._zero_keys_ns = now_ns + ZERO_KEYS_AFTER_NS
        return [Action.GIVE_UP_HANDSHAKE]

    # ---- passive keepalive (6.5): nothing went back ----

    def _keepalive_deadline(self, traffic: Stamps) -> int | None:
        since_ns = traffic.rx_unanswered_since_ns
        if since_ns in (0, self._keepalive_served_ns):
            return None
        return since_ns + KEEPALIVE_TIMEOUT_NS

    def _should_send_keepalive(self, traffic: Stamps, now_ns: int) -> bool:
        return _has_come(self._keepalive_deadline(traffic), now_ns)

    def _serve_keepalive(self, traffic: Stamps) -> list[Action]:
        self._keepalive_served_ns = traffic.rx_unanswered_since_ns
        if traffic.rx_data_ns > traffic.rx_unanswered_since_ns:
            return [Action.SEND_KEEPALIVE, Action.REARM_KEEPALIVE]
        return [Action.SEND_KEEPALIVE]

    # ---- new handshake (6.2): nothing came back ----

    def _silence_deadline(self, traffic: Stamps) -> int | None:
        # Payload may go on into the silence under the old keys; the stamp does not tell, so as long
        # as there are keys it is looked at again.
        if not traffic.tx_unanswered_since_ns or not traffic.sessions:
            return None
        since_ns = max(traffic.tx_unanswered_since_ns, self._silence_served_ns)
        return since_ns + SILENCE_TIMEOUT_NS + self._silence_jitter_ns

    def _should_break_silence(self, traffic: Stamps, now_ns: int) -> bool:
        return _has_come(self._silence_deadline(traffic), now_ns)

    def _serve_silence(self, traffic: Stamps, now_ns: int) -> list[Action]:
        sent_meanwhile = traffic.tx_data_ns > self._silence_served_ns
        self._silence_served_ns = now_ns
        self._silence_jitter_ns = self._jitter()
        return [Action.NEW_HANDSHAKE] if sent_meanwhile else []

    # ---- persistent keepalive (6.5) ----

    def _persistent_deadline(self, traffic: Stamps) -> int | None:
        since_ns = max(traffic.tx_any_ns, traffic.rx_any_ns, self._persistent_since_ns)
        if not self.persistent_keepalive_s or not since_ns:
            return None
        return since_ns + self.persistent_keepalive_s * NS_PER_S

    def _should_send_persistent_keepalive(self, traffic: Stamps, now_ns: int) -> bool:
        return _has_come(self._persistent_deadline(traffic), now_ns)

    def _serve_persistent_keepalive(self, now_ns: int, actions: list[Action]) -> list[Action]:
        self.persistent_keepalive_sent(now_ns)
        return [] if Action.SEND_KEEPALIVE in actions else [Action.SEND_KEEPALIVE]

    def _jitter(self) -> int:
        return self._randbelow(JITTER_NS)


def _has_come(deadline_ns: int | None, now_ns: int) -> bool:
    return deadline_ns is not None and deadline_ns <= now_ns
