# SPDX-License-Identifier: MIT
"""The program that lives where a tunnel ends: in a user, network, mount and PID namespace.

Nobody needs a privilege to make a TUN in a network namespace of a user namespace of their own.  To
make them takes a process with one thread, so a host program, which has several, starts this one
(wgpy.linux.namespace) and asks it: for the TUN, for sockets, for names, for commands that run in
there.  It passes descriptors; no packet goes through it.

    host program --control, sockets--> keeper --fork--> init (PID 1)
                                         `------fork--> commands, look-ups of names

The end of the channels, or of the host program whoever holds its ends of them, ends the keeper, and
the end of the keeper, whatever it is, ends init.  All else in there ends with init: the kernel sees
to it (pid_namespaces(7)).  What a network namespace knows, such as addresses and routes, the host
program sets itself, over a netlink socket from here.

It is imported by `python -I -S` and little else with it, so that it starts soon.
"""

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NoReturn

from wgpy.linux import libc, parcels, private_files
from wgpy.linux.parcels import Letter
from wgpy.linux.tun import open_tun

# Of a terminal they are for the commands, of a service manager for host and commands: the keeper
# goes when the host does.
OTHERS_SIGNALS: Final = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGHUP,
    signal.SIGTERM,
)
NEVER_HANDLED: Final = (signal.SIGKILL, signal.SIGSTOP)
ERRNO: Final = struct.Struct("=i")
ADDRESSES_MAX: Final = 256  # of a name; they have to fit into a letter, and nobody tries more
STANDARD: Final = 3  # descriptors of a command
CANNOT_EXEC: Final = 127  # as shells have it


class Refused(Exception):
    """What the host does not let us do: the step, and why."""

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(step)
        self.step = step
        self.error = error


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused(name, error) from error


# ---- making the namespaces ----

SPACES: Final = libc.CLONE_NEWNET | libc.CLONE_NEWNS | libc.CLONE_NEWPID


def enter_namespaces() -> None:
    """Live in namespaces of our own; the next child is PID 1 of one.  Raises Refused."""
    if os.geteuid() == 0:
        try:
            libc.unshare(SPACES)
        except PermissionError:
            pass  # root of a container, without CAP_SYS_ADMIN
        else:
            return
    uid, gid = os.geteuid(), os.getegid()
    with _step("user namespace"):
        libc.unshare(libc.CLONE_NEWUSER)
    with _step("identity"):
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    with _step("namespaces"):
        libc.unshare(SPACES)


def _write(path: str, text: str) -> None:
    """Write to a file of the kernel's, in one piece."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def set_sysctls(interface: str) -> list[str]:
    """Let everybody in here ping and take any port; return what of it is not permitted.

    No address but those of the configuration is on the interface.
    """
    refused = []
    group = os.getegid()  # no other group is anybody in a user namespace
    for path, value in (
        ("net/ipv4/ping_group_range", f"{group} {group}"),
        ("net/ipv4/ip_unprivileged_port_start", "0"),
        (f"net/ipv6/conf/{interface}/addr_gen_mode", "1"),
    ):
        try:
            _write(f"/proc/sys/{path}", value)
        except OSError as error:  # read-only in a container, or IPv6 is off
            refused.append(f"{path}: {error.strerror}")
    return refused


def start_init() -> int:
    """Return the process that is PID 1 in here, when it is ready."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _be_init(tell)
        finally:
            os._exit(1)
    os.close(tell)
    os.read(ready, 1)
    os.close(ready)
    return pid


