# SPDX-License-Identifier: MIT
"""`wgpyctl exec`: a command whose only network is a tunnel.

    this process ---fork---> the tunnel's (wgpy.ctl.keeping), with the keeper of its namespaces
         |    <--namespaces--  by a channel, whose end ends the tunnel
         `------fork---> the command, which lives in them

The command is our own child in the namespaces that we have entered, so that terminal, process
group, limits and all else that is inherited are as of any command.  Who joins a tunnel does the
same with namespaces that come by its socket (wgpy.ctl.named).  Only descriptors come from the
tunnel's process: it may be stopped by nothing that a terminal sends.
"""

import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from wgpy.ctl import named
from wgpy.ctl.outcome import EXIT_CANNOT_RUN, EXIT_NO_TUNNEL, EXIT_NOT_FOUND, CallError, fail
from wgpy.linux import spaces
from wgpy.text import printable


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked for: a command in a new tunnel of a file, or in the one of a name."""

    argv: Sequence[str]  # not empty
    conf: str | None = None
    name: str | None = None  # for others to join by
    join: str | None = None  # the name of a tunnel that runs
    ignore_commands: bool = False  # of the file

    def __post_init__(self) -> None:
        """Raise CallError for what cannot be meant."""
        if (self.conf is None) == (self.join is None):
            raise CallError("it takes either a file or --join")
        if self.join is not None and (self.name is not None or self.ignore_commands):
            raise CallError("--name and --ignore-commands are for a new tunnel, not with --join")
        for name in filter(None, (self.name, self.join)):
            if not named.NAME.fullmatch(name):
                raise CallError(f"no name for a tunnel: {printable(name)}")


def execute(call: Call) -> int:
    """Run the command; return its exit status, or that of having failed to."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        if call.join is not None:
            return _run(call.argv, partial(_join, call.join))
        with contextlib.closing(_Made(call)) as made:
            return _run(call.argv, partial(named.receive, made.channel), made.close)
    except ConnectionResetError:  # the tunnel's process has said why
        return EXIT_NO_TUNNEL
    except OSError as error:
        return fail(EXIT_NO_TUNNEL, printable(f"{error.filename or 'exec'}: {error.strerror}"))


def _join(name: str) -> list[int]:
    """Return the namespaces of that tunnel.  Raises OSError, with a line for the user."""
    try:
        return named.join(name)
    except (FileNotFoundError, ConnectionResetError):  # it ended just now
        way = f"`wgpyctl exec --name {name} CONF -- COMMAND` makes one"
        text = f"no tunnel of yours is called so: {way}"
        raise FileNotFoundError(errno.ENOENT, text, name) from None


class _Made:
    """A tunnel in a process of its own."""

    def __init__(self, call: Call) -> None:
        """Start it.  Raises OSError."""
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._pid = os.fork()
            if self._pid == 0:
                self.channel.close()
                _be_the_tunnel(call, theirs)

    def close(self) -> None:
        """End it, and wait for that of all that runs in there; more than once is fine."""
        if self._pid:
            self.channel.close()
            os.waitpid(self._pid, 0)
            self._pid = 0


def _be_the_tunnel(call: Call, channel: socket.socket) -> NoReturn:
    status = EXIT_NO_TUNNEL
    try:
        from wgpy.ctl.keeping import Plan, keep  # which loads all that we need not

        assert call.conf is not None
        conf = Path(call.conf)
        name = call.name or named.default_name(conf)
        status = keep(channel, Plan(conf, name, call.name is not None, call.ignore_commands))
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _run(
    argv: Sequence[str],
    find_spaces: Callable[[], Sequence[int]],
    close: Callable[[], None] = lambda: None,
) -> int:
    """Run the command in namespaces that are found, and then close the tunnel if it is ours.

    Raises OSError if there is no way into it.
    """
    from wgpy.ctl.job import Job  # while the tunnel is made

    with contextlib.closing(Job()) as job:
        _enter(find_spaces())
        try:
            status = job.run(argv)
        except OSError as error:
            return _explain(argv[0], error)
        if status == -signal.SIGKILL and _is_over():
            fail(EXIT_NO_TUNNEL, f"the tunnel has ended, and {printable(argv[0])} with it")
        close()
        return job.end_alike(status)


def _explain(program: str, error: OSError) -> int:
    """Say why a command did not begin; return the exit status."""
    if error.filename is None:  # there is no process for it
        return fail(
            EXIT_NO_TUNNEL, "the tunnel has ended" if _is_over() else f"exec: {error.strerror}"
        )
    status = EXIT_NOT_FOUND if error.errno == errno.ENOENT else EXIT_CANNOT_RUN
    return fail(status, printable(f"{program}: {error.strerror}"))


def _enter(fds: Sequence[int]) -> None:
    """Live there, in the same directory.  Raises OSError."""
    try:
        here = os.getcwd()
        spaces.enter(fds)
        os.chdir(here)
    finally:
        spaces.close_spaces(fds)


def _is_over() -> bool:
    """Tell whether the PID namespace of our children has ended: no more can begin there.

    See pid_namespaces(7).
    """
    try:
        child = os.fork()
    except OSError as error:
        return error.errno == errno.ENOMEM
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return False
