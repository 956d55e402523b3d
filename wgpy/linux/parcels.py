# SPDX-License-Identifier: MIT
"""What keeper and host say to each other: JSON with descriptors, a datagram each.

Both ends are of one user and one program, so what comes is bounded but believed.
"""

import array
import errno
import json
import os
import socket
from collections.abc import Sequence
from typing import Any, Final

LETTER_MAX: Final = 1 << 16  # bytes; what may be longer goes in a file
FDS_MAX: Final = 64  # in a letter; a TUN has fewer queues

Letter = dict[str, Any]


def send(channel: socket.socket, letter: Letter, fds: Sequence[int] = ()) -> None:
    """Send a letter with descriptors, which stay the sender's too.

    Raises OSError, EMSGSIZE for what the other end would not read to its end.
    """
    data = json.dumps(letter).encode()
    if len(data) > LETTER_MAX:
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
    socket.send_fds(channel, [data], fds)


def receive(channel: socket.socket) -> tuple[Letter, list[int]] | None:
    """Return a letter and the descriptors that came with it; None at the end.

    Raises OSError, BlockingIOError when nothing is there and the channel does not block.
    """
    fds = array.array("i")
    space = socket.CMSG_LEN(FDS_MAX * fds.itemsize)
    try:  # not by socket.recv_fds, which does not hand the flags on
        data, ancillary, _, _ = channel.recvmsg(LETTER_MAX, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:  # the other end is gone, and did not read all
        return None
    for _, _, passed in ancillary:
        fds.frombytes(passed[: len(passed) - len(passed) % fds.itemsize])
    return (json.loads(data), fds.tolist()) if data else None


def to_file(content: Letter) -> int:
    """Return a descriptor of what is too long for a letter."""
    fd = os.memfd_create("wgpy")
    with open(fd, "w", closefd=False) as file:
        json.dump(content, file)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def from_file(fd: int) -> Letter:
    """Read what to_file wrote; the descriptor is closed."""
    with open(fd) as file:
        content: Letter = json.load(file)
    return content
