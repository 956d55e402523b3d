# SPDX-License-Identifier: MIT
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
from typing import TYPE_CHECKING, NamedTuple

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
from wgpy.daemon.systemd import Notifier
from wgpy.dataplane.plane import Plane
from wgpy.engine import Engine
from wgpy.errors import DataThreadError, LinkDeletedError, StartError, WgpyError
from wgpy.linux.link import Link
from wgpy.linux.refusals import why_no_interface
from wgpy.linux.sockets import open_sockets
from wgpy.linux.tun import DEFAULT_MTU, Tun, adopt_tun, open_tun
from wgpy.listeners import Access, Listeners, open_listeners, serve
from wgpy.log import NOTICE
from wgpy.uapi.socket_file import DIRECTORY, adopt_socket

if TYPE_CHECKING:
    from wgpy.daemon.key_log import KeyLog
    from wgpy.protocol.noise import HandshakeSecrets

SYSLOG = Path("/dev/log")
LOG_FILE = DIRECTORY / "wgpy.log"  # in the background, where nothing else takes the log
GC_THRESHOLD = 100_000  # objects; the default of 700 takes a third of a big request's time

_log = logging.getLogger(__name__)


class Means(NamedTuple):
    """What was opened before the fork."""

    tun: Tun
    link: Link
    listeners: Listeners
    key_log: "Callable[[HandshakeSecrets], None] | None"


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
    _set_up_link(link, options)
    with contextlib.ExitStack() as stack:
        workers = len(tun.fds)
        plane = stack.enter_context(contextlib.closing(_open_plane(options, workers)))
        open_udp = partial(open_sockets, workers=workers, gso=options.udp_gso, gro=options.udp_gro)
        engine = stack.enter_context(
            contextlib.closing(Engine(plane, tun, link, open_udp, key_log))
        )
        handle_end_signals(engine.end_because)
        serve(stack, engine, listeners, engine.device.changing)
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


# ---- what it opens, and what to say if it cannot ----


def _open_tun(options: Options) -> Tun:
    name = options.interface
    if options.tun_fd is not None:
        try:
            return adopt_tun(beyond_standard(options.tun_fd), offload=options.tun_offload)
        except OSError as error:
            raise StartError(f"WG_TUN_FD is unfit: {error.strerror}") from error
    try:
        return open_tun(
            name, queues=options.workers, vnet_hdr=options.vnet_hdr, offload=options.tun_offload
        )
    except OSError as error:
        raise StartError(why_no_interface(name, error)) from error


def _open_key_log(stack: contextlib.ExitStack, options: Options) -> "KeyLog | None":
    if options.key_log is None:
        return None
    from wgpy.daemon.key_log import KeyLog

    try:
        return stack.enter_context(contextlib.closing(KeyLog(Path(options.key_log))))
    except OSError as error:
        raise StartError(f"WGPY_KEYLOG: {options.key_log}: {error.strerror}") from error


def _open_link(tun: Tun) -> Link:
    try:
        return Link(tun.fds[0])
    except OSError as error:
        raise StartError(f"cannot watch the interface: {error.strerror}") from error


def _set_up_link(link: Link, options: Options) -> None:
    if options.tun_fd is not None:
        with contextlib.suppress(OSError):  # moved just now
            if link.has_packet_information():
                raise StartError("WG_TUN_FD is unfit: it has packet information (no IFF_NO_PI)")
        return
    try:
        link.set(mtu=DEFAULT_MTU)
    except OSError as error:  # it works without
        _log.info("cannot set the MTU to %d: %s", DEFAULT_MTU, error.strerror)


def _open_listeners(stack: contextlib.ExitStack, name: str, options: Options) -> Listeners:
    access = Access(
        group=options.socket_gid,
        status_group=options.status_gid,
        has_status=options.status,
        trust_directory=options.trust_socket_dir,
    )
    given = None if options.uapi_fd is None else _adopt_uapi(options.uapi_fd)
    return open_listeners(stack, name, access, given)


def _adopt_uapi(fd: int) -> socket.socket:
    try:
        return adopt_socket(beyond_standard(fd))
    except OSError as error:
        raise StartError(f"cannot listen on WG_UAPI_FD: {error.strerror}") from error


def _open_plane(options: Options, workers: int) -> Plane:
    try:
        return Plane(options.aead, workers, options.lanes)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise StartError(f"WGPY_AEAD: there is no {options.aead!r} here") from error
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
