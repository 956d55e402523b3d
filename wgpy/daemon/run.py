"""One interface from birth to death.

Rule: everything is opened on an ExitStack in the order TUN, UAPI socket, status socket, (fork),
loop, plane, engine, servers, and closed in the reverse.  A signal, a deleted interface, a removed
UAPI socket and a dead data thread all end it the same way; only the last is a failure.

When the caller gets its prompt back, the interface exists, has its settings and is watched: wg-
quick configures it, and others rename or move it, at once.  The fork comes before any thread or
event loop.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from wgpy.daemon.key_log import KeyLog
from wgpy.daemon.logs import Log, Sink, Stream, background_sink, foreground_sink
from wgpy.daemon.options import Options
from wgpy.daemon.process import (
    READY,
    beyond_standard,
    go_to_background,
    handle_end_signals,
    inherited_descriptors,
    prepare_process,
    require_descriptors,
)
from wgpy.daemon.status_socket import StatusServer
from wgpy.daemon.systemd import Notifier
from wgpy.dataplane.plane import Plane
from wgpy.engine import Engine
from wgpy.errors import DataThreadError, LinkDeletedError, StartError, WgpyError
from wgpy.linux.link import Link
from wgpy.linux.sockets import open_sockets
from wgpy.linux.tun import DEFAULT_MTU, Tun, adopt_tun, open_tun
from wgpy.log import NOTICE
from wgpy.protocol.noise import HandshakeSecrets
from wgpy.status import DIRECTORY as STATUS_DIRECTORY
from wgpy.status import SUFFIX as STATUS_SUFFIX
from wgpy.uapi.server import UapiServer
from wgpy.uapi.socket_file import DIRECTORY, SocketFile, SocketWatch, adopt_socket, open_socket

SYSLOG = Path("/dev/log")
LOG_FILE = DIRECTORY / "wgpy.log"  # in the background, where nothing else takes the log
GC_THRESHOLD = 100_000  # objects; the default of 700 takes a third of a big request's time

_log = logging.getLogger(__name__)


class Listeners(NamedTuple):
    """The sockets to which clients connect, for the interface as it was called at the start."""

    name: str
    uapi: socket.socket
    status: socket.socket | None  # None: switched off, or not to be had


class Means(NamedTuple):
    """What was opened before the fork."""

    tun: Tun
    link: Link
    listeners: Listeners
    key_log: Callable[[HandshakeSecrets], None] | None


def run(options: Options) -> None:
    """Run the interface until its end.

    In the background, the calling process leaves from in here as soon as the interface is ready,
    and the daemon returns.  Raises StartError.
    """
    inherited = inherited_descriptors({options.tun_fd, options.uapi_fd})
    require_descriptors(options.workers)
    prepare_process()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(contextlib.closing(Log(options.interface, options.log_level)))
        notify_socket = options.notify_socket if options.foreground else None
        notifier = stack.enter_context(contextlib.closing(Notifier(notify_socket)))
        key_log = _open_key_log(stack, options)
        tun = stack.enter_context(contextlib.closing(_open_tun(options)))
        link = stack.enter_context(contextlib.closing(_open_link(tun)))
        listeners = _open_listeners(stack, link.name, options)
        report: Callable[[bytes], None] | None = None
        if options.foreground:
            sink = foreground_sink(options.journal_stream)
            on_ready = partial(notifier.ready, f"serving {link.name}")
        else:
            sink = _choose_log(options)
            report = go_to_background(inherited, keep_stderr=_uses_stderr(sink, options))
            on_ready = partial(report, READY)
        try:
            log.start(sink)
            if key_log is not None:
                key_log.start()
            means = Means(tun, link, listeners, None if key_log is None else key_log.tell)
            asyncio.run(_serve(options, means, on_ready, notifier.stopping))
        except Exception as error:
            expected = isinstance(error, (WgpyError, OSError))
            if report is not None or not expected:
                _log.error("failed: %s", _reason(error), exc_info=not expected)
            if report is not None:
                report(_reason(error).encode())
            raise StartError(_reason(error)) from error


async def _serve(
    options: Options,
    means: Means,
    on_ready: Callable[[], None],
    on_end: Callable[[str], None],
) -> None:
    """Be the part with a loop: from the plane to the end of the interface.

    on_end gets the reason.
    """
    tun, link, listeners, key_log = means
    gc.freeze()  # what is here stays
    gc.set_threshold(GC_THRESHOLD)
    await _set_up_link(link, options)
    with contextlib.ExitStack() as stack:
        workers = len(tun.fds)
        plane = stack.enter_context(contextlib.closing(_open_plane(options.aead, workers)))
        open_udp = partial(open_sockets, workers=workers, gso=options.udp_gso, gro=options.udp_gro)
        engine = stack.enter_context(
            contextlib.closing(Engine(plane, tun, link, open_udp, key_log))
        )
        handle_end_signals(engine.end_because)
        if listeners.status is not None:
            take = partial(engine.status, listeners.name)
            status_server = StatusServer(listeners.status.dup(), take)
            stack.enter_context(contextlib.closing(status_server))
        _serve_uapi(stack, engine, listeners.uapi)
        on_ready()
        _log.log(NOTICE, "ready: AEAD %s, workers %d, TUN %s", plane.aead, workers, tun.features)
        try:
            reason = await engine.until_end()
        except LinkDeletedError:
            reason = "interface deleted"
        except DataThreadError as error:
            on_end(str(error))
            raise
        on_end(reason)
        _log.log(NOTICE, "ends: %s", reason)


def _serve_uapi(stack: contextlib.ExitStack, engine: Engine, listener: socket.socket) -> None:
    """Let wg configure the device, until its socket is removed, which ends the interface."""
    server = UapiServer(engine.device.configure, engine.device.snapshot)
    stack.callback(server.close)
    server.serve(listener.dup())  # ours stays open: it guards the identity of the file
    file = _socket_file(listener)
    if file is not None:
        removed = partial(engine.end_because, "socket removed")
        stack.enter_context(contextlib.closing(SocketWatch(file, removed)))
        stack.callback(file.remove)  # first, for a successor may be waiting for the name


# ---- what it opens, and what to say if it cannot ----


def _open_tun(options: Options) -> Tun:
    name = options.interface
    if options.tun_fd is not None:
        try:
            return adopt_tun(beyond_standard(options.tun_fd), offload=options.tun_offload)
        except OSError as error:
            raise StartError(f"WG_TUN_FD is unfit: {error.strerror}") from error
    reasons = {
        errno.ENOENT: "there is no /dev/net/tun: load the module tun",
        errno.ENODEV: "there is no TUN driver: load the module tun",
        errno.ENXIO: "there is no TUN driver: load the module tun",
        errno.ENOTTY: "what is at /dev/net/tun is no TUN device",
        errno.EISDIR: "what is at /dev/net/tun is no TUN device",
        errno.EPERM: "no permission to make an interface: run as root (it takes CAP_NET_ADMIN)",
        errno.EBUSY: f"the interface {name} exists and is in use",
        errno.EINVAL: f"an interface {name} of another kind exists",
    }
    try:
        return open_tun(
            name, queues=options.workers, vnet_hdr=options.vnet_hdr, offload=options.tun_offload
        )
    except OSError as error:
        if error.filename and error.errno in (errno.EACCES, errno.EPERM):
            where = "run as root, or let the container have the device"
            raise StartError(f"no permission for {error.filename}: {where}") from error
        other = f"cannot make the interface {name}: {error.strerror}"
        raise StartError(reasons.get(error.errno or 0, other)) from error


def _open_key_log(stack: contextlib.ExitStack, options: Options) -> KeyLog | None:
    if options.key_log is None:
        return None
    try:
        return stack.enter_context(contextlib.closing(KeyLog(Path(options.key_log))))
    except OSError as error:
        raise StartError(f"WGPY_KEYLOG: {options.key_log}: {error.strerror}") from error


def _open_link(tun: Tun) -> Link:
    try:
        return Link(tun.fds[0])
    except OSError as error:
        raise StartError(f"cannot watch the interface: {error.strerror}") from error


async def _set_up_link(link: Link, options: Options) -> None:
    if options.tun_fd is not None:
        with contextlib.suppress(OSError):  # moved just now
            if await link.has_packet_information():
                raise StartError("WG_TUN_FD is unfit: it has packet information (no IFF_NO_PI)")
        return
    try:
        await link.set(mtu=DEFAULT_MTU)
    except OSError as error:  # it works without
        _log.info("cannot set the MTU to %d: %s", DEFAULT_MTU, error.strerror)


def _open_listeners(stack: contextlib.ExitStack, name: str, options: Options) -> Listeners:
    """Open them for as long as the stack, and their files too, if they have any."""
    uapi = stack.enter_context(_open_uapi(name, options))
    _remove_at_end(stack, uapi)
    status = _open_status(name, options)
    if status is not None:
        stack.enter_context(status)
        _remove_at_end(stack, status)
    return Listeners(name, uapi, status)


def _remove_at_end(stack: contextlib.ExitStack, listener: socket.socket) -> None:
    file = _socket_file(listener)
    if file is not None:
        stack.callback(file.remove)


def _open_uapi(name: str, options: Options) -> socket.socket:
    try:
        if options.uapi_fd is not None:
            return adopt_socket(beyond_standard(options.uapi_fd))
        trust = options.trust_socket_dir
        return open_socket(name, group=options.socket_gid, trust_directory=trust)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"the socket {error.filename} is in use") from error
        path = error.filename or DIRECTORY / f"{name}.sock"
        given = "WG_UAPI_FD" if options.uapi_fd is not None else path
        raise StartError(f"cannot listen on {given}: {error.strerror}") from error


def _open_status(name: str, options: Options) -> socket.socket | None:
    """Return none, and say why, where there can be none: carrying packets needs no status."""
    if not options.status:
        return None
    try:
        return open_socket(
            name,
            STATUS_DIRECTORY,
            STATUS_SUFFIX,
            group=options.status_gid,
            trust_directory=options.trust_socket_dir,
        )
    except OSError as error:
        unprivileged = error.errno in (errno.EACCES, errno.EROFS) and options.status_gid is None
        level = logging.INFO if unprivileged else logging.ERROR
        path = error.filename or STATUS_DIRECTORY
        _log.log(level, "there is no status socket: %s: %s", path, error.strerror)
        return None


def _socket_file(listener: socket.socket) -> SocketFile | None:
    """Return none for a given socket that has no file to watch and to remove."""
    try:
        return SocketFile.of(listener)
    except OSError:
        return None


def _open_plane(aead: str | None, workers: int) -> Plane:
    try:
        return Plane(aead, workers)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise StartError(f"WGPY_AEAD: there is no {aead!r} here") from error
        raise


# ---- process and log ----


def _reason(error: Exception) -> str:
    """Say why, for the user."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _choose_log(options: Options) -> Sink:
    """Choose where the daemon in the background logs; without any such place tell the caller."""
    try:
        return background_sink(SYSLOG, LOG_FILE, stderr=options.keep_stderr)
    except OSError as error:
        print(f"wgpy: nothing is logged: {error.filename}: {error.strerror}", file=sys.stderr)
        return foreground_sink("")  # which is /dev/null then


def _uses_stderr(sink: Sink, options: Options) -> bool:
    return options.keep_stderr and isinstance(sink, Stream)
