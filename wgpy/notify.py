"""What a service manager wants to know: sd_notify(3), and the journal's way with logs.

Both are plain agreements about the environment and need no library.
"""

import contextlib
import logging
import os
import socket
from typing import Final

TIMEOUT_S: Final = 5.0  # for a manager whose queue is full
LOG_PREFIXES: Final = {  # sd-daemon(3): the priorities of syslog(3)
    logging.DEBUG: "<7>",
    logging.INFO: "<6>",
    logging.WARNING: "<4>",
    logging.ERROR: "<3>",
    logging.CRITICAL: "<2>",
}

_log = logging.getLogger("wgpy.notify")


class Notifier:
    """Tells the service manager how far we are, if there is one."""

    def __init__(self, address: str | None) -> None:
        """`address` is the value of NOTIFY_SOCKET: a path, or an abstract name after an `@`."""
        self._address = address

    def ready(self, status: str) -> None:
        """Say that the service is up; status is a line for the administrator."""
        self._send(f"READY=1\nSTATUS={status}")

    def stopping(self, status: str) -> None:
        """Say that the service begins to end, and why."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def _send(self, state: str) -> None:
        """Nobody who listens is no reason to fail."""
        if self._address is None:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(TIMEOUT_S)
                sock.sendto(state.encode(), name)
        except OSError as error:
            _log.error("cannot reach NOTIFY_SOCKET: %s", error.strerror or error)


def goes_to_journal(fd: int, journal_stream: str) -> bool:
    """Tell whether fd is the one that JOURNAL_STREAM says (`device:inode`), by systemd.exec(5).

    The variable alone does not say so: it is inherited, and the descriptor may be another by now.
    """
    with contextlib.suppress(OSError):
        status = os.fstat(fd)
        return journal_stream == f"{status.st_dev}:{status.st_ino}"
    return False


class JournalFormatter(logging.Formatter):
    """Puts the priority before each line, for the journal takes each for a message of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of record with its prefixes; the journal knows the time."""
        prefix = LOG_PREFIXES.get(record.levelno, LOG_PREFIXES[logging.INFO])
        return "\n".join(prefix + line for line in super().format(record).split("\n"))
