# SPDX-License-Identifier: MIT
"""Accepting clients goes on after a shortage, costs nothing meanwhile, and keeps nobody out."""

import asyncio
import contextlib
import errno
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path

import pytest
from serving import EMPTY_REPLY, GET, FakeDevice

from wgpy.uapi import listener as listener_module
from wgpy.uapi.server import UapiServer
from wgpy.uapi.socket_file import open_socket

SHORTAGES = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]
NEVER_S = 3600.0


class Short(socket.socket):
    """A listening socket on which the next `failures` calls of accept fail with `code`."""

    code = errno.EMFILE
    failures = 0
    tries = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.tries += 1
        if self.failures > 0:
            self.failures -= 1
            raise OSError(self.code, os.strerror(self.code))
        return super().accept()


@contextlib.asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Short]:
    device = FakeDevice()
    server = UapiServer(device.changing, device.snapshot)
    listener = Short(fileno=open_socket("wg-test", directory).detach())
    server.serve(listener)
    with contextlib.closing(server):
        yield listener


@contextlib.contextmanager
def without_more_descriptors() -> Iterator[None]:
    """This process can open no more than it has."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        last = max(int(name) for name in os.listdir("/proc/self/fd"))
        while (fd := os.open(os.devnull, os.O_RDONLY)) <= last:
            stack.callback(os.close, fd)
        os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd, limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        yield


async def ask(client: socket.socket) -> bytes:
    """The answer to a get, b"" if the connection has ended."""
    with contextlib.suppress(BrokenPipeError):
        client.send(GET)
    reply = b""
    while not reply.endswith(b"\n\n"):
        try:
            piece = client.recv(4096)
        except BlockingIOError:
            await asyncio.sleep(0.001)
        except ConnectionResetError:
            return b""
        else:
            if not piece:
                return b""
            reply += piece
    return reply


def connected(listener: socket.socket) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    client.connect(listener.getsockname())
    return client


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def run(scenario: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


@pytest.mark.parametrize("code", SHORTAGES)
def test_a_client_is_answered_when_the_shortage_is_over(
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as listener:
            listener.code, listener.failures = code, 5
            with connected(listener) as client:
                assert await ask(client) == EMPTY_REPLY
            assert listener.failures == 0

    monkeypatch.setattr(listener_module, "ACCEPT_PAUSE_S", 0.001)
    run(scenario())
    (record,) = caplog.records
    assert record.getMessage().endswith(os.strerror(code))


@pytest.mark.parametrize("code", [*SHORTAGES, errno.EINVAL])
def test_a_shortage_costs_one_try_a_pause_and_nothing_grows(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as listener:
            listener.code, listener.failures = code, sys.maxsize
            with contextlib.ExitStack() as stack:
                for _ in range(50):
                    stack.enter_context(connected(listener))
                await turns(100)
                before = sys.getallocatedblocks()
                await turns(10_000)
                assert listener.tries == 1
                assert sys.getallocatedblocks() - before < 1000

    monkeypatch.setattr(listener_module, "ACCEPT_PAUSE_S", NEVER_S)
    run(scenario())


def test_the_end_does_not_wait_for_the_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as listener:
            listener.failures = 1
            client = connected(listener)
            while not listener.tries:
                await asyncio.sleep(0)
        with client:
            assert await ask(client) == b""

    monkeypatch.setattr(listener_module, "ACCEPT_PAUSE_S", NEVER_S)
    run(scenario())


def test_a_client_that_finds_no_descriptor_gets_one_that_becomes_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as listener:
            with connected(listener) as client:
                with without_more_descriptors():
                    while not caplog.records:
                        await asyncio.sleep(0.001)
                assert await ask(client) == EMPTY_REPLY

    monkeypatch.setattr(listener_module, "ACCEPT_PAUSE_S", 0.001)
    run(scenario())


def test_where_no_descriptor_becomes_free_the_client_idle_for_longest_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as listener:
            with contextlib.ExitStack() as stack:
                first, second, third = (
                    stack.enter_context(contextlib.closing(connected(listener))) for _ in range(3)
                )
                assert await ask(second) == await ask(third) == EMPTY_REPLY
                assert await ask(first) == EMPTY_REPLY
                new = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
                new.setblocking(False)
                with without_more_descriptors():
                    new.connect(listener.getsockname())
                    assert await ask(new) == EMPTY_REPLY
                    assert await ask(second) == b""
                    assert await ask(first) == await ask(third) == EMPTY_REPLY

    monkeypatch.setattr(listener_module, "ACCEPT_PAUSE_S", 0.001)
    run(scenario())


@pytest.mark.parametrize("code", [errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_a_shortage_of_the_host_is_no_reason_to_drop_a_client(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as listener:
            with connected(listener) as idle, connected(listener) as new:
                assert await ask(idle) == EMPTY_REPLY
                listener.code, listener.failures = code, 5
                assert await ask(new) == EMPTY_REPLY
                assert await ask(idle) == EMPTY_REPLY

    monkeypatch.setattr(listener_module, "ACCEPT_PAUSE_S", 0.001)
    run(scenario())


def test_a_client_for_whom_there_is_no_memory_in_the_kernels_poll_is_not_half_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """epoll_ctl(2): ENOSPC beyond max_user_watches, ENOMEM."""

    async def scenario() -> None:
        async with serving(tmp_path) as listener:
            loop = asyncio.get_running_loop()
            add_reader = loop.add_reader

            refused = []

            def no_room(fd: int, *call: object) -> None:
                refused.append(fd)
                if len(refused) == 2:  # the client's, and the listener's own
                    monkeypatch.setattr(loop, "add_reader", add_reader)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            with connected(listener) as first, connected(listener) as second:
                monkeypatch.setattr(loop, "add_reader", no_room)
                assert await ask(first) == b""
                assert await ask(second) == EMPTY_REPLY

    monkeypatch.setattr(listener_module, "ACCEPT_PAUSE_S", 0.001)
    run(scenario())
