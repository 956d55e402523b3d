# SPDX-License-Identifier: MIT
"""A tunnel for programs without an event loop: whoever asks it waits for the answer.

    with connect("home.conf") as tunnel:
        with tunnel.create_connection(("10.0.0.1", 80), timeout=10) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")

The loop that it takes has a thread of its own.
"""

import asyncio
import concurrent.futures
import contextlib
import errno
import locale
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from wgpy.config import DeviceChange
from wgpy.linux.namespace import Found
from wgpy.process import Stream
from wgpy.settings import Config
from wgpy.tunnel import NAME, Socket, Tunnel

if TYPE_CHECKING:
    from wgpy.status import DeviceStatus

_T = TypeVar("_T")


@contextlib.contextmanager
def connect(
    config: Config | str | os.PathLike[str], *, name: str = NAME
) -> "Iterator[BlockingTunnel]":
    """Be a context manager in which there is a tunnel: `with connect("home.conf") as tunnel`.

    The configuration may be a file of wg-quick, taken as Config.from_file does.  However the with
    statement is left, by an exception and KeyboardInterrupt too, the tunnel ends, and commands in
    it are killed.

    Raises StartError where a private network cannot be had, with what to do about it, ConfigError
    for a configuration that cannot be applied, ConfigFileError for a file that cannot be taken,
    OSError.
    """
    config = config if isinstance(config, Config) else Config.from_file(config)
    home = _Home(Tunnel(config, name=name))
    try:
        home.start()
        yield BlockingTunnel(home)
    finally:
        home.end()


