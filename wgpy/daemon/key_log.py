# SPDX-License-Identifier: MIT
"""WGPY_KEYLOG: the secrets of all handshakes, for Wireshark to read captured traffic with.

Source: the preference "Key log filename" of Wireshark's dissector of WireGuard.  A line holds one
key; a preshared key belongs to the ephemeral key before it.
"""

import logging
import os
import stat
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Final

from wgpy.daemon.logs import Courier
from wgpy.keys import format_key
from wgpy.protocol.noise import HandshakeSecrets

WAITING_MAX: Final = 1024  # handshakes that wait for the disk

_log = logging.getLogger(__name__)


class KeyLog:
    """A file that only its owner may read.  A thread writes, for a disk may be slow."""

    def __init__(self, path: Path) -> None:
        """Open the file, to append to it.

        Raises OSError, also if it is not a regular file of ours alone.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        self._path = path
        self._file = FileIO(os.open(path, flags, 0o600), "w")
        try:
            _require_private(os.fstat(self._file.fileno()))
        except OSError:
            self._file.close()
            raise
        self._courier: Courier[HandshakeSecrets] = Courier(self._write, WAITING_MAX)

    def start(self) -> None:
        """Begin to write, and say so.  Raises RuntimeError without a thread for it."""
        text = "WGPY_KEYLOG: all keys go to %s, and who reads it can read all traffic"
        _log.warning(text, self._path)
        self._courier.start()

    def tell(self, secrets: HandshakeSecrets) -> None:
        """Have the secrets of a handshake written."""
        self._courier.put(secrets)

    def close(self) -> None:
        """Wait a moment for what is not written."""
        self._courier.close()
        self._file.close()

    def _write(self, secrets: Sequence[HandshakeSecrets], lost: int) -> None:
        try:
            self._file.write(b"".join(map(format_secrets, secrets)))
        except (OSError, ValueError) as error:  # ValueError: it was closed without us
            _log.error("WGPY_KEYLOG: cannot write: %s", error)
        if lost:
            _log.error("WGPY_KEYLOG: %d handshakes are missing", lost)


def _require_private(status: os.stat_result) -> None:
    """Raise OSError for a file that others have, or can have put there."""
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise OSError(0, "is no regular file of its own")
    if status.st_uid != os.geteuid():
        raise OSError(0, f"is owned by somebody else (user {status.st_uid})")
    if status.st_mode & 0o077:
        raise OSError(0, f"is open to others (mode {stat.S_IMODE(status.st_mode):o})")


def format_secrets(secrets: HandshakeSecrets) -> bytes:
    """Return the lines of a handshake."""
    lines = {
        "LOCAL_STATIC_PRIVATE_KEY": secrets.local_private,
        "REMOTE_STATIC_PUBLIC_KEY": secrets.remote_public,
        "LOCAL_EPHEMERAL_PRIVATE_KEY": secrets.ephemeral_private,
        "PRESHARED_KEY": secrets.preshared_key,
    }
    return "".join(f"{name} = {format_key(key)}\n" for name, key in lines.items()).encode()
