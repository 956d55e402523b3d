# SPDX-License-Identifier: MIT
"""Tunnels of a user by their names: a socket hands out the namespaces of each.

    directory/NAME.exec     who connects is sent descriptors, and nothing is read from anybody

The directory is one that only this user can enter, and both ends look at who the other one is.
"""

import contextlib
import errno
import os
import re
import socket
import stat
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from wgpy.linux.spaces import KINDS, close_spaces
from wgpy.text import printable

SUFFIX: Final = ".exec"  # of a socket's name
OF_ROOT: Final = Path("/run/wgpy")
OF_USERS: Final = Path("/run/user")  # by systemd-logind, elogind
OF_ANYBODY: Final = Path("/tmp")  # noqa: S108 - what is in there is looked at
NAME: Final = re.compile(r"[A-Za-z0-9_=+@-][A-Za-z0-9_=+@.-]{0,63}")
CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred, unix(7)


def default_name(conf: Path) -> str | None:
    """Return the name of a tunnel by that of its file; None if the file is not called NAME.conf."""
    named = conf.suffix == ".conf" and NAME.fullmatch(conf.stem)
    return conf.stem if named else None


def directory() -> Path:
    """Return where this user's sockets are; it may not exist."""
    user = os.geteuid()
    if user == 0:
        return OF_ROOT
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), OF_USERS / str(user)):
        if os.path.isabs(base) and _is_ours(Path(base)):
            return Path(base, "wgpy")
    return OF_ANYBODY / f"wgpy-{user}"


def own_directory() -> Path:
    """Return it, made if it is missing.

    Raises OSError, EPERM if others may enter; root's is left to who makes a socket there.
    """
    where = directory()
    if where != OF_ROOT:
        with contextlib.suppress(FileExistsError):
            where.mkdir(mode=0o700)
        _require_private(where)
    return where


def join(name: str) -> list[int]:
    """Return the namespaces of the tunnel of this name.

    Raises OSError: ENOENT if there is none, EPERM if it is not this user's.
    """
    where = directory()
    if where != OF_ROOT and where.exists():
        _require_private(where)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(os.fspath(where / f"{name}{SUFFIX}"))
        except ConnectionRefusedError:  # it was killed
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
        require_same_user(client)
        return receive(client)


def send(channel: socket.socket, spaces: Sequence[int]) -> None:
    """Hand out namespaces; the descriptors stay the caller's.  Raises OSError."""
    socket.send_fds(channel, [b"\0"], spaces)


def receive(channel: socket.socket) -> list[int]:
    """Return the namespaces that the other end sends.

    Raises ConnectionResetError if it ends without, OSError.
    """
    _, fds, _, _ = socket.recv_fds(channel, 1, len(KINDS), socket.MSG_CMSG_CLOEXEC)
    if len(fds) != len(KINDS):
        close_spaces(fds)
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    return list(fds)


def require_same_user(peer: socket.socket) -> None:
    """Raise PermissionError if the other end is not of our user."""
    sent = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    _, user, _ = CREDENTIALS.unpack(sent)
    if user != os.geteuid():
        raise PermissionError(errno.EPERM, f"it is of another user ({user})")


def _is_ours(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.geteuid()
    except OSError:
        return False


def _require_private(path: Path) -> None:
    """Raise PermissionError for a directory that others own or may enter."""
    status = path.lstat()
    closed = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if status.st_uid != os.geteuid() or not closed:
        reason = f"{printable(str(path))} is not a directory that only you may enter: remove it"
        raise PermissionError(errno.EPERM, reason)
