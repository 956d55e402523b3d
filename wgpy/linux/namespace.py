# SPDX-License-Identifier: MIT
"""A private network and what is asked of its keeper (wgpy.linux.keeper), for asyncio.

Letters go over two channels.  Over one, requests are answered whenever their answer is there; over
the other, one at a time, at once: a socket is had in less time than a turn of the loop takes, and
from any thread.
"""

import asyncio
import contextlib
import errno
import fcntl
import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wgpy.errors import StartError
from wgpy.linux import parcels
from wgpy.linux.parcels import Letter
from wgpy.linux.refusals import why_not
from wgpy.linux.spaces import open_spaces
from wgpy.linux.tun import Tun
from wgpy.ports import Feature

ROOT: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Isolated and without site-packages, but for us: it needs nothing else and starts in half the time.
PROGRAM: Final = (
    "import sys; sys.path.append(sys.argv.pop(1)); from wgpy.linux.keeper import main; main()"
)
SOCKET_PATIENCE_S: Final = 10.0  # 30 us are usual; a stopped keeper is not to stop its host
END_PATIENCE_S: Final = 5.0  # 40 ms are usual
LOOK_UPS_MAX: Final = 32  # at a time; each is a process

Found = Sequence[tuple[int, int, int, str, tuple[Any, ...]]]  # what socket.getaddrinfo returns


@dataclass(frozen=True, slots=True)
class Command:
    """A command in there: its PID where we live, and the pidfd by which it gets signals.

    `status` becomes its exit status, or the number of the signal that killed it, negated.
    """

    pid: int
    status: asyncio.Future[int]
    _pidfd: int

    def send_signal(self, number: int) -> None:
        """Send a signal.  Raises ProcessLookupError once it has ended."""
        if self.status.done():
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        signal.pidfd_send_signal(self._pidfd, number)


