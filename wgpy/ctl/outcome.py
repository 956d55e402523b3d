"""How wgpyctl ends: its exit statuses, and what leads to each."""

import os
import sys
from collections.abc import Iterable
from typing import Final

EXIT_HEALTHY: Final = 0
EXIT_WRONG: Final = 1
EXIT_USAGE: Final = 2
EXIT_NO_INTERFACE: Final = 3

HEALTHY: Final = ("ok", "note")  # severities that leave an interface so


class CallError(Exception):
    """The command cannot be carried out as it was called: one line for the user."""


def verdict(severities: Iterable[str]) -> int:
    """Return the exit status for all that was found."""
    return EXIT_WRONG if any(severity not in HEALTHY for severity in severities) else EXIT_HEALTHY


def wants_colour() -> bool:
    """Tell whether standard output is a terminal for colours (https://no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain
