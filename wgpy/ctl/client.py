# SPDX-License-Identifier: MIT
"""The other end of a status socket.

Nothing is sent, for a daemon says it all by itself; and nothing that comes is trusted.
"""

import os
import socket
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

from wgpy.errors import StatusError
from wgpy.status import DOCUMENT_MAX, DeviceStatus, from_json_untrusted

TIMEOUT_S: Final = 15.0  # for a whole document; of very many peers they come with pauses

_CHUNK: Final = 1 << 18  # bytes read at a time


class NobodyError(StatusError):
    """There is no daemon at the socket, which may have been left by one that was killed."""


def follow(path: Path, timeout_s: float = TIMEOUT_S) -> Generator[DeviceStatus, None, None]:
    """Yield what a daemon tells of its interface: at once, then once a second, until it ends.

    Each has timeout_s to come, from when it is asked for.  Raises StatusError, at the first too,
    of which NobodyError is one.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(os.fspath(path))
            for line in _lines(sock, timeout_s):
                yield from_json_untrusted(line)
    except (FileNotFoundError, ConnectionRefusedError):
        raise NobodyError("nobody tells a status there") from None
    except PermissionError:
        raise StatusError("no permission to look: root and WGPY_STATUS_GROUP may") from None
    except TimeoutError:
        raise StatusError(f"no status in {timeout_s:g} s") from None
    except OSError as error:
        raise StatusError(f"cannot read the status: {error.strerror or error}") from None


def _lines(sock: socket.socket, timeout_s: float) -> Iterator[bytes]:
    """Yield whole lines, without their ends; what is behind the last of them counts for nothing."""
    pieces: list[bytes] = []
    size = 0
    deadline_s = time.monotonic() + timeout_s
    while piece := sock.recv(_CHUNK):
        *ends, rest = piece.split(b"\n")
        for end in ends:
            yield b"".join([*pieces, end])
            pieces, size = [], 0
            deadline_s = time.monotonic() + timeout_s
        pieces.append(rest)
        size += len(rest)
        if size > DOCUMENT_MAX:
            raise StatusError("a status without end")
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        sock.settimeout(left_s)