def _be_init(tell: int) -> NoReturn:
    """End with the keeper, and take the exit status of whoever has no parent."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    libc.set_parent_death_signal(signal.SIGKILL)
    # A container with a masked /proc does not permit it; there /proc stays the host's.
    with contextlib.suppress(OSError):
        libc.mount("proc", "/proc", "proc", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC)
    _close_all_but(tell)
    os.write(tell, b"\0")
    os.close(tell)
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        signal.sigwait({signal.SIGCHLD})


# ---- serving the host ----


class Keeper:
    """Answers requests until the channels or the host program end."""

    def __init__(self, control: socket.socket, sockets: socket.socket, owner: int) -> None:
        """Take over the channels and a pidfd of the host program."""
        self._control = control
        self._sockets = sockets
        self._poll = select.poll()
        self._watched: dict[int, Callable[[], None]] = {}
        self._outbox: deque[tuple[Letter, Sequence[int]]] = deque()
        self._ended = False
        self._init = 0
        control.setblocking(False)
        self._watch(owner, self._end)
        self._watch(control.fileno(), self._serve_control)

    def run(self) -> None:
        """Serve until the end; then nobody is left in the namespaces."""
        while not self._ended:
            for fd, _ in self._poll.poll():
                if handler := self._watched.get(fd):
                    handler()
        if self._init:
            os.kill(self._init, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

    def _end(self) -> None:
        self._ended = True

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._watched[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def _forget(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._watched[fd]
        os.close(fd)

    def _serve_control(self) -> None:
        self._flush()
        try:
            parcel = parcels.receive(self._control)
        except BlockingIOError:
            return
        if parcel is None:
            self._end()
            return
        letter, fds = parcel
        does = {"start": self._start, "run": self._run, "look up": self._look_up}[letter["do"]]
        try:
            does(letter, fds)
        except OSError as error:
            self._tell({"id": letter["id"], "errno": error.errno})
        finally:
            for fd in fds:
                os.close(fd)

    def _serve_socket(self) -> None:
        parcel = parcels.receive(self._sockets)
        if parcel is None:
            self._end()
            return
        letter, _ = parcel
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # which poll tells
            try:
                made = socket.socket(letter["family"], letter["type"], letter["protocol"])
            except OSError as error:
                parcels.send(self._sockets, {"id": letter["id"], "errno": error.errno})
                return
            with made:
                parcels.send(self._sockets, {"id": letter["id"]}, [made.fileno()])

    def _tell(self, letter: Letter, fds: Sequence[int] = ()) -> None:
        """Send as soon as that is possible; the host may not read for a while."""
        self._outbox.append((letter, [os.dup(fd) for fd in fds]))
        self._flush()

    def _flush(self) -> None:
        while self._outbox:
            letter, fds = self._outbox[0]
            try:
                parcels.send(self._control, letter, fds)
            except BlockingIOError:
                break
            except OSError:  # the host is gone, which poll tells
                pass
            for fd in fds:
                os.close(fd)
            self._outbox.popleft()
        events = select.POLLIN | (select.POLLOUT if self._outbox else 0)
        self._poll.modify(self._control.fileno(), events)

    def _start(self, letter: Letter, _: list[int]) -> None:
        try:
            self._make_network(letter)
        except Refused as refused:
            answer = {"step": refused.step, "errno": refused.error.errno}
            self._tell({"id": letter["id"]} | answer)

    def _make_network(self, letter: Letter) -> None:
        enter_namespaces()
        with contextlib.ExitStack() as stack, _step("TUN"):
            tun = stack.enter_context(contextlib.closing(open_tun(letter["name"], **letter["tun"])))
            lacks = set_sysctls(letter["name"])
            with _step("files"):
                private_files.replace(letter["resolv_conf"])
            with _step("processes"):
                self._init = start_init()
            self._watch(os.pidfd_open(self._init), self._end)
            netlinks = [stack.enter_context(_netlink()) for _ in range(2)]
            fds = (*tun.fds, *(netlink.fileno() for netlink in netlinks))
            self._tell({"id": letter["id"], "features": int(tun.features), "lacks": lacks}, fds)
        self._watch(self._sockets.fileno(), self._serve_socket)

    def _run(self, letter: Letter, fds: list[int]) -> None:
        """Start a command; a failing exec is an OSError."""
        if len(fds) != 1 + STANDARD:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))  # they did not get through
        what = parcels.from_file(os.dup(fds[0]))
        failed, tell = os.pipe()
        with open(failed, "rb") as failure:
            pid = os.fork()
            if pid == 0:
                _become(what, fds[1:], tell)
            os.close(tell)
            if error := failure.read():
                os.waitpid(pid, 0)
                (number,) = ERRNO.unpack(error)
                raise OSError(number, os.strerror(number))
        pidfd = self._watch_child(pid, letter["id"])
        self._tell({"id": letter["id"], "pid": pid}, [pidfd])

    def _look_up(self, letter: Letter, _: list[int]) -> None:
        pid = os.fork()
        if pid == 0:
            _answer(self._control, letter)
        self._watch_child(pid, letter["id"])

    def _watch_child(self, pid: int, request: int) -> int:
        """Tell the exit status when there is one: the exit code, or a signal's number negated."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # too many descriptors: it is not to run on without anybody knowing
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

        def on_end() -> None:
            _, status = os.waitpid(pid, 0)
            self._forget(pidfd)
            self._tell({"id": request, "status": os.waitstatus_to_exitcode(status)})

        self._watch(pidfd, on_end)
        return pidfd


def _close_all_but(*fds: int) -> None:
    """Keep no descriptor that came with us unasked."""
    first = 0
    for fd in sorted(fds):
        if first < fd:  # Python takes an empty range at 0 for all there are
            os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _netlink() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)


def _become(what: Letter, stdio: Sequence[int], tell: int) -> NoReturn:
    """Be a command from now on, in a child; `tell` gets the errno when that fails."""
    try:
        for number, fd in enumerate(stdio):
            os.dup2(fd, number)
        os.chdir(what["cwd"])
        for number in signal.valid_signals() - set(NEVER_HANDLED):
            with contextlib.suppress(OSError):  # some are libc's
                signal.signal(number, signal.SIG_DFL)
        os.execvpe(what["argv"][0], what["argv"], what["environment"])  # noqa: S606
    except OSError as error:
        os.write(tell, ERRNO.pack(error.errno or 0))
    finally:
        os._exit(CANNOT_EXEC)


def _answer(control: socket.socket, letter: Letter) -> NoReturn:
    """Look a name up, in a child: it may take many seconds."""
    found: dict[str, Any]
    try:
        try:
            found = {"found": socket.getaddrinfo(*letter["arguments"])[:ADDRESSES_MAX]}
        except socket.gaierror as error:
            found = {"gaierror": [error.errno, error.strerror]}
        while True:  # blocking or not is one flag for the keeper and us
            try:
                parcels.send(control, {"id": letter["id"]} | found)
                os._exit(0)
            except BlockingIOError:
                select.select((), (control,), ())
    finally:
        os._exit(1)


def main() -> None:
    """Be the keeper.  Arguments: descriptors of control, sockets and the host's pidfd."""
    control, sockets, owner = map(int, sys.argv[1:])
    _close_all_but(0, 1, 2, control, sockets, owner)
    for fd in (control, sockets, owner):
        os.set_inheritable(fd, False)
    libc.set_process_name("wgpy-keeper")
    for number in OTHERS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    Keeper(socket.socket(fileno=control), socket.socket(fileno=sockets), owner).run()
