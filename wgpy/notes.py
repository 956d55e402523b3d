# SPDX-License-Identifier: MIT
"""What happens to handshakes and peers, for whoever reads the log at info."""

import logging
from collections.abc import Callable
from typing import Final

from wgpy.addresses import format_endpoint
from wgpy.config import Endpoint
from wgpy.errors import BadMessage
from wgpy.log import LimitedLog
from wgpy.protocol.timers import REJECT_AFTER_TIME_NS
from wgpy.units import NS_PER_S

LOG_BURST: Final = 10  # lines of a kind that others can cause, before there is one in ...
LOG_PERIOD_NS: Final = 10 * NS_PER_S

_log = logging.getLogger(__name__)


class Notes:
    """The lines of a device; `peer` is whatever is a peer's name as text."""

    def __init__(self) -> None:
        """Begin with all credit."""
        self._limited = LimitedLog(_log, LOG_BURST, LOG_PERIOD_NS)

    def session(
        self, peer: object, find: Callable[[], Endpoint | None], before_ns: int, now_ns: int
    ) -> None:
        """Tell of a session if the one before is over: one that goes on is renewed for ever.

        `find` gives the endpoint, if somebody is to know it.
        """
        if before_ns and now_ns - before_ns < REJECT_AFTER_TIME_NS:
            _log.debug("%s: session renewed", peer)
        elif self._limited.is_read:
            endpoint = find()
            where = "nowhere" if endpoint is None else format_endpoint(endpoint)
            self._limited.info("session", now_ns, "%s: session established, at %s", peer, where)

    def moved(self, peer: object, endpoint: Endpoint, now_ns: int) -> None:
        """Tell that a peer is somewhere else now, or there for the first time."""
        if self._limited.is_read:
            where = format_endpoint(endpoint)
            self._limited.info("moved", now_ns, "%s: speaks from %s now", peer, where)

    def refused(self, error: BadMessage, source: Endpoint, now_ns: int) -> None:
        """Tell why a handshake message is refused."""
        if self._limited.is_read:
            text = "handshake message refused: %s, from %s"
            self._limited.info(error.refusal.value, now_ns, text, error, format_endpoint(source))
