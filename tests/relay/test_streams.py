# SPDX-License-Identifier: MIT
"""Pairs of sockets over loopback: what goes in comes out, however it ends."""

import asyncio
import contextlib
import errno
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from wgpy.relay.relay import End, Relay

pytestmark = pytest.mark.threads

MIB = 1 << 20
FOREVER = 0.0
PATIENCE_S = 30.0
RESET = struct.pack("ii", 1, 0)  # struct linger

Scenario = Callable[[], Coroutine[Any, Any, None]]


def connected() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for sock in (near, far):
        sock.setblocking(False)
    return near, far


class Ends:
    """A relay between two connections: what is sent at `left` comes out at `right`."""

    def __init__(self, relay: Relay) -> None:
        self.left, first = connected()
        self.right, second = connected()
        self.end: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        relay.add(first, second, self.end.set_result)

    def close(self) -> None:
        self.left.close()
        self.right.close()


@contextlib.asynccontextmanager
async def relaying(pairs: int = 8, idle_s: float = FOREVER) -> AsyncIterator[Relay]:
    failures: list[OSError] = []
    relay = Relay(pairs, idle_s, failures.append)
    try:
        yield relay
    finally:
        relay.close()
    assert failures == []


def run(scenario: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, PATIENCE_S))


async def read(sock: socket.socket, count: int) -> bytes:
    """So many bytes, or those until the end."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        piece = await loop.sock_recv(sock, count - len(data))
        if not piece:
            break
        data += piece
    return bytes(data)


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


def test_bytes_pass_both_ways_at_once_and_are_counted() -> None:
    async def scenario() -> None:
        there, back = os.urandom(8 * MIB), os.urandom(5 * MIB)
        async with relaying() as relay:
            with contextlib.closing(Ends(relay)) as ends:
                sending = asyncio.gather(send(ends.left, there), send(ends.right, back))
                came_there, came_back = await asyncio.gather(
                    read(ends.right, len(there)), read(ends.left, len(back))
                )
                await sending
                assert came_there == there
                assert came_back == back
                ends.left.shutdown(socket.SHUT_WR)
                ends.right.shutdown(socket.SHUT_WR)
                assert await ends.end == End(len(there), len(back), 0)

    run(scenario())


def test_an_end_passes_alone_and_the_other_direction_goes_on() -> None:
    async def scenario() -> None:
        answer = os.urandom(3 * MIB)
        async with relaying() as relay:
            with contextlib.closing(Ends(relay)) as ends:
                await send(ends.left, b"question")
                ends.left.shutdown(socket.SHUT_WR)
                assert await read(ends.right, 100) == b"question"
                sending = asyncio.ensure_future(send(ends.right, answer))
                assert await read(ends.left, len(answer)) == answer
                await sending
                ends.right.shutdown(socket.SHUT_WR)
                assert await read(ends.left, 1) == b""
                assert await ends.end == End(8, len(answer), 0)

    run(scenario())


def test_a_reset_passes() -> None:
    async def scenario() -> None:
        async with relaying() as relay:
            with contextlib.closing(Ends(relay)) as ends:
                ends.left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                ends.left.close()
                with pytest.raises(ConnectionResetError):
                    await read(ends.right, 1)
                assert (await ends.end).error == errno.ECONNRESET

    run(scenario())


def test_who_does_not_read_holds_up_only_its_own_and_loses_nothing() -> None:
    async def scenario() -> None:
        data = os.urandom(MIB) * 32  # more than all buffers on the way hold
        async with relaying() as relay:
            with contextlib.ExitStack() as stack:
                slow, other = (
                    stack.enter_context(contextlib.closing(Ends(relay))) for _ in range(2)
                )
                sending = asyncio.ensure_future(send(slow.left, data))
                for _ in range(20):
                    await send(other.left, b"ping")
                    assert await read(other.right, 4) == b"ping"
                assert not sending.done()
                assert await read(slow.right, len(data)) == data
                await sending

    run(scenario())


def test_a_reset_passes_also_while_the_other_does_not_read() -> None:
    async def scenario() -> None:
        async with relaying() as relay:
            with contextlib.closing(Ends(relay)) as ends:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        ends.left.send(bytes(MIB))
                ends.left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                ends.left.close()
                assert (await ends.end).error in (errno.ECONNRESET, errno.EPIPE)

    run(scenario())


def test_a_pair_on_which_nothing_moves_ends() -> None:
    async def scenario() -> None:
        async with relaying(idle_s=0.05) as relay:
            with contextlib.closing(Ends(relay)) as ends:
                assert await ends.end == End(0, 0, errno.ETIMEDOUT)
                for sock in (ends.left, ends.right):
                    with pytest.raises(ConnectionResetError):
                        await read(sock, 1)

    run(scenario())


def test_there_are_as_many_pairs_as_may_be_and_numbers_come_back() -> None:
    async def scenario() -> None:
        async with relaying(pairs=2) as relay:
            for _ in range(20):
                both = [Ends(relay) for _ in range(2)]
                first, second = connected()
                with pytest.raises(OSError, match=os.strerror(errno.ENOBUFS)):
                    relay.add(first, second, print)
                for sock in (first, second):
                    sock.close()
                for ends in both:
                    ends.close()
                    await ends.end

    run(scenario())


def test_many_at_once_each_have_their_own() -> None:
    count = 200

    async def exchange(ends: Ends, number: int) -> None:
        data = struct.pack("=I", number) * 5000
        await send(ends.left, data)
        ends.left.shutdown(socket.SHUT_WR)
        assert await read(ends.right, len(data) + 1) == data
        ends.right.close()
        assert (await ends.end).sent == len(data)
        ends.left.close()

    async def scenario() -> None:
        async with relaying(pairs=count) as relay:
            every = [Ends(relay) for _ in range(count)]
            await asyncio.gather(*(exchange(ends, i) for i, ends in enumerate(every)))
            assert relay.pipes <= 16

    run(scenario())


def test_nothing_is_open_afterwards() -> None:
    async def once() -> None:
        async with relaying() as relay:
            every = [Ends(relay) for _ in range(4)]
            for ends in every:
                await send(ends.left, bytes(1000))
                await read(ends.right, 1000)
            every[0].close()
            await every[0].end
        for ends in every:  # those that were left hear of it
            ends.close()

    async def scenario() -> None:
        await once()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            await once()
        assert len(os.listdir("/proc/self/fd")) == before

    run(scenario())


def test_without_a_descriptor_for_a_pipe_a_pair_ends_and_the_others_go_on() -> None:
    async def scenario() -> None:
        async with relaying() as relay:
            with contextlib.ExitStack() as stack:
                served, poor = (
                    stack.enter_context(contextlib.closing(Ends(relay))) for _ in range(2)
                )
                sending = asyncio.ensure_future(send(served.left, bytes(32 * MIB)))
                while relay.pipes != 1:
                    await asyncio.sleep(0)
                limits = resource.getrlimit(resource.RLIMIT_NOFILE)
                stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
                resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    while not poor.end.done():  # the one pipe is free at times before it is full
                        await send(poor.left, b"x")
                        await asyncio.sleep(0)
                assert (await poor.end).error == errno.EMFILE
                assert await read(served.right, 32 * MIB) == bytes(32 * MIB)
                await sending

    run(scenario())