class BlockingTunnel:
    """A tunnel as `connect` gives it; any thread may ask, and several may at a time.

    Errors are those of the Tunnel.  What is asked of one that has ended raises
    ConnectionResetError, also of whoever still waits.
    """

    def __init__(self, home: "_Home") -> None:
        """Ask the tunnel that is at home there."""
        self._home = home
        self._tunnel = home.tunnel

    # ---- connections ----

    def socket(
        self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0
    ) -> Socket:
        """Return a socket of the tunnel's network, to connect or to listen.  Raises OSError."""
        return self._tunnel.socket(family, type, proto)

    def create_connection(
        self, address: tuple[str, str | int], timeout: float | None = None
    ) -> Socket:
        """Return a socket connected to host and port, as socket.create_connection does.

        Each address of the host is tried, within timeout (s) in all, which then is the socket's;
        None is no limit.  Raises TimeoutError, socket.gaierror, OSError.
        """
        made = self._home.ask(self._tunnel.create_connection(address, timeout=timeout))
        made.settimeout(timeout)
        return made

    def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Found:
        """Look a name up through the tunnel, as socket.getaddrinfo does outside.

        Raises socket.gaierror, OSError.
        """
        hints = {"family": family, "type": type, "proto": proto, "flags": flags}
        return self._home.ask(self._tunnel.getaddrinfo(host, port, **hints))

    # ---- commands ----

    @overload
    def run(
        self,
        args: Sequence[str],
        *,
        stdin: Stream = None,
        input: bytes | None = None,
        stdout: Stream = None,
        stderr: Stream = None,
        capture_output: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        check: bool = False,
        env: Mapping[str, str] | None = None,
        text: Literal[False] = False,
    ) -> subprocess.CompletedProcess[bytes]: ...

    @overload
    def run(
        self,
        args: Sequence[str],
        *,
        stdin: Stream = None,
        input: str | None = None,
        stdout: Stream = None,
        stderr: Stream = None,
        capture_output: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        check: bool = False,
        env: Mapping[str, str] | None = None,
        text: Literal[True],
    ) -> subprocess.CompletedProcess[str]: ...

    def run(
        self,
        args: Sequence[str],
        *,
        stdin: Stream = None,
        input: bytes | str | None = None,
        stdout: Stream = None,
        stderr: Stream = None,
        capture_output: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        check: bool = False,
        env: Mapping[str, str] | None = None,
        text: bool = False,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a command whose only network is the tunnel, as subprocess.run does one outside.

        It is killed after timeout (s), and if it is not waited for to its end.  Text is in the
        encoding of the locale.  Raises subprocess.TimeoutExpired, subprocess.CalledProcessError
        with check, OSError.
        """
        if capture_output:
            stdout = stderr = subprocess.PIPE
        if input is not None:
            stdin = subprocess.PIPE
        data = input.encode(locale.getpreferredencoding(False)) if isinstance(input, str) else input
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        command = _run(self._tunnel, args, data, timeout, cwd=cwd, env=env, **streams)
        done: subprocess.CompletedProcess[Any] = self._home.ask(command)
        if text:
            done.stdout, done.stderr = _text(done.stdout), _text(done.stderr)
        if check:
            done.check_returncode()
        return done

    # ---- WireGuard ----

    def configure(self, change: DeviceChange) -> None:
        """Apply a change, whole or not at all, as Tunnel.configure.  Raises ConfigError."""
        self._home.ask(self._tunnel.configure(change))

    def status(self) -> "DeviceStatus":
        """Return what can be seen of the tunnel and its peers."""
        return self._home.ask(self._tunnel.status())


async def _run(
    tunnel: Tunnel,
    args: Sequence[str],
    data: bytes | None,
    timeout: float | None,
    **options: Any,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end; whatever ends the wait for it ends the command."""
    process = await tunnel.create_subprocess_exec(*args, **options)
    try:
        output, errors = await asyncio.wait_for(process.communicate(data), timeout)
    except asyncio.TimeoutError:
        raise subprocess.TimeoutExpired(args, timeout or 0) from None
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    return subprocess.CompletedProcess(args, process.returncode or 0, output, errors)


def _text(data: bytes | None) -> str | None:
    """Return it with line ends as Python has them."""
    if data is None:
        return None
    lines = data.decode(locale.getpreferredencoding(False))
    return lines.replace("\r\n", "\n").replace("\r", "\n")


class _Home:
    """The thread in which a tunnel lives, and the loop in there."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.tunnel = tunnel
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._lock = threading.Lock()
        self._life: asyncio.Task[None] | None = None  # while there is somebody to be asked
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="wgpy-tunnel")

    def start(self) -> None:
        """Return when the tunnel is there.  Raises what entering it does."""
        self._thread.start()
        self._started.result()

    def end(self) -> None:
        """End the tunnel, even one that only starts, and return when it has ended."""
        with self._lock:
            self._is_over = True
            if self._life is not None:
                self._life.get_loop().call_soon_threadsafe(self._life.cancel)
                self._life = None
        if self._thread.ident is not None:
            self._thread.join()

    def ask(self, question: Coroutine[Any, Any, _T]) -> _T:
        """Have the loop answer; an interrupted wait gives the question up."""
        answer = self._submit(question)
        try:
            return answer.result()
        except concurrent.futures.CancelledError:
            raise _ended() from None
        except BaseException:
            answer.cancel()
            raise

    def _submit(self, question: Coroutine[Any, Any, _T]) -> "concurrent.futures.Future[_T]":
        with self._lock:
            if self._life is None:
                question.close()
                raise _ended()
            return asyncio.run_coroutine_threadsafe(question, self._life.get_loop())

    def _run(self) -> None:
        # Signals are for the main thread: here they would not interrupt whoever waits in there.
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            asyncio.run(self._live())
        except asyncio.CancelledError:
            pass  # that is how it ends
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _live(self) -> None:
        """Let the tunnel be until it is cancelled."""
        with self._lock:
            if self._is_over:
                return
            self._life = asyncio.current_task()
        try:
            async with self.tunnel:
                self._started.set_result(None)
                await asyncio.Event().wait()
        finally:
            # Who was admitted before is told by asyncio.run, which cancels what is not done.
            with self._lock:
                self._life = None


def _ended() -> OSError:
    return ConnectionResetError(errno.ECONNRESET, "the tunnel has ended")
