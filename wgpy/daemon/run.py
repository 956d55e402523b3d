"""One interface from birth to death.

Rule: everything is opened on an ExitStack in the order TUN, UAPI socket, (fork), loop, plane,
device, UAPI server, and closed in the reverse.  A signal, a deleted interface, a removed socket and
a dead data thread all end it the same way; only the last is a failure.

When the caller gets its prompt back, the interface exists, has its settings and is watched: wg-
quick configures it, and others rename or move it, at once.  The fork comes before any thread or
event loop.
"""

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from wgpy.daemon.logs import (
    STDERR,
    Log,
    Sink,
    Stream,
    background_sink,
    foreground_sink,
    say,
)
from wgpy.daemon.systemd import Notifier
from wgpy.dataplane.plane import Plane
from wgpy.device import Device
from wgpy.errors import DataThreadError, LinkDeletedError, StartError, WgpyError
from wgpy.linux.boottime import BoottimeScheduler
from wgpy.linux.link import Link
from wgpy.linux.routes import RouteWatch
from wgpy.linux.sockets import open_sockets
from wgpy.linux.tun import DEFAULT_MTU, Tun, adopt_tun, open_tun
from wgpy.log import NOTICE
from wgpy.uapi.server import UapiServer
from wgpy.uapi.socket_file import DIRECTORY, SocketFile, SocketWatch, adopt_socket, open_socket

END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU)
IGNORED_SIGNALS = (  # they would end us out of order, if nobody cared
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGPIPE,
    signal.SIGIO,
    signal.SIGPWR,
    getattr(signal, "SIGSTKFLT", 16),  # which Python 3.10 does not name
    signal.SIGXFSZ,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)
