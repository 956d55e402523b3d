# SPDX-License-Identifier: MIT
"""What a service manager wants to know: sd_notify(3), an agreement that needs no library."""

import logging
import socket
from collections.abc import Sequence
from typing import Final

from wgpy.daemon.logs import Courier

MESSAGES_MAX: Final = 8  # that wait for a manager whose queue is full

_log = logging.getLogger(__name__)


class Notifier:
    """Tells the service manager how far we are, if there is one, and does not wait for it."""

    def __init__(self, address: str | None) -> None:
        """Take the value of NOTIFY_SOCKET: a path, or an abstract name after an `@`."""
        self._address = address
        self._courier: Courier[str] = Courier(self._send, MESSAGES_MAX)
        self._started = False

    def ready(self, status: str) -> None:
        """Say that the service is up; status is a line for the administrator."""
        self._tell(f"READY=1\nSTATUS={status}")

    def stopping(self, status: str) -> None:
        """Say that the service begins to end, and why."""
        self._tell(f"STOPPING=1\nSTATUS={status}")

    def close(self) -> None:
        """Wait a moment for a manager that has not heard everything."""
        self._courier.close()

    def _tell(self, state: str) -> None:
        if self._address is None:
            return
        if not self._started:
            self._courier.start()
            self._started = True
        self._courier.put(state)

    def _send(self, states: Sequence[str], _lost: int) -> None:
        """Send it; nobody who listens is no reason to fail."""
        assert self._address is not None, "else there is nothing to send"
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                for state in states:
                    sock.sendto(state.encode(), name)
        except OSError as error:
            _log.error("cannot reach NOTIFY_SOCKET: %s", error.strerror or error)
