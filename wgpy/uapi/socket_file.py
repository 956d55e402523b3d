# SPDX-License-Identifier: MIT
"""The file by which clients find a socket of ours: its directory, its making, its end."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wgpy.linux.libc import inotify_open

DIRECTORY: Final = Path("/var/run/wireguard")  # where wg looks for the configuration socket
SUFFIX: Final = ".sock"  # of its name, after the interface's

_STEPS_MAX: Final = 256  # of a way over links; the kernel follows 40 of them (path_resolution(7))

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file by which clients find a listening socket; its identity tells it from a successor.

    The kernel does not give the identity to another file as long as the socket is open.
    """

    path: Path
    device: int
    inode: int

    @classmethod
    def of(cls, sock: socket.socket) -> "SocketFile":
        """Return the file of a socket just opened; raises OSError if it has none."""
        name = os.fsdecode(sock.getsockname())
        if not name.startswith("/"):  # unnamed, abstract or relative
            raise OSError(errno.ENOENT, "a socket without a file of its own", name)
        path = Path(name)
        status = path.lstat()
        return cls(path, status.st_dev, status.st_ino)

    def exists(self) -> bool:
        """Tell whether the path still leads to this file."""
        try:
            status = self.path.lstat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == (self.device, self.inode)

    def remove(self) -> None:
        """Remove the file unless another has its place; to be called before the socket closes."""
        if self.exists():
            self.path.unlink(missing_ok=True)


def open_socket(
    interface: str,
    directory: Path = DIRECTORY,
    suffix: str = SUFFIX,
    *,
    group: int | None = None,
    trust_directory: bool = False,
) -> socket.socket:
    """Return a socket that listens for clients of interface: the owner, and members of group (gid).

    Who may connect to the one of wg may do all: read the keys and change everything.  So may who
    can replace the socket by their own, for wg writes keys into it: unless trust_directory,
    directory must be one in which only we and root can.  It is made if it is missing, with its
    parents.

    Raises OSError: EADDRINUSE if somebody answers there already, EEXIST if another kind of file has
    the name, EPERM if others could replace the files of directory, EACCES if it is closed to the
    group, EINVAL for a name that is not a file's, or what the system says.
    """
    if interface in ("", ".", "..") or "/" in interface:
        raise OSError(errno.EINVAL, "not an interface name", interface)
    _prepare_directory(directory, trust=trust_directory)
    if group is not None:
        _require_entry(directory, group)
    path = directory / f"{interface}{suffix}"
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # With its final mode: to change it later is to change what somebody put in its place.
        with _umask(0o077 if group is None else 0o117):
            sock.bind(os.fspath(path))
        if group is not None:
            _give_to(path, group)  # nobody can connect before listen()
        sock.listen()  # at once: wg removes a socket that refuses its connection
    except BaseException:
        sock.close()
        raise
    return sock


def adopt_socket(fd: int) -> socket.socket:
    """Return the listening socket of a descriptor we were given, which is ours now.

    Raises OSError: EINVAL if it is no Unix socket to which clients can connect, or what the system
    says.
    """
    sock = socket.socket(fileno=fd)
    try:
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            raise OSError(errno.EINVAL, "not a Unix stream socket")
        sock.listen()  # EINVAL if it is connected or has no name
    except BaseException:
        sock.close()
        raise
    sock.set_inheritable(False)
    return sock


def _prepare_directory(directory: Path, *, trust: bool) -> None:
    if not trust:
        _require_safe_way(directory)  # before we make anything by it
    with contextlib.suppress(FileExistsError), _umask(0o022):
        Path(os.path.realpath(directory)).mkdir(mode=0o755, parents=True)
    if not stat.S_ISDIR(directory.stat().st_mode):
        raise OSError(errno.ENOTDIR, "not a directory", os.fspath(directory))
    if not trust:
        _require_safe(_require_safe_way(directory), directory)  # others may have been faster


