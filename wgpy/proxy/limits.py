# SPDX-License-Identifier: MIT
"""How many connections there may be, in all and of one address."""

from collections import Counter


class Limits:
    """Counts them.  What is no longer there takes no memory."""

    def __init__(self, total: int, per_client: int) -> None:
        """Begin with none."""
        self._total = total
        self._per_client = per_client
        self._counts: Counter[str] = Counter()
        self._all = 0

    def admit(self, address: str) -> bool:
        """Count one more, or tell that it is too many."""
        if self._all >= self._total or self._counts[address] >= self._per_client:
            self._forget_if_none(address)
            return False
        self._counts[address] += 1
        self._all += 1
        return True

    def leave(self, address: str) -> None:
        """Count one less, of those that were admitted."""
        self._all -= 1
        self._counts[address] -= 1
        self._forget_if_none(address)

    def _forget_if_none(self, address: str) -> None:
        if not self._counts[address]:
            del self._counts[address]
