# SPDX-License-Identifier: MIT
"""What all commands of wgpyctl share: exit statuses, and what leads to each."""

import os
import signal
import sys
from collections.abc import Iterable
from typing import Final

from wgpy.errors import StatusError
from wgpy.text import printable

EXIT_HEALTHY: Final = 0
EXIT_WRONG: Final = 1
EXIT_USAGE: Final = 2
EXIT_NO_INTERFACE: Final = 3
# Of exec, as env(1) has them.
EXIT_NO_TUNNEL: Final = 125
EXIT_CANNOT_RUN: Final = 126
EXIT_NOT_FOUND: Final = 127

RELAYED: Final = {  # to a command that we run for somebody
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGTSTP,
    signal.SIGCONT,
}

ALL: Final = "all"  # in place of an interface's name
HEALTHY: Final = ("ok", "note")  # severities that leave an interface so


class NoInterfaceError(StatusError):
    """There is no WireGuard interface of that name, or none at all."""

    def __init__(self, name: str = "") -> None:
        """Take the name as the caller wrote it."""
        super().__init__(f"there is no WireGuard interface {printable(name)}".rstrip())


class CallError(Exception):
    """The command cannot be carried out as it was called: one line for the user."""


def fail(status: int, text: str) -> int:
    """Say that line on stderr; return the status."""
    print(f"wgpyctl: {text}", file=sys.stderr, flush=True)
    return status


def verdict(severities: Iterable[str]) -> int:
    """Return the exit status for all that was found."""
    return EXIT_WRONG if any(severity not in HEALTHY for severity in severities) else EXIT_HEALTHY


def wants_colour() -> bool:
    """Tell whether standard output is a terminal for colours (https://no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain
