# SPDX-License-Identifier: MIT
"""How often something was dropped or refused, and why: from whatever counts it to what is shown."""

from collections.abc import Iterable

from wgpy.addresses import format_address, format_endpoint
from wgpy.config import Endpoint
from wgpy.dataplane.types import Counted
from wgpy.errors import Refusal
from wgpy.status import Tally
from wgpy.units import NS_PER_S


class Refusals:
    """Counts handshake messages that were refused.  A flood of them fills nothing.

    For each reason there is one entry, with what the last was about.
    """

    __slots__ = ("_by_reason",)

    def __init__(self) -> None:
        """Start without any."""
        self._by_reason: dict[str, Counted] = {}

    def add(self, refusal: Refusal, source: Endpoint, now_ns: int, public_key: bytes = b"") -> None:
        """Count one that came from this source, and from this stranger if it told a key."""
        counted = self._by_reason.setdefault(refusal.value, Counted(refusal.value))
        counted.count += 1
        counted.last_ns = now_ns
        counted.about = source
        counted.public_key = public_key

    def counted(self) -> list[Counted]:
        """Return an entry for each reason that there was."""
        return list(self._by_reason.values())


def tallies(counted: Iterable[Counted], now_ns: int) -> tuple[Tally, ...]:
    """Return what is shown of them: one of each reason, for two may count the same."""
    merged: dict[str, Counted] = {}
    for one in counted:
        other = merged.get(one.reason)
        merged[one.reason] = one if other is None else _sum(one, other)
    return tuple(_tally(one, now_ns) for one in merged.values())


def age_s(since_ns: int, now_ns: int) -> float | None:
    """Return how long ago that was; None for 0: never."""
    return max(0, now_ns - since_ns) / NS_PER_S if since_ns else None


def _sum(one: Counted, other: Counted) -> Counted:
    last = max(one, other, key=lambda counted: counted.last_ns)
    count = one.count + other.count
    return Counted(last.reason, count, last.last_ns, last.about, last.errno, last.public_key)


def _tally(counted: Counted, now_ns: int) -> Tally:
    return Tally(
        reason=counted.reason,
        count=counted.count,
        age_s=age_s(counted.last_ns, now_ns),
        address=_address(counted.about),
        public_key=counted.public_key,
        errno=counted.errno,
    )


def _address(about: Endpoint | None) -> str:
    if about is None:
        return ""
    return format_endpoint(about) if about.port else format_address(about.address)