def _require_safe_way(directory: Path) -> Path:
    """Raise OSError if others could have directory lead elsewhere; -> what exists of it, resolved.

    Its parents are the system's, whom wg trusts too.  But it may be a link, and so may be what that
    leads by: who owns a link, or can write where it is, may have it lead anywhere.
    """
    here, way = Path(os.path.realpath(directory.parent)), [directory.name]  # the next step last
    for _ in range(_STEPS_MAX):
        if not way or not os.path.lexists(here / way[-1]):
            return here
        step = here / way.pop()
        if step.is_symlink():
            _require_safe(step, directory, writable=True)  # every link is
            way += reversed(step.readlink().parts)
        else:
            # Where it is sticky, nobody can replace what is somebody else's.
            _require_safe(step, directory, writable=bool(step.stat().st_mode & stat.S_ISVTX))
            here = step
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(directory))


def _require_safe(path: Path, directory: Path, *, writable: bool = False) -> None:
    """Raise OSError if path is somebody else's or, unless that does no harm, writable by others.

    Directory is what it is about for the user.
    """
    status = path.lstat()
    if status.st_uid not in (0, os.geteuid()):
        reason = f"is owned by somebody else (user {status.st_uid}): give it to root (chown)"
    elif status.st_mode & 0o022 and not writable:
        mode = stat.S_IMODE(status.st_mode)
        reason = f"is writable by others (mode {mode:o}): forbid it (chmod go-w)"
    else:
        return
    reason += ", or accept it with WGPY_TRUST_SOCKET_DIR=1"
    raise OSError(errno.EPERM, f"{path} {reason}", os.fspath(directory))


def _give_to(path: Path, group: int) -> None:
    try:
        os.chown(path, -1, group, follow_symlinks=False)
    except OSError:
        path.unlink()
        raise


def _require_entry(directory: Path, group: int) -> None:
    """Raise OSError if members of the group do not get past the directory's own mode."""
    status = directory.stat()
    needed = stat.S_IXGRP if status.st_gid == group else stat.S_IXOTH
    if not status.st_mode & needed:
        raise OSError(errno.EACCES, "closed to the group of the socket", os.fspath(directory))


def _remove_stale(path: Path) -> None:
    """Raise OSError for what must not be removed."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "in use by another kind of file", os.fspath(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # one with a full backlog is alive too: EAGAIN
        code = probe.connect_ex(os.fspath(path))
    if code in (0, errno.EAGAIN):
        raise OSError(errno.EADDRINUSE, "already served", os.fspath(path))
    if code == errno.ECONNREFUSED:
        path.unlink()


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# inotify(7)
_IN_ATTRIB: Final = 0x4  # among others: one name of the file less
_IN_DELETE_SELF: Final = 0x400
_IN_MOVE_SELF: Final = 0x800
_OUT_OF_INOTIFY: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)
_LOOK_INTERVAL_S: Final = 1.0


class SocketWatch:
    """Tells when a socket's file is removed, renamed or replaced.

    The control loop must be running.  A host has few inotify instances per user (128 by default,
    inotify(7)); without one, the watch looks once a second.
    """

    def __init__(self, file: SocketFile, on_removed: Callable[[], None]) -> None:
        """Call on_removed from the loop, once; raises OSError if the file cannot be watched."""
        self._file = file
        self._on_removed = on_removed
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        self._timer: asyncio.TimerHandle | None = None
        try:
            self._fd = inotify_open(file.path, _IN_ATTRIB | _IN_DELETE_SELF | _IN_MOVE_SELF)
        except OSError as error:
            if error.errno not in _OUT_OF_INOTIFY:
                raise
            if not file.exists():
                raise FileNotFoundError(errno.ENOENT, "no such socket", str(file.path)) from error
            _log.info("no inotify (%s): looking at the socket every second", error.strerror)
            self._timer = self._loop.call_later(_LOOK_INTERVAL_S, self._look)
        else:
            self._loop.add_reader(self._fd, self._on_readable)

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _on_readable(self) -> None:
        os.read(self._fd, 4096)
        self._tell_if_gone()

    def _look(self) -> None:
        self._timer = self._loop.call_later(_LOOK_INTERVAL_S, self._look)
        self._tell_if_gone()

    def _tell_if_gone(self) -> None:
        if not self._file.exists():
            self.close()
            self._on_removed()
