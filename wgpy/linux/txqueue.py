# SPDX-License-Identifier: MIT
"""How long the TUN's queue is: shorter in a flood, and then as it was (tunqueue.c asks for it)."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from wgpy.errors import LinkDeletedError
from wgpy.linux.netlink import LinkState
from wgpy.linux.tun import QUEUE_LEN

# More than a quarter of what is taken is dropped: TCP that has too little room loses a percent or
# so.  It is counted for less than a second before the queue is cut, and for more before it is not.
FLOOD_SHARE = 4
FLOOD_S, FLOOD_OVER_S = 0.2, 1.0

_log = logging.getLogger(__name__)


class TxQueue:
    """The queue of an interface (txqueuelen), each if it has several."""

    def __init__(self, read: Callable[[], LinkState], set_length: Callable[[int], None]) -> None:
        """Look and change by these; both may raise OSError and LinkDeletedError."""
        self._ask = read
        self._set_length = set_length
        self._length = QUEUE_LEN  # as we left it
        self._wanted: int | None = 0  # as want() says; None: no more
        self._turned = asyncio.Event()  # something is wanted now and was not, or reversely

    def want(self, length: int) -> None:
        """Let so many frames wait in each queue of the TUN, 0: as many as by default."""
        if self._wanted is None:
            return
        if bool(length) != bool(self._wanted):
            self._turned.set()
        self._wanted = length

    def leave(self) -> None:
        """Let keep end."""
        self._wanted = None
        self._turned.set()

    async def keep(self) -> None:
        """Do what want says until leave, and leave the length as it was.

        A queue is shortened only in a flood: TCP streams may keep one from being empty, but stop
        before it is full, and to drop of theirs would have them send again what need not be.
        """
        before: LinkState | None = None
        while self._wanted is not None:
            state = self._read() if self._wanted else None
            flooded = state is not None and before is not None and _is_flood(before, state)
            before = state
            self._want_length(self._wanted if flooded else QUEUE_LEN)
            await self._count_drops()
        self._want_length(QUEUE_LEN)

    async def _count_drops(self) -> None:
        """Wait as long as that takes, and if nothing is wanted until something is."""
        counting_s = FLOOD_S if self._length == QUEUE_LEN else FLOOD_OVER_S
        with contextlib.suppress(asyncio.TimeoutError):
            turned = self._turned.wait()
            await asyncio.wait_for(turned, counting_s if self._wanted else None)
        self._turned.clear()

    def _read(self) -> LinkState | None:
        """Read what became of frames; None if that cannot be had now."""
        try:
            return self._ask()
        except (OSError, LinkDeletedError):
            return None

    def _want_length(self, length: int) -> None:
        """Change it if nobody else did: who sets a length knows why."""
        before = self._length
        if length == before:
            return
        try:
            if self._ask().queue_len != before:
                return
            self._set_length(length)
            self._length = length
        except (OSError, LinkDeletedError) as error:
            _log.info("cannot set the TUN queue's length to %d: %s", length, error)


def _is_flood(before: LinkState, after: LinkState) -> bool:
    """Tell whether far more came than could be taken."""
    return (after.dropped - before.dropped) * FLOOD_SHARE > after.sent - before.sent