PR_SET_DUMPABLE = 4  # <linux/prctl.h>
PR_SET_NAME = 15
SYSLOG = Path("/dev/log")
LOG_FILE = DIRECTORY / "wgpy.log"  # in the background, where nothing else takes the log
STDOUT = 1
# Descriptors: what it has open, netlink requests and a few clients of wg; what each worker adds,
# and another pair of sockets for the time of a change of port.
DESCRIPTORS, DESCRIPTORS_PER_WORKER = 32, 6
DESCRIPTORS_TRIED = 1 << 16  # for open ones of the caller, where no /proc tells
DESCRIPTORS_LIMIT = 1024  # Linux's default; a lower one is raised to this as far as it may be
GC_THRESHOLD = 100_000  # objects; the default of 700 takes a third of a big request's time
READY = b"\0"  # from the daemon to its caller; anything else says why it failed

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line and the environment ask for."""

    interface: str
    foreground: bool = False
    log_level: int = NOTICE
    keep_stderr: bool = False  # in the background too, to log there if there is no syslog
    aead: str | None = None  # None: the fastest
    tun_fd: int | None = None  # an open TUN queue to use
    uapi_fd: int | None = None  # a listening socket to use
    socket_gid: int | None = None  # a group that may use the socket too
    trust_socket_dir: bool = False  # whoever owns it or can write to it
    notify_socket: str | None = None  # where a service manager listens
    journal_stream: str = ""  # the descriptor that is the journal's, if one is: "device:inode"
    tun_offload: bool = True
    vnet_hdr: bool = True
    udp_gso: bool = True
    udp_gro: bool = True
    workers: int = 1  # data threads per direction, if the TUN has as many queues


def run(options: Options) -> None:
    """Runs the interface until its end.

    In the background, the calling process leaves from in here as soon as the interface is ready,
    and the daemon returns.  Raises StartError.
    """
    inherited = _inherited_descriptors(options)
    _require_descriptors(DESCRIPTORS + DESCRIPTORS_PER_WORKER * options.workers)
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)  # until the loop handles them
    for number in IGNORED_SIGNALS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # no keys in core files
    libc.prctl(PR_SET_NAME, b"wgpy", 0, 0, 0)  # for ps(1), which would say python3
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(contextlib.closing(Log(options.interface, options.log_level)))
        notify_socket = options.notify_socket if options.foreground else None
        notifier = stack.enter_context(contextlib.closing(Notifier(notify_socket)))
        tun = stack.enter_context(contextlib.closing(_open_tun(options)))
        link = stack.enter_context(contextlib.closing(_open_link(tun)))
        listener = stack.enter_context(_open_uapi(link.name, options))
        file = _socket_file(listener)
        if file is not None:
            stack.callback(file.remove)
        report: Callable[[bytes], None] | None = None
        if options.foreground:
            sink = foreground_sink(options.journal_stream)
            on_ready = partial(notifier.ready, f"serving {link.name}")
        else:
            sink = _choose_log(options)
            report = _go_to_background(inherited, keep_stderr=_uses_stderr(sink, options))
            on_ready = partial(report, READY)
        try:
            log.start(sink)
            asyncio.run(_serve(options, tun, link, listener, file, on_ready, notifier.stopping))
        except Exception as error:
            expected = isinstance(error, (WgpyError, OSError))
            if report is not None or not expected:
                _log.error("failed: %s", _reason(error), exc_info=not expected)
            if report is not None:
                report(_reason(error).encode())
            raise StartError(_reason(error)) from error


async def _serve(
    options: Options,
    tun: Tun,
    link: Link,
    listener: socket.socket,
    file: SocketFile | None,
    on_ready: Callable[[], None],
    on_end: Callable[[str], None],
) -> None:
    """The part with a loop: from the plane to the end of the interface; on_end gets the reason."""
    gc.freeze()  # what is here stays
    gc.set_threshold(GC_THRESHOLD)
    loop = asyncio.get_running_loop()
    end: asyncio.Future[str] = loop.create_future()

    def end_because(reason: str) -> None:
        if not end.done():
            end.set_result(reason)

    def end_with(task: asyncio.Task[NoReturn]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not end.done():
            end.set_exception(error)

    with contextlib.ExitStack() as stack:
        for number in END_SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup(1)
            loop.add_signal_handler(number, end_because, signal.Signals(number).name)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)

        workers = len(tun.fds)
        plane = stack.enter_context(contextlib.closing(_open_plane(options.aead, workers)))
        open_udp = partial(open_sockets, workers=workers, gso=options.udp_gso, gro=options.udp_gro)
        scheduler = stack.enter_context(contextlib.closing(BoottimeScheduler(loop)))
        device = Device(plane, open_udp, scheduler, tun.fds, tun.features)
        stack.enter_context(contextlib.closing(device))

        loop.add_reader(plane.event_fd, _on_plane_event, plane, device, end)
        stack.callback(loop.remove_reader, plane.event_fd)
        watch = RouteWatch(device, lambda: link.index)
        device.on_suspicion = watch.suspect
        await _set_up_link(link, options)
        for endless in (
            link.watch(device.up, device.down, plane.set_mtu),
            watch.run(),
        ):
            task = asyncio.create_task(endless)
            task.add_done_callback(end_with)
            stack.callback(task.cancel)

        server = UapiServer(device.configure, device.snapshot)
        stack.callback(server.close)
        server.serve(listener.dup())  # ours stays open: it guards the identity of the file
        if file is not None:
            removed = partial(end_because, "socket removed")
            stack.enter_context(contextlib.closing(SocketWatch(file, removed)))
            stack.callback(file.remove)  # first, for a successor may be waiting for the name
        on_ready()
        _log.log(NOTICE, "ready: AEAD %s, workers %d, TUN %s", plane.aead, workers, tun.features)
        try:
            reason = await end
        except LinkDeletedError:
            reason = "interface deleted"
        except DataThreadError as error:
            on_end(str(error))
            raise
        on_end(reason)
        _log.log(NOTICE, "ends: %s", reason)


def _on_plane_event(plane: Plane, device: Device, end: "asyncio.Future[str]") -> None:
    """What the plane's event_fd is readable for.

    A look at the failure comes last: taking events makes the event_fd silent, also about a data
    thread that ended just then.
    """
    device.on_events()
    if plane.failure is not None and not end.done():
        end.set_exception(_cause_of_death(plane.failure))


def _cause_of_death(failure: OSError) -> Exception:
    """What became of the interface when a data thread ended by itself."""
    if failure.errno == errno.EBADFD:
        return LinkDeletedError()
    return DataThreadError(f"a data thread died: {failure.strerror}")


# ---- what it opens, and what to tell the user when that fails ------------------------------------


def _open_tun(options: Options) -> Tun:
    name = options.interface
    if options.tun_fd is not None:
        try:
            return adopt_tun(_beyond_standard(options.tun_fd), offload=options.tun_offload)
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


def _open_uapi(name: str, options: Options) -> socket.socket:
    try:
        if options.uapi_fd is not None:
            return adopt_socket(_beyond_standard(options.uapi_fd))
        trust = options.trust_socket_dir
        return open_socket(name, group=options.socket_gid, trust_directory=trust)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"the socket {error.filename} is in use") from error
        path = error.filename or DIRECTORY / f"{name}.sock"
        given = "WG_UAPI_FD" if options.uapi_fd is not None else path
        raise StartError(f"cannot listen on {given}: {error.strerror}") from error


def _socket_file(listener: socket.socket) -> SocketFile | None:
    """None for a given socket that has no file to watch and to remove."""
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


# ---- process and log -----------------------------------------------------------------------------


def _inherited_descriptors(options: Options) -> list[int]:
    """What the caller left open but did not mean for us; call it before anything is opened."""
    meant = {0, 1, 2, options.tun_fd, options.uapi_fd}
    listed: Iterable[int]
    try:
        listed = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # no /proc
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        listed = range(DESCRIPTORS_TRIED if soft < 0 else min(soft, DESCRIPTORS_TRIED))
    return [fd for fd in listed if fd not in meant and _is_open(fd)]


def _is_open(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def _beyond_standard(fd: int) -> int:
    """The descriptor, or another for the same if it is one that /dev/null or the log gets."""
    return fd if fd > STDERR else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, STDERR + 1)


def _require_descriptors(count: int) -> None:
    """Sees to it that so many more can be open.  Raises StartError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < DESCRIPTORS_LIMIT:
        allowed = DESCRIPTORS_LIMIT if hard == resource.RLIM_INFINITY else hard
        soft = min(DESCRIPTORS_LIMIT, allowed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    fds: list[int] = []
    try:
        while len(fds) < count:
            fds.append(os.dup(STDERR))
    except OSError as error:
        more = f"{error.strerror}: it takes {count} more (see ulimit -n)"
        raise StartError(more) from error
    finally:
        for fd in fds:
            os.close(fd)


def _reason(error: Exception) -> str:
    """Why, for the user."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _go_to_background(
    inherited: list[int], *, keep_stderr: bool = False
) -> Callable[[bytes], None]:
    """Returns, in the daemon, the way to report READY or why there was none, once.

    The calling process ends in here with the daemon's first report.  The daemon belongs to no
    terminal or session and keeps nothing of the caller's open, but stderr if that is asked for.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child:
        os.close(write_fd)
        _leave_when_ready(child, read_fd)
    os.close(read_fd)
    os.setsid()
    if os.fork():
        os._exit(0)  # a session leader could get a terminal
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1) if keep_stderr else (0, 1, 2):
        os.dup2(null, fd)
    for fd in (null, *inherited):
        os.close(fd)
    pipe = os.fdopen(write_fd, "wb", buffering=0)

    def report(message: bytes) -> None:
        if not pipe.closed:
            with pipe:
                pipe.write(message)

    return report


def _leave_when_ready(child: int, read_fd: int) -> NoReturn:
    """Never returns, nor unwinds: what is open belongs to the daemon now."""
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
        os.waitpid(child, 0)
        with os.fdopen(read_fd, "rb") as pipe:
            message = pipe.read()
        if message == READY:
            status = 0
        else:
            say(f"wgpy: {message.decode() or 'ended before it was ready'}")
    finally:
        os._exit(status)


def _choose_log(options: Options) -> Sink:
    """Where the daemon in the background logs; without any such place the caller is told."""
    try:
        return background_sink(SYSLOG, LOG_FILE, stderr=options.keep_stderr)
    except OSError as error:
        print(f"wgpy: nothing is logged: {error.filename}: {error.strerror}", file=sys.stderr)
        return foreground_sink("")  # which is /dev/null then


def _uses_stderr(sink: Sink, options: Options) -> bool:
    return options.keep_stderr and isinstance(sink, Stream)
