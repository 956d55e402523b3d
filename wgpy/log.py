# SPDX-License-Identifier: MIT
"""What the log of Python lacks: a level, and a limit for what others can cause."""

import logging
from typing import Final

NOTICE: Final = 25  # what an operator needs to know although nothing is wrong

LEVELS: Final = {  # of LOG_LEVEL
    "verbose": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": NOTICE,
    "error": logging.ERROR,
    "silent": logging.CRITICAL + 1,
}

logging.addLevelName(NOTICE, "NOTICE")


def level(name: str) -> int:
    """Return the one that LOG_LEVEL names; what it does not know is `notice`."""
    return LEVELS.get(name.lower(), NOTICE)


class LimitedLog:
    """Lines at info that no flood makes fill the log.

    Of each kind there are `burst` at once, and then one in a period.  What is left out is counted,
    and told of with the next line of its kind.
    """

    def __init__(self, logger: logging.Logger, burst: int, period_ns: int) -> None:
        """Log to logger."""
        self._logger = logger
        self._period_ns = period_ns
        self._credit_ns = (burst - 1) * period_ns
        self._spent_ns: dict[str, int] = {}  # by kind: until when its lines so far are paid for
        self._left_out: dict[str, int] = {}

    @property
    def is_read(self) -> bool:
        """Whether lines at info go anywhere: others need not be made."""
        return self._logger.isEnabledFor(logging.INFO)

    def info(self, kind: str, now_ns: int, text: str, *arguments: object) -> None:
        """Log a line, or count it.  There are as many kinds as the code names."""
        if not self.is_read:
            return
        spent_ns = max(self._spent_ns.get(kind, 0), now_ns)
        if spent_ns - now_ns > self._credit_ns:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return
        self._spent_ns[kind] = spent_ns + self._period_ns
        if left_out := self._left_out.pop(kind, 0):
            text, arguments = text + " (%d more like this before)", (*arguments, left_out)
        self._logger.info(text, *arguments)
