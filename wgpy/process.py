# SPDX-License-Identifier: MIT
"""A command in a tunnel, as asyncio has its subprocesses."""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from wgpy.linux.namespace import Command, Namespace

Stream = int | IO[Any] | None  # as subprocess.Popen takes them


@dataclass(frozen=True, slots=True)
class Pipes:
    """Our ends of the pipes to a command, -1 for none, and the descriptors that it gets."""

    ours: tuple[int, int, int]
    theirs: tuple[int, int, int]


class Process:
    """A command that runs in a tunnel: what asyncio.subprocess.Process offers.

    `pid` is that of the host.  It ends at the latest with the tunnel, by SIGKILL.
    """

    stdin: asyncio.StreamWriter | None = None
    stdout: asyncio.StreamReader | None = None
    stderr: asyncio.StreamReader | None = None

    def __init__(self, command: Command) -> None:
        """Stand for a command that has begun."""
        self._command = command
        self.pid = command.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, a signal's number negated, or None while it runs."""
        return self._command.status.result() if self._command.status.done() else None

    async def wait(self) -> int:
        """Return the exit status when it has ended."""
        return await asyncio.shield(self._command.status)

    async def communicate(self, data: bytes | None = None) -> tuple[bytes | None, bytes | None]:
        """Write data to stdin, read stdout and stderr to their ends and wait for the end."""
        _, output, errors = await asyncio.gather(
            self._feed(data), _read(self.stdout), _read(self.stderr)
        )
        await self.wait()
        return output, errors

    def send_signal(self, number: int) -> None:
        """Send a signal.  Raises ProcessLookupError once it has ended."""
        self._command.send_signal(number)

    def terminate(self) -> None:
        """Send SIGTERM.  Raises ProcessLookupError once it has ended."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL.  Raises ProcessLookupError once it has ended."""
        self.send_signal(signal.SIGKILL)

    async def _feed(self, data: bytes | None) -> None:
        if self.stdin is None:
            return
        # It need not read all, or anything.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.stdin.write(data or b"")
            await self.stdin.drain()
        self.stdin.close()


async def start(
    network: Namespace,
    argv: tuple[str, ...],
    *,
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
    cwd: str | None,
    environment: Mapping[str, str] | None,
    limit: int,
) -> Process:
    """Start a command; limit is that of a StreamReader, in bytes.  Raises OSError."""
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        pipes = _open_pipes(theirs, ours, (stdin, stdout, stderr))
        command = await network.run(
            argv,
            environment=os.environ if environment is None else environment,
            cwd=os.getcwd() if cwd is None else cwd,
            stdio=pipes.theirs,
        )
        process = Process(command)
        ours.pop_all()
    to_it, from_it, errors = pipes.ours
    process.stdin = None if to_it < 0 else await _writer(to_it)
    process.stdout = None if from_it < 0 else await _reader(from_it, limit)
    process.stderr = None if errors < 0 else await _reader(errors, limit)
    return process


def _open_pipes(
    theirs: contextlib.ExitStack, ours: contextlib.ExitStack, streams: tuple[Stream, ...]
) -> Pipes:
    """Open what the streams ask for; descriptors are closed by the stacks."""
    own, given = [-1, -1, -1], [0, 1, 2]
    for number, stream in enumerate(streams):
        if stream == PIPE:
            ends = os.pipe()
            own[number], given[number] = ends if number else ends[::-1]
            ours.callback(os.close, own[number])
            theirs.callback(os.close, given[number])
        elif stream == DEVNULL:
            given[number] = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            theirs.callback(os.close, given[number])
        elif stream == STDOUT:
            given[number] = given[1]
        elif stream is not None:
            given[number] = stream if isinstance(stream, int) else stream.fileno()
    return Pipes((own[0], own[1], own[2]), (given[0], given[1], given[2]))


async def _reader(fd: int, limit: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit)
    loop = asyncio.get_running_loop()
    protocol = asyncio.StreamReaderProtocol(reader)
    await loop.connect_read_pipe(lambda: protocol, os.fdopen(fd, "rb", 0))
    return reader


async def _writer(fd: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    transport, _ = await loop.connect_write_pipe(lambda: protocol, os.fdopen(fd, "wb", 0))
    return asyncio.StreamWriter(transport, protocol, None, loop)


async def _read(stream: asyncio.StreamReader | None) -> bytes | None:
    return None if stream is None else await stream.read()
