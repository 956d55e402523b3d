# SPDX-License-Identifier: MIT
"""The process: its signals, what it has open, and its way to the background."""

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from wgpy.daemon.logs import say
from wgpy.errors import StartError
from wgpy.linux.libc import forbid_core_dumps, set_process_name
from wgpy.linux.streams import STDERR

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
# Descriptors: what it has open, netlink requests and a few clients of wg; what each worker adds,
# and another pair of sockets for the time of a change of port.
DESCRIPTORS, DESCRIPTORS_PER_WORKER = 32, 6
DESCRIPTORS_TRIED = 1 << 16  # for open ones of the caller, where no /proc tells
DESCRIPTORS_LIMIT = 1024  # Linux's default; a lower one is raised to this as far as it may be
READY = b"\0"  # from the daemon to its caller; anything else says why it failed


def prepare_process() -> None:
    """Block the signals that end us until handle_end_signals, and keep keys out of core files."""
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    for number in IGNORED_SIGNALS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # not even that is permitted
        forbid_core_dumps()
        set_process_name("wgpy")


def handle_end_signals(end_because: Callable[[str], None]) -> None:
    """Have the running loop call it with the name of each signal that ends us."""
    loop = asyncio.get_running_loop()
    for number in END_SIGNALS:
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue  # nohup(1)
        loop.add_signal_handler(number, end_because, signal.Signals(number).name)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)


def inherited_descriptors(given: set[int | None]) -> list[int]:
    """Return what the caller left open but did not give us.

    What libraries keep open for themselves is not that: it would not outlive an exec.
    """
    meant = {0, 1, 2, *given}
    listed: Iterable[int]
    try:
        listed = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # no /proc
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        listed = range(DESCRIPTORS_TRIED if soft < 0 else min(soft, DESCRIPTORS_TRIED))
    return [fd for fd in listed if fd not in meant and _outlives_exec(fd)]


def _outlives_exec(fd: int) -> bool:
    try:
        return not fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    except OSError:
        return False  # it is not open


def beyond_standard(fd: int) -> int:
    """Return it, or another for the same if it is a number that /dev/null or the log gets."""
    return fd if fd > STDERR else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, STDERR + 1)


def require_descriptors(workers: int) -> None:
    """See to it that what so many workers take can be open.  Raises StartError."""
    count = DESCRIPTORS + DESCRIPTORS_PER_WORKER * workers
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


def go_to_background(inherited: list[int], *, keep_stderr: bool = False) -> Callable[[bytes], None]:
    """Return, in the daemon, the way to report READY or why there was none, once.

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
    """Never return, nor unwind: what is open belongs to the daemon now."""
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
