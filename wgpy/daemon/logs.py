# SPDX-License-Identifier: MIT
"""The daemon's log: nobody waits for whoever reads it.

The reader may be a pipe that is full or a syslogd that hangs.  So a thread writes, and may wait as
long as it takes; the queue in front of it is bounded, and what does not fit is counted and told of
as soon as somebody reads again ("N lines lost").  No descriptor is made non-blocking for that:
stderr is shared, and O_NONBLOCK would hold for all who share it.

The thread begins with start(), after the fork; what is logged before that is kept.
"""

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from wgpy.linux.streams import STDERR
from wgpy.log import NOTICE

QUEUE_LEN: Final = 1 << 17  # bytes that wait for a reader; as many may be with the thread
FILE_LEN: Final = 1 << 20  # bytes after which a log file begins anew
LAST_WORDS_S: Final = 1.0  # for what waits at the end, if nobody reads
FACILITY_DAEMON: Final = 3 << 3  # syslog(3)
SEVERITIES: Final = {  # syslog(3)
    logging.DEBUG: 7,
    logging.INFO: 6,
    NOTICE: 5,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Courier(Generic[_T]):
    """Hands things to a function that may block, in their order; put() and close() do not."""

    def __init__(self, deliver: Callable[[Sequence[_T], int], None], capacity: int) -> None:
        """Keep things up to a capacity, in the unit of put().

        `deliver` gets them, and how many units of later ones were lost.  Its thread starts with
        start(), so that a fork can come before.
        """
        self._deliver = deliver
        self._capacity = capacity
        self._changed = threading.Condition()
        self._things: list[_T] = []
        self._taken = 0  # of the capacity
        self._lost = 0
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to deliver.  Raises RuntimeError if the system has no thread left for us."""
        thread = threading.Thread(target=self._run, name="wgpy-courier", daemon=True)
        thread.start()
        self._thread = thread

    def put(self, thing: _T, size: int = 1) -> None:
        """Have it delivered, or counted as lost if there is no room."""
        with self._changed:
            if self._lost or self._taken + size > self._capacity:
                self._lost += 1  # the later ones too: what is told of stands where it is missing
                return
            self._things.append(thing)
            self._taken += size
            self._changed.notify()

    def close(self) -> None:
        """Take no more, and wait a moment for what is not delivered.  More than once is fine."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(LAST_WORDS_S)
            self._thread = None

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())  # for the main thread
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._things or self._lost or self._closing)
                things, lost = self._things, self._lost
                if not things and not lost:
                    return
                self._things, self._taken, self._lost = [], 0, 0
            self._deliver(things, lost)


class Line(NamedTuple):
    """What is logged at once; it has several rows if there is a traceback."""

    level: int
    created: float  # Unix time, seconds
    text: str

    def rows(self, prefix: str) -> list[bytes]:
        """Return what to write, each row with the prefix and none with its end."""
        return [(prefix + row).encode(errors="backslashreplace") for row in self.text.split("\n")]


class Sink(Protocol):
    """Where lines go."""

    def write(self, line: Line) -> None:
        """Write a line, however long that takes.  Raises OSError if it is lost."""


