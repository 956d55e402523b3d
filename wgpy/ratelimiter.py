"""Which handshake messages are worth an answer (5.3): a rate per source, and the rule of load.

Both take the time as a parameter and keep bounded state.
"""

from typing import Final

_NS_PER_S = 1_000_000_000

# The rates are those of the Linux kernel's WireGuard.
MESSAGES_PER_S: Final = 20
BURST: Final = 5
MAX_SOURCES: Final = 16384  # per generation, see RateLimiter

_COST_NS = _NS_PER_S // MESSAGES_PER_S
_BURST_NS = BURST * _COST_NS  # what fills an empty bucket

_LOAD_FRACTION = 8  # a queue filled to an eighth is load ...
_LOAD_HELD_NS = _NS_PER_S  # ... for one more second after it was


class RateLimiter:
    """A token bucket of 20 messages/s, burst 5, per IPv4 address and per IPv6 /64.

    A bucket is one number: when it will be full again.  A full bucket says nothing, so it is
    forgotten, and any bucket is full 250 ms after its last message: hence two generations of
    buckets, the older of which is thrown away whole every 250 ms.  That is the sweep.
    A generation holds MAX_SOURCES; while the newer is full, sources that are not in it are refused,
    so that a flood from many addresses costs neither memory nor the buckets of others.
    """

    __slots__ = ("_newer", "_newer_since_ns", "_older")

    def __init__(self) -> None:
        """Start with every bucket full."""
        self._newer: dict[bytes, int] = {}
        self._older: dict[bytes, int] = {}
        self._newer_since_ns = 0

    def allow(self, address: bytes, now_ns: int) -> bool:
        """Take a token from the bucket of an address of 4 or 16 bytes; False when it is empty."""
        self._sweep(now_ns)
        source = address if len(address) == 4 else address[:8]
        known_full_ns = self._newer.get(source)
        if known_full_ns is None:
            if len(self._newer) >= MAX_SOURCES:
                return False
            known_full_ns = self._older.get(source, 0)
        full_ns = max(known_full_ns, now_ns) + _COST_NS
        if full_ns > now_ns + _BURST_NS:
            return False
        self._newer[source] = full_ns
        return True

    def __len__(self) -> int:
        """Return how many buckets are held, at most 2 * MAX_SOURCES."""
        return len(self._newer) + len(self._older)

    def _sweep(self, now_ns: int) -> None:
        age_ns = now_ns - self._newer_since_ns
        if age_ns < _BURST_NS:
            return
        self._older = self._newer if age_ns < 2 * _BURST_NS else {}
        self._newer = {}
        self._newer_since_ns = now_ns


class LoadGauge:
    """Under load: the handshake queue was filled to an eighth within the last second."""

    __slots__ = ("_until_ns",)

    def __init__(self) -> None:
        """Start idle."""
        self._until_ns = 0

    def observe(self, queued: int, depth: int, now_ns: int) -> bool:
        """Look at a queue of `queued` messages that holds `depth`; True while under load."""
        if queued * _LOAD_FRACTION >= depth:
            self._until_ns = now_ns + _LOAD_HELD_NS
            return True
        return now_ns < self._until_ns