class Namespace:
    """The private network of one keeper.  `tun` and the netlink sockets are its own to close.

    `hints` is for notifications, `requests` for requests; both know this network only.  `lacks`
    says what was not permitted, a sentence each.
    """

    tun: Tun
    hints: socket.socket
    requests: socket.socket
    lacks: Sequence[str] = ()

    def __init__(self) -> None:
        """Start the keeper, from the running loop.  Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()  # with the keeper
        self._reaped: asyncio.Future[None] = self._loop.create_future()
        self._ids = itertools.count()
        self._answers: dict[int, asyncio.Future[tuple[Letter, list[int]]]] = {}
        self._commands: dict[int, asyncio.Future[int]] = {}
        self._kill: asyncio.TimerHandle | None = None  # while it is waited for
        self._lock = threading.Lock()
        self._look_ups = asyncio.Semaphore(LOOK_UPS_MAX)
        self._owned = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            control, sockets = (_pair(stack) for _ in range(2))
            self._pid = _spawn(control.theirs, sockets.theirs)
        self._control, self._sockets = control.ours, sockets.ours
        self._control.setblocking(False)
        self._sockets.settimeout(SOCKET_PATIENCE_S)
        self._pidfd = os.pidfd_open(self._pid)
        self._loop.add_reader(self._control, self._on_letter)
        self._loop.add_reader(self._pidfd, self._reap)

    async def start(self, name: str, resolv_conf: str | None = None, **tun: Any) -> None:
        """Make the network, with a TUN as open_tun makes it, and resolv.conf as it is to be.

        Raises StartError, which says what the host does not permit.
        """
        request = {"do": "start", "name": name, "resolv_conf": resolv_conf, "tun": tun}
        try:
            answer, fds = await self._ask(request)
        except OSError as error:
            step = error.filename or "keeper"
            reason = error.strerror or str(error)
            raise StartError(why_not(step, error.errno or 0, reason)) from error
        *queues, hints, requests = fds
        self.hints = self._owned.enter_context(socket.socket(fileno=hints))
        self.requests = self._owned.enter_context(socket.socket(fileno=requests))
        self.tun = Tun(tuple(queues), Feature(answer["features"]))
        self._owned.callback(self.tun.close)
        self.lacks = answer["lacks"]

    def open_spaces(self) -> list[int]:
        """Return descriptors of its namespaces, as wgpy.linux.spaces has them.  Raises OSError."""
        return open_spaces(self._pid)

    async def close(self) -> None:
        """End all that runs in there, and wait until it has."""
        self._owned.close()
        self._loop.remove_reader(self._control)
        with contextlib.suppress(OSError):  # the keeper is gone
            # A child that the program forked may hold copies, so to close ours is not enough.
            self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()
        with self._lock:
            self._sockets.close()
        self._fail()
        if not self._reaped.done():  # one that somebody stopped hears nothing
            kill = (self._pidfd, signal.SIGKILL)
            self._kill = self._loop.call_later(END_PATIENCE_S, signal.pidfd_send_signal, *kill)
        await asyncio.shield(self._reaped)

    def socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        """Return a socket of this network; any thread may ask.  Raises OSError."""
        request = {"family": family, "type": kind, "protocol": protocol, "id": next(self._ids)}
        with self._lock:
            if self._sockets.fileno() < 0:
                raise _gone()
            with _telling_of_the_end():
                parcels.send(self._sockets, request)
            while (parcel := parcels.receive(self._sockets)) is not None:
                answer, fds = parcel
                if answer["id"] == request["id"]:
                    break
                _close(fds)  # of a request that was given up
            else:
                raise _gone()
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        return socket.socket(fileno=_required(fds)[0])

    async def getaddrinfo(self, host: bytes | None, port: str | int | None, *hints: int) -> Found:
        """Look a name up in there: family, type, protocol and flags are the hints.

        Raises socket.gaierror, OSError.
        """
        name = None if host is None else os.fsdecode(host)
        request = {"do": "look up", "arguments": [name, port, *hints]}
        async with self._look_ups:
            answer, _ = await self._ask(request)
        if "gaierror" in answer:
            raise socket.gaierror(*answer["gaierror"])
        if "found" not in answer:
            raise OSError(errno.EIO, "the look-up ended without an answer")
        return [(*found, tuple(address)) for *found, address in answer["found"]]

    async def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: str,
        stdio: tuple[int, int, int],
    ) -> Command:
        """Start a command with these descriptors as its first.  Raises OSError."""
        what = {"argv": list(argv), "environment": dict(environment), "cwd": cwd}
        file = parcels.to_file(what)
        try:
            answer, fds = await self._ask({"do": "run"}, (file, *stdio))
        finally:
            os.close(file)
        (pidfd,) = _required(fds)
        answer["status"].add_done_callback(lambda _: os.close(pidfd))
        return Command(answer["pid"], answer["status"], pidfd)

    async def _ask(self, request: Letter, fds: Sequence[int] = ()) -> tuple[Letter, list[int]]:
        """Return the answer and what came with it.

        Raises OSError; a step of the keeper that failed is its filename.
        """
        if self.ended.done():
            raise _gone()
        number = next(self._ids)
        answer = self._answers[number] = self._loop.create_future()
        try:
            with _telling_of_the_end():
                parcels.send(self._control, request | {"id": number}, fds)
            letter, passed = await answer
        finally:
            self._answers.pop(number, None)
        if "errno" in letter:
            code = letter["errno"]
            raise OSError(code, os.strerror(code), letter.get("step"))
        return letter, passed

    def _on_letter(self) -> None:
        try:
            parcel = parcels.receive(self._control)
        except BlockingIOError:
            return
        if parcel is None:
            self._loop.remove_reader(self._control)
            self._fail()
            return
        letter, fds = parcel
        if "status" in letter and letter["id"] in self._commands:
            self._commands.pop(letter["id"]).set_result(letter["status"])
            return
        answer = self._answers.pop(letter["id"], None)
        if answer is None or answer.done():
            self._decline(letter, fds)
            return
        if "pid" in letter:  # its status may come before whoever started it has a turn
            letter["status"] = self._commands[letter["id"]] = self._loop.create_future()
        answer.set_result((letter, fds))

    def _decline(self, letter: Letter, fds: Sequence[int]) -> None:
        """Take what nobody waits for any more."""
        if "pid" in letter and fds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fds[0], signal.SIGKILL)
        _close(fds)

    def _fail(self) -> None:
        """Tell everybody who waits: the kernel has ended what ran in there."""
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(_gone())
        for command in self._commands.values():
            command.set_result(-signal.SIGKILL)
        self._commands.clear()
        if not self.ended.done():
            self.ended.set_result(None)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if self._kill is not None:
            self._kill.cancel()
        os.close(self._pidfd)
        with contextlib.suppress(ChildProcessError):  # the program waits for any child
            os.waitpid(self._pid, 0)
        self._reaped.set_result(None)


# ---- starting the keeper ----


@dataclass(frozen=True, slots=True)
class _Pair:
    ours: socket.socket
    theirs: socket.socket


def _pair(stack: contextlib.ExitStack) -> _Pair:
    """Return a channel; the keeper's end is closed here with the stack."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stack.enter_context(theirs)
    return _Pair(ours, theirs)


def _spawn(*channels: socket.socket) -> int:
    """Start the keeper with its ends of the channels and our pidfd.

    Not by fork: the program has threads, and locks that they hold.
    """
    if not sys.executable:
        raise StartError("there is no Python to start: sys.executable is empty")
    with contextlib.ExitStack() as stack:
        own = os.pidfd_open(os.getpid())
        stack.callback(os.close, own)
        fds = [_beyond_standard(stack, fd) for fd in (*(end.fileno() for end in channels), own)]
        command = [sys.executable, "-I", "-S", "-c", PROGRAM, ROOT, *map(str, fds)]
        return os.posix_spawn(
            sys.executable,
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in fds),  # which lets it be inherited
            ],
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )


def _beyond_standard(stack: contextlib.ExitStack, fd: int) -> int:
    """Return a copy that is not in the way of standard streams, if the program has none."""
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    stack.callback(os.close, copy)
    return copy


# ---- descriptors ----


def _required(fds: Sequence[int]) -> Sequence[int]:
    """Raise OSError if descriptors did not get through: we have too many."""
    if not fds:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return fds


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


@contextlib.contextmanager
def _telling_of_the_end() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise _gone() from error


def _gone() -> OSError:
    return ConnectionResetError(errno.ECONNRESET, "the keeper of the private network is gone")