class Log(logging.Handler):
    """All that is logged in this process from now on, to one sink."""

    def __init__(self, interface: str, level: int) -> None:
        """Keep what is logged; what is lower than level is not.  Every line names the interface."""
        super().__init__()
        self._interface = interface
        self._sink: Sink | None = None
        self._lost = 0
        self._courier: Courier[Line] = Courier(self._write, QUEUE_LEN)
        others = max(level, logging.WARNING)  # what libraries tell is for their makers
        wanted = {logging.getLogger(): others, logging.getLogger("wgpy"): level}
        self._levels = {logger: logger.level for logger in wanted}
        _set_levels(wanted)
        logging.getLogger().addHandler(self)
        # What is there by default writes to stderr, and waits.
        self._hooks = sys.unraisablehook, threading.excepthook
        sys.unraisablehook = _on_unraisable
        threading.excepthook = _on_death_of_thread

    def start(self, sink: Sink) -> None:
        """Write what was kept, and what comes.  Raises RuntimeError without a thread for it."""
        self._sink = sink
        self._courier.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Have it written (for logging.Handler)."""
        try:
            text = f"{self._interface}: {self.format(record)}"
        except Exception as error:
            text = f"{self._interface}: cannot be told: {record.msg!r}: {error!r}"
        line = Line(record.levelno, record.created, text)
        self._courier.put(line, len(text))

    def close(self) -> None:
        """Wait a moment for what is not written.  More than once is fine."""
        self._courier.close()
        logging.getLogger().removeHandler(self)
        _set_levels(self._levels)
        sys.unraisablehook, threading.excepthook = self._hooks
        super().close()

    def _write(self, lines: Sequence[Line], lost: int) -> None:
        for line in lines:
            self._write_one(line)
        self._lost += lost
        self._tell_lost()

    def _write_one(self, line: Line) -> None:
        assert self._sink is not None, "start() comes before the thread"
        self._tell_lost()
        try:
            self._sink.write(line)
        except OSError:
            self._lost += 1

    def _tell_lost(self) -> None:
        if not self._lost or self._sink is None:
            return
        text = f"{self._interface}: {self._lost} lines lost"
        with contextlib.suppress(OSError):
            self._sink.write(Line(logging.ERROR, time.time(), text))
            self._lost = 0


def _set_levels(levels: dict[logging.Logger, int]) -> None:
    for logger, level in levels.items():
        logger.setLevel(level)


def _on_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    where = unraisable.err_msg or "exception ignored in"
    _log.error("%s: %r", where, unraisable.object, exc_info=unraisable.exc_value)


def _on_death_of_thread(arguments: threading.ExceptHookArgs) -> None:
    _log.error("a thread failed", exc_info=arguments.exc_value)


def say(text: str) -> None:
    """Write a line to stderr as the last act of a process, whether somebody reads it or not."""
    line = Line(logging.ERROR, 0.0, text)
    stderr = Stream(STDERR, lambda _: "")

    def write(_: Sequence[None], __: int) -> None:
        with contextlib.suppress(OSError):
            stderr.write(line)

    courier: Courier[None] = Courier(write, 1)
    courier.put(None)
    courier.start()
    courier.close()


# ---- sinks ----


def with_time(line: Line) -> str:
    """Return the prefix of a line for people."""
    seconds = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.created))
    milliseconds = int(line.created % 1 * 1000)
    return f"{seconds},{milliseconds:03d} {logging.getLevelName(line.level)} "


def with_severity(line: Line) -> str:
    """Return the prefix of a line for the journal, which knows the time: see sd-daemon(3)."""
    return f"<{_severity(line)}>"


def _severity(line: Line) -> int:
    return SEVERITIES.get(line.level, SEVERITIES[logging.INFO])


class Stream:
    """A descriptor that belongs to others too."""

    def __init__(self, fd: int, prefix: Callable[[Line], str]) -> None:
        """Write to fd, each row with what prefix says."""
        self._fd = fd
        self._prefix = prefix

    def write(self, line: Line) -> None:
        """Write a line; at once, so that the lines of others stay whole."""
        _write_all(self._fd, b"".join(row + b"\n" for row in line.rows(self._prefix(line))))


def _write_all(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # one of the others made it non-blocking
            writable = select.poll()
            writable.register(fd, select.POLLOUT)
            writable.poll()


class Syslog:
    """The system's log daemon: see syslog(3).  It may go and come again."""

    def __init__(self, path: Path) -> None:
        """Connect to the socket at this path.  Raises OSError if nobody listens there."""
        self._path = path
        self._socket: socket.socket | None = None
        with self._connect(blocking=False):
            pass

    def write(self, line: Line) -> None:
        """Write a line, each row as a message of its own."""
        prefix = f"<{FACILITY_DAEMON | _severity(line)}>wgpy[{os.getpid()}]: "
        for row in line.rows(prefix):
            self._send(row)

    def _send(self, message: bytes) -> None:
        if self._socket is not None:
            try:
                self._socket.sendall(message + self._terminator())
                return
            except OSError:  # a new one may have come in its place
                self._socket.close()
                self._socket = None
        self._socket = self._connect(blocking=True)
        self._socket.sendall(message + self._terminator())

    def _terminator(self) -> bytes:
        assert self._socket is not None, "it is connected"
        return b"\0" if self._socket.type == socket.SOCK_STREAM else b""

    def _connect(self, *, blocking: bool) -> socket.socket:
        """Connect to a socket of either type; if not to wait, one with a full queue counts too."""
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with contextlib.ExitStack() as stack:
                sock = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
                sock.setblocking(blocking)
                code = sock.connect_ex(os.fspath(self._path))
                if code in (0, errno.EAGAIN):
                    stack.pop_all()
                    return sock
                if code != errno.EPROTOTYPE:
                    break
        raise OSError(code, os.strerror(code), os.fspath(self._path))


class LogFile:
    """A file that is opened for each line, so that it may be removed, and never grows large."""

    def __init__(self, path: Path) -> None:
        """Open the file.  OSError: it cannot be written, or others could write it too."""
        self._path = path
        os.close(self._open())

    def write(self, line: Line) -> None:
        """Append a line; a file that is full begins anew."""
        fd = self._open()
        try:
            if os.fstat(fd).st_size >= FILE_LEN:
                os.ftruncate(fd, 0)
            Stream(fd, with_time).write(line)
        finally:
            os.close(fd)

    def _open(self) -> int:
        """Open it, but not what others put into a directory that they can write."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(self._path, flags, 0o600)
        status = os.fstat(fd)
        ours = status.st_uid == os.geteuid() and status.st_nlink <= 1
        if not (stat.S_ISREG(status.st_mode) and ours):
            os.close(fd)
            raise OSError(errno.EPERM, "not a file of ours", os.fspath(self._path))
        return fd


def foreground_sink(journal_stream: str) -> Sink:
    """Return stderr, for the journal if that is what reads it."""
    return Stream(STDERR, with_severity if goes_to_journal(STDERR, journal_stream) else with_time)


def background_sink(syslog: Path, file: Path, *, stderr: bool) -> Sink:
    """Return the first of these that is there: the syslog, stderr if it may be kept, a log file.

    Raises OSError if there is none.
    """
    with contextlib.suppress(OSError):
        return Syslog(syslog)
    return Stream(STDERR, with_time) if stderr else LogFile(file)


def goes_to_journal(fd: int, journal_stream: str) -> bool:
    """Tell whether fd is the one that JOURNAL_STREAM says (`device:inode`), by systemd.exec(5).

    The variable alone does not say so: it is inherited, and the descriptor may be another by now.
    """
    with contextlib.suppress(OSError):
        status = os.fstat(fd)
        return journal_stream == f"{status.st_dev}:{status.st_ino}"
    return False
