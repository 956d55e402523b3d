# SPDX-License-Identifier: MIT
"""The inbox of events of FakePlane, in the order of events.c."""

from collections import deque

from core_numbers import EVENT_RING

from wgpy.dataplane.types import MessageEvent, PendingEvent


class FakeInbox:
    """What control has not taken: one list for each kind, and two for wants."""

    def __init__(self) -> None:
        """Nothing waits."""
        self._urgent: dict[int, set[str]] = {}  # by slot, in order
        self._messages: deque[MessageEvent] = deque()
        self._wants: list[int] = []
        self._unheard: list[int] = []  # wants of who was not heard from since the last
        self._want_heard_ns: dict[int, int] = {}  # rx_any_ns at the last want
        self._want_turn = 0

    @property
    def messages(self) -> int:
        """How many wait."""
        return len(self._messages)

    @property
    def waiting(self) -> bool:
        """Whether anything does."""
        return bool(self._urgent or self._messages or self._wants or self._unheard)

    def pend(self, slot: int, bit: str) -> None:
        """Tell of a key, a timer, a loop or a move of the peer."""
        self._urgent.setdefault(slot, set()).add(bit)

    def want(self, slot: int, heard_ns: int) -> None:
        """Tell that the peer, last heard from then, wants a handshake."""
        if slot in self._wants or slot in self._unheard:
            return
        unheard = self._want_heard_ns.get(slot) == heard_ns
        self._want_heard_ns[slot] = heard_ns
        (self._unheard if unheard else self._wants).append(slot)

    def add(self, message: MessageEvent) -> bool:
        """Take a handshake message, if there is room."""
        if len(self._messages) >= EVENT_RING:
            return False
        self._messages.append(message)
        return True

    def forget(self, slot: int) -> None:
        """Drop all that is the peer's: it is going away."""
        self._urgent.pop(slot, None)
        self._want_heard_ns.pop(slot, None)
        self._messages = deque(event for event in self._messages if event.slot != slot)
        for slots in (self._wants, self._unheard):
            if slot in slots:
                slots.remove(slot)

    def take(self, limit: int) -> list[PendingEvent | MessageEvent]:
        """Take up to so many, in shares."""
        events: list[PendingEvent | MessageEvent] = []
        while self._urgent and len(events) < (limit + 1) // 2:
            slot = next(iter(self._urgent))
            bits = self._urgent.pop(slot)
            events.append(
                PendingEvent(
                    slot=slot,
                    want_handshake=False,
                    key_confirmed="key_confirmed" in bits,
                    timer_armed="timer_armed" in bits,
                    loop_seen="loop_seen" in bits,
                    endpoint_moved="endpoint_moved" in bits,
                )
            )
        while self._messages and len(events) < limit - limit // 4:
            events.append(self._messages.popleft())
        for _ in range(min((limit + 3) // 4, limit - len(events))):
            if (wanting := self._take_want()) is None:
                break
            events.append(PendingEvent(wanting, True, False, False))
        return events

    def _take_want(self) -> int | None:
        turn = self._want_turn
        self._want_turn += 1
        if self._unheard and (turn & 1 or not self._wants):
            return self._unheard.pop(0)
        if not self._wants:
            return None
        return self._wants.pop(-1 if turn & 2 else 0)
