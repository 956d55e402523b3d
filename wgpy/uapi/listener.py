# SPDX-License-Identifier: MIT
"""How clients get in, by whichever socket."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Final

ACCEPT_PAUSE_S: Final = 0.25  # after a failure to accept: soon for a user, seldom for a core

_log = logging.getLogger(__name__)


class Listener:
    """Accepts clients one by one, and has patience when that fails.

    Out of descriptors or memory, the kernel says so at once and for as long as a client waits: each
    failure costs a pause.  Where it is our own limit of descriptors, after a pause in which none
    became free, the client idle for longest makes room, as where there are as many as may be.
    """

    def __init__(
        self,
        sock: socket.socket,
        admit: Callable[[socket.socket], None],
        drop_idlest: Callable[[], None],
    ) -> None:
        """Begin, on the running loop; the socket is ours now.  `admit` may raise OSError."""
        self._sock = sock
        self._admit = admit
        self._drop_idlest = drop_idlest
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._failed = False  # at the last try
        sock.setblocking(False)
        self._fd = sock.fileno()
        self._loop.add_reader(self._fd, self._accept)

    def close(self) -> None:
        """Accept no more, and close the socket."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._fd)
        self._sock.close()

    def _accept(self) -> None:
        try:
            client, _ = self._sock.accept()
            self._admit(client)
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # it has left again, or another process that has the socket was faster
        except OSError as error:
            if not self._failed:
                _log.error("cannot accept clients for the moment: %s", error.strerror)
            elif error.errno == errno.EMFILE:
                self._drop_idlest()
            self._failed = True
            self._loop.remove_reader(self._fd)
            self._wait()
        else:
            self._failed = False

    def _wait(self) -> None:
        self._pause = self._loop.call_later(ACCEPT_PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._pause = None
        try:
            self._loop.add_reader(self._fd, self._accept)
        except OSError:  # the kernel has no memory for that either
            self._wait()
