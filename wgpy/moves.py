# SPDX-License-Identifier: MIT
"""Tells where peers went, of each once a second at most.

The data plane says of a peer once that it moved, and not again before it is asked to.  So one that
moves with each packet, as an attacker in the middle may make it, keeps nobody busy.
"""

from collections.abc import Callable
from itertools import islice
from typing import Final

from wgpy.config import Endpoint
from wgpy.dataplane.plane import Plane
from wgpy.ports import Handle, Scheduler
from wgpy.units import NS_PER_S

REST_NS: Final = NS_PER_S  # of a peer, from one report to the next
PEERS_PER_TURN: Final = 64  # looked at again before others on the control thread have their turn


class Moves:
    """Those of a device's peers, by slot."""

    def __init__(
        self, plane: Plane, scheduler: Scheduler, tell: Callable[[int, Endpoint], None]
    ) -> None:
        """Report slots and endpoints to `tell`."""
        self._plane = plane
        self._scheduler = scheduler
        self._tell = tell
        # By slot, in order of time: until when it rests, and where it was last told to be.
        self._resting: dict[int, tuple[int, Endpoint]] = {}
        self._handle: Handle | None = None

    def moved(self, slot: int, now_ns: int) -> None:
        """Report where the peer is, unless it was reported a moment ago."""
        if slot not in self._resting:
            self._report(slot, None, now_ns)
            self._schedule()

    def forget(self, slot: int) -> None:
        """Report nothing more of a peer that is gone."""
        self._resting.pop(slot, None)

    def close(self) -> None:
        """Report nothing more."""
        self._resting.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _report(self, slot: int, told: Endpoint | None, now_ns: int) -> None:
        endpoint = self._plane.stats(slot).endpoint
        if endpoint is None or endpoint == told:
            return
        self._resting[slot] = (now_ns + REST_NS, endpoint)
        self._tell(slot, endpoint)

    def _rest_over(self) -> None:
        """Look again at those who have rested; what they did meanwhile was not said."""
        self._handle = None
        now_ns = self._plane.now_ns()
        for slot, (until_ns, told) in list(islice(self._resting.items(), PEERS_PER_TURN)):
            if until_ns > now_ns:
                break
            del self._resting[slot]
            self._plane.watch_endpoint(slot)  # before the look: nothing falls between
            self._report(slot, told, now_ns)
        self._schedule()

    def _schedule(self) -> None:
        if self._handle is None and self._resting:
            until_ns, _ = next(iter(self._resting.values()))
            self._handle = self._scheduler.call_at(until_ns, self._rest_over)
