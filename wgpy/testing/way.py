# SPDX-License-Identifier: MIT
"""One way over a link: what becomes of each datagram, and when.  No I/O and no clock."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import Final

MTU_MAX: Final = 0xFFFF  # bytes; RFC 791, 3.1: Total Length
HEADERS_LEN: Final = 20 + 8  # bytes; IPv4 without options (RFC 791, 3.1) and UDP (RFC 768)


@dataclass(frozen=True, slots=True)
class Link:
    """What a link does to datagrams, the same each way.  Raises ValueError for what cannot be.

    Which datagrams are lost or doubled, counted from the first each way, and how long each is held
    up, follows from the seed.  Which datagram comes when does not: that is up to the kernel's TCP,
    the timers of both ends and the machine's load.
    """

    loss: float = 0.0  # probability, 0 to 1
    duplicate: float = 0.0  # probability, 0 to 1
    delay_s: float = 0.0  # at least, each way; the loop's turn, a millisecond or so, comes on top
    jitter_s: float = 0.0  # up to so much more, evenly, so that datagrams overtake each other
    rate_bps: float | None = None  # bits a second, IP and UDP headers included; None: no limit
    mtu: int = 1500  # bytes of an IPv4 packet; what is larger is dropped, for nobody fragments
    queue: int = 1000  # datagrams under way at a time; what comes then is dropped
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for what no link can be."""
        _require(0 <= self.loss <= 1 and 0 <= self.duplicate <= 1, "a probability is 0 to 1")
        _require(_is_time(self.delay_s) and _is_time(self.jitter_s), "a delay is 0 s or more")
        _require(self.rate_bps is None or self.rate_bps > 0, "a rate is more than 0 bits a second")
        _require(HEADERS_LEN < self.mtu <= MTU_MAX, f"an MTU is {HEADERS_LEN + 1} to {MTU_MAX}")
        _require(self.queue > 0, "a queue holds at least one datagram")


def _is_time(seconds: float) -> bool:
    return 0 <= seconds < float("inf")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


@dataclass(slots=True)
class Counters:
    """Datagrams, one way, so far.

    sent and duplicated together are what all the others are but overrun, and what is under way.
    """

    sent: int = 0  # by the tunnel, and taken by the link
    duplicated: int = 0  # so many more
    delivered: int = 0
    lost: int = 0  # by chance
    cut: int = 0  # lost because the link was cut
    too_large: int = 0  # for the MTU
    overflowed: int = 0  # the queue was full
    overrun: int = 0  # dropped by the kernel before the link saw them: the loop was late


@dataclass(slots=True)
class Way:
    """Takes datagrams, and gives them back when they are due."""

    link: Link  # may be changed at any time; what is under way is not delayed anew
    name: str  # which tells its chances from those of the other way
    is_cut: bool = False
    counters: Counters = field(default_factory=Counters)
    _random: Random = field(init=False)
    _flying: list[tuple[float, int, bytes]] = field(init=False, default_factory=list)  # a heap
    _number: int = field(init=False, default=0)  # of those that were held
    _free_s: float = field(init=False, default=0.0)  # when the rate lets the next one begin

    def __post_init__(self) -> None:
        """Begin with the chances of the seed."""
        self._random = Random(f"{self.link.seed} {self.name}")  # noqa: S311

    @property
    def next_s(self) -> float | None:
        """When the next datagram is due; None: there is none."""
        return self._flying[0][0] if self._flying else None

    def take(self, datagram: bytes, now_s: float) -> None:
        """Send a UDP payload on its way, unless it gets lost."""
        link, counters = self.link, self.counters
        # As many for each, so that a change of the link leaves the chances of what follows.
        lost, doubled, held = (self._random.random() for _ in range(3))
        counters.sent += 1
        if self.is_cut:
            counters.cut += 1
        elif HEADERS_LEN + len(datagram) > link.mtu:
            counters.too_large += 1
        elif lost < link.loss:
            counters.lost += 1
        else:
            delay_s = link.delay_s + held * link.jitter_s
            self._hold(datagram, now_s, delay_s)
            if doubled < link.duplicate:
                counters.duplicated += 1
                self._hold(datagram, now_s, delay_s)

    def due(self, now_s: float) -> Iterator[bytes]:
        """Give what arrives by now."""
        flying = self._flying
        while flying and flying[0][0] <= now_s:
            _, _, datagram = heappop(flying)
            if self.is_cut:
                self.counters.cut += 1
            else:
                self.counters.delivered += 1
                yield datagram

    def _hold(self, datagram: bytes, now_s: float, delay_s: float) -> None:
        if len(self._flying) >= self.link.queue:
            self.counters.overflowed += 1
            return
        through_s = self._through(HEADERS_LEN + len(datagram), now_s)
        self._number += 1  # keeps those of one time in order
        heappush(self._flying, (through_s + delay_s, self._number, datagram))

    def _through(self, length: int, now_s: float) -> float:
        """Return when so many bytes are through at the link's rate, after those before them."""
        if self.link.rate_bps is None:
            return now_s
        self._free_s = max(self._free_s, now_s) + 8 * length / self.link.rate_bps
        return self._free_s
