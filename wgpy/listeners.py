# SPDX-License-Identifier: MIT
"""The sockets of an interface of the system: one by which wg configures it, one that tells of it.

They are opened before there is a loop or an engine, for a daemon forks in between.
"""

import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from wgpy.config import DeviceChange
from wgpy.engine import Engine
from wgpy.errors import StartError
from wgpy.status import DIRECTORY as STATUS_DIRECTORY
from wgpy.status import SUFFIX as STATUS_SUFFIX
from wgpy.status_socket import StatusServer
from wgpy.uapi.server import UapiServer
from wgpy.uapi.socket_file import DIRECTORY, SocketFile, SocketWatch, open_socket

Stack = contextlib.ExitStack | contextlib.AsyncExitStack

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect besides root, and to what."""

    group: int | None = None  # gid; may do all that root may
    status_group: int | None = None  # gid; may look
    has_status: bool = True  # whether there is a socket that tells it
    trust_directory: bool = False  # whoever owns it or can write to it


class Listeners(NamedTuple):
    """The sockets to which clients connect, for the interface as it was called at the start."""

    name: str
    uapi: socket.socket
    status: socket.socket | None  # None: switched off, or not to be had
    file: SocketFile | None  # of wg's; None: it was given and has none


def open_listeners(
    stack: Stack,
    name: str,
    access: Access,
    given: socket.socket | None = None,
) -> Listeners:
    """Open them for as long as the stack, and their files too, if they have any.

    `given` is one to take for wg's.  Raises StartError.
    """
    uapi = stack.enter_context(_open_uapi(name, access) if given is None else given)
    file = _remove_at_end(stack, uapi)
    status = _open_status(name, access) if access.has_status else None
    if status is not None:
        stack.enter_context(status)
        _remove_at_end(stack, status)
    return Listeners(name, uapi, status, file)


def serve(
    stack: Stack,
    engine: Engine,
    listeners: Listeners,
    changing: Callable[[DeviceChange], Iterator[None]],
) -> None:
    """Serve clients for as long as the stack, on the running loop; `changing` is for wg's.

    When wg's socket is removed the engine ends.
    """
    if listeners.status is not None:
        take = partial(engine.status, listeners.name)
        status_server = StatusServer(listeners.status.dup(), take)
        stack.enter_context(contextlib.closing(status_server))
    server = UapiServer(changing, engine.device.snapshot)
    stack.callback(server.close)
    server.serve(listeners.uapi.dup())  # ours stays open: it guards the identity of the file
    if listeners.file is not None:
        removed = partial(engine.end_because, "socket removed")
        _watch(stack, listeners.file, removed)
        stack.callback(listeners.file.remove)  # first, for a successor may be waiting for the name


def _watch(stack: Stack, file: SocketFile, on_removed: Callable[[], None]) -> None:
    with contextlib.suppress(FileNotFoundError):
        stack.enter_context(contextlib.closing(SocketWatch(file, on_removed)))
    if not file.exists():  # before it was watched
        on_removed()


def _remove_at_end(stack: Stack, listener: socket.socket) -> SocketFile | None:
    """Return the file, none for a given socket that has no file to watch and to remove."""
    try:
        file = SocketFile.of(listener)
    except OSError:
        return None
    stack.callback(file.remove)
    return file


def _open_uapi(name: str, access: Access) -> socket.socket:
    try:
        return open_socket(name, group=access.group, trust_directory=access.trust_directory)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"the socket {error.filename} is in use") from error
        path = error.filename or DIRECTORY / f"{name}.sock"
        raise StartError(f"cannot listen on {path}: {error.strerror}") from error


def _open_status(name: str, access: Access) -> socket.socket | None:
    """Return none, and say why, where there can be none: carrying packets needs no status."""
    try:
        return open_socket(
            name,
            STATUS_DIRECTORY,
            STATUS_SUFFIX,
            group=access.status_group,
            trust_directory=access.trust_directory,
        )
    except OSError as error:
        unprivileged = error.errno in (errno.EACCES, errno.EROFS) and access.status_group is None
        level = logging.INFO if unprivileged else logging.ERROR
        path = error.filename or STATUS_DIRECTORY
        _log.log(level, "there is no status socket: %s: %s", path, error.strerror)
        return None
