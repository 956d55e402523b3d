# SPDX-License-Identifier: MIT
"""The process of a tunnel that a command has for its only network; see wgpy.ctl.exec.

Nothing that a terminal or a service manager sends to all ends it: it goes with the process that
started it, or when the tunnel has ended by itself.
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wgpy.ctl import named
from wgpy.ctl.outcome import EXIT_HEALTHY, EXIT_NO_TUNNEL, RELAYED, fail
from wgpy.errors import ConfigError, StartError, WgpyError
from wgpy.linux import libc, spaces
from wgpy.linux.streams import STDOUT
from wgpy.log import LEVELS
from wgpy.settings import Config
from wgpy.text import printable
from wgpy.tunnel import Tunnel
from wgpy.uapi.listener import Listener
from wgpy.uapi.socket_file import SocketFile, open_socket

PROCESS_NAME: Final = "wgpy-tunnel"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """The tunnel to be: of a file, and for others to join by its name."""

    conf: Path
    name: str | None = None  # None: nobody can join
    must_be_joinable: bool = False
    ignore_commands: bool = False


def keep(channel: socket.socket, plan: Plan) -> int:
    """Have a tunnel until the channel ends, by which its namespaces are sent; -> exit status."""
    _detach()
    try:
        with contextlib.ExitStack() as stack:
            config = Config.from_file(plan.conf, ignore_commands=plan.ignore_commands)
            listener = _listen(stack, plan)
            asyncio.run(_live(channel, config, listener))
    except (ConfigError, StartError) as error:
        return fail(EXIT_NO_TUNNEL, str(error))
    except WgpyError:  # the log has it
        return EXIT_NO_TUNNEL
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return fail(EXIT_NO_TUNNEL, printable(f"{place}{error.strerror or error}"))
    return EXIT_HEALTHY


def _detach() -> None:
    """Have nothing to do with the terminal but for what is logged there."""
    os.setsid()
    for number in RELAYED - {signal.SIGCONT}:
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, STDOUT):
        os.dup2(nothing, fd)
    os.close(nothing)
    with contextlib.suppress(OSError):  # not even that is permitted
        libc.forbid_core_dumps()
        libc.set_process_name(PROCESS_NAME)
    level = LEVELS.get(os.environ.get("LOG_LEVEL", "").lower(), logging.WARNING)
    logging.basicConfig(format="wgpyctl: %(message)s", level=max(level, logging.WARNING))
    logging.getLogger("wgpy").setLevel(level)


def _listen(stack: contextlib.ExitStack, plan: Plan) -> socket.socket | None:
    """Return a socket for who joins.  Raises OSError if that has to be possible."""
    if plan.name is None:
        return None
    try:
        where = named.own_directory()
        listener = stack.enter_context(open_socket(plan.name, where, named.SUFFIX))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            hint = f"join it by `--join {plan.name}`, or give this one another by --name"
            raise OSError(error.errno, f"a tunnel called {plan.name} runs: {hint}") from None
        if plan.must_be_joinable:
            raise
        _log.info("nobody can join the tunnel: %s", error.strerror)
        return None
    stack.callback(SocketFile.of(listener).remove)
    return listener


async def _live(channel: socket.socket, config: Config, listener: socket.socket | None) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def leave() -> None:
        loop.remove_reader(channel)
        task.cancel()

    loop.add_reader(channel, leave)  # nothing is ever sent by it but its end
    with contextlib.suppress(asyncio.CancelledError):
        async with Tunnel(config) as tunnel:
            _hand_out(tunnel, channel)
            with contextlib.ExitStack() as stack:
                if listener is not None:
                    stack.enter_context(contextlib.closing(_Door(tunnel, listener)))
                _log.error("the tunnel ends: %s", await tunnel.until_end())


def _hand_out(tunnel: Tunnel, channel: socket.socket) -> None:
    found = tunnel.open_spaces()
    try:
        named.send(channel, found)
    finally:
        spaces.close_spaces(found)


class _Door:
    """Lets others of our user into the tunnel: waits for nobody, and keeps nothing of anybody."""

    def __init__(self, tunnel: Tunnel, listener: socket.socket) -> None:
        self._tunnel = tunnel
        self._listener = Listener(listener, self._admit, lambda: None)

    def close(self) -> None:
        self._listener.close()

    def _admit(self, client: socket.socket) -> None:
        with client:
            client.setblocking(False)
            with contextlib.suppress(PermissionError):
                named.require_same_user(client)
                _hand_out(self._tunnel, client)
