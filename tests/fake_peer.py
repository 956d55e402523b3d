# SPDX-License-Identifier: MIT
"""What FakePlane keeps of a peer and of a session."""

from dataclasses import dataclass, field

from core_numbers import REJECT_AFTER_MESSAGES

from wgpy.config import Endpoint
from wgpy.dataplane._core import lib
from wgpy.dataplane.types import Counted, PeerStats, Session

REPLAY_WINDOW = lib.WG_REPLAY_WINDOW


@dataclass(slots=True)
class FakeKeypair:
    session: Session
    can_send: bool = True
    confirmed: bool = False
    asked_last_minute: bool = False
    send_counter: int = 0
    newest: int = 0  # highest counter received
    seen: set[int] = field(default_factory=set)

    def is_new(self, counter: int) -> bool:
        """Tell whether a counter was not received before (RFC 6479), and remember it."""
        if counter in self.seen or self.newest - counter > REPLAY_WINDOW:
            return False
        if counter >= REJECT_AFTER_MESSAGES:
            return False
        self.newest = max(self.newest, counter)
        self.seen.add(counter)
        return True


@dataclass(slots=True)
class FakePeer:
    slot: int
    stats: PeerStats
    looped: Endpoint | None = None  # to which nothing is sent
    gate_ns: int = 0
    wake_ns: int | None = None  # None: never
    staged: list[bytes] = field(default_factory=list)
    current: FakeKeypair | None = None
    previous: FakeKeypair | None = None
    next: FakeKeypair | None = None
    kicks: list[bool] = field(default_factory=list)  # `keepalive` of each
    moved: bool = False  # which was said, and not asked for again
    tx_packets: int = 0
    rx_packets: int = 0
    drops: dict[str, Counted] = field(default_factory=dict)  # by reason

    @property
    def is_looped(self) -> bool:
        """Tell whether nothing is to be sent."""
        return self.looped is not None and self.looped == self.stats.endpoint


NO_TRAFFIC = PeerStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, None)
