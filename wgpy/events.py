# SPDX-License-Identifier: MIT
"""What happens on an interface, for programs: plain frozen data, and the streams that carry it.

A stream holds EVENTS_WAITING of them.  Whoever is slower than that loses the oldest, and is told
how many; nobody waits for a listener.
"""

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import Final

from wgpy.config import Endpoint

EVENTS_WAITING: Final = 1024  # in each stream


@dataclass(frozen=True, slots=True)
class PeerAdded:
    """There is a peer that was not there before."""

    public_key: bytes


@dataclass(frozen=True, slots=True)
class PeerRemoved:
    """A peer is gone, with its sessions."""

    public_key: bytes


@dataclass(frozen=True, slots=True)
class HandshakeDone:
    """There is a new session: our initiation was answered, or our response confirmed (5.4)."""

    public_key: bytes


@dataclass(frozen=True, slots=True)
class EndpointMoved:
    """A peer speaks from another address or port than before, or for the first time from any.

    Of each peer one a second at most, with where it is by then.
    """

    public_key: bytes
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class DiagnosisChanged:
    """Something is wrong now, or is no more (wgpy.diagnosis); the first look tells all that is."""

    code: str
    peer: bytes | None  # its public key; None: it is about the whole interface
    text: str | None  # for people, as it was when it began; None: it has gone


@dataclass(frozen=True, slots=True)
class EventsLost:
    """The stream was full: so many events that came before the next one are not in it."""

    count: int


Event = PeerAdded | PeerRemoved | HandshakeDone | EndpointMoved | DiagnosisChanged | EventsLost


class EventStream:
    """An async iterator of events, for one listener.  It ends when the interface has."""

    def __init__(self, hub: "EventHub") -> None:
        """Begin with what happens from now on; `EventHub.listen` makes it."""
        self._hub = hub
        self._waiting: deque[Event] = deque()
        self._lost = 0
        self._ended = asyncio.Event()
        self._wake = asyncio.Event()

    def __aiter__(self) -> "EventStream":
        """Return the stream itself."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event, or the EventsLost in place of those that are gone."""
        while not self._lost and not self._waiting:
            if self._ended.is_set():
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        if self._lost:
            lost, self._lost = self._lost, 0
            return EventsLost(lost)
        return self._waiting.popleft()

    def close(self) -> None:
        """Listen no more.  What waits is dropped."""
        self._hub.forget(self)
        self._waiting.clear()
        self._lost = 0
        self.end()

    def put(self, event: Event) -> None:
        """Let an event wait, and if there are too many drop the oldest."""
        if len(self._waiting) == EVENTS_WAITING:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(event)
        self._wake.set()

    def end(self) -> None:
        """Let the iteration end after what waits."""
        self._ended.set()
        self._wake.set()

    async def has_ended(self, within_s: float) -> bool:
        """Return as soon as it has, or False when it has not within that time."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._ended.wait(), within_s)
        return self._ended.is_set()


class EventHub:
    """Hands each event to all who listen."""

    def __init__(self) -> None:
        """Start with nobody listening."""
        self._streams: set[EventStream] = set()
        self._ended = False

    def listen(self) -> EventStream:
        """Return a new stream, for its user to close."""
        stream = EventStream(self)
        if self._ended:
            stream.end()
        else:
            self._streams.add(stream)
        return stream

    def forget(self, stream: EventStream) -> None:
        """Hand it nothing more."""
        self._streams.discard(stream)

    def tell(self, event: Event) -> None:
        """Hand it to all."""
        for stream in self._streams:
            stream.put(event)

    def close(self) -> None:
        """End all streams, each after what waits in it."""
        self._ended = True
        while self._streams:
            self._streams.pop().end()
