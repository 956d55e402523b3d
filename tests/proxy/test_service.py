# SPDX-License-Identifier: MIT
"""A listening socket and its clients, over loopback and without a tunnel."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from wgpy.dialing import HostNetwork, connect
from wgpy.proxy import service as service_module
from wgpy.proxy.limits import Limits
from wgpy.proxy.requests import Request, Target
from wgpy.proxy.service import Client, Service, negotiate
from wgpy.proxy.socks5 import Socks5
from wgpy.relay.relay import Relay

PATIENCE_S = 30.0
CONNECT = b"\x05\x01\x00\x05\x01\x00\x01"


@dataclass(frozen=True, slots=True)
class Served:
    """A service whose clients of SOCKS5 are all connected to `server`."""

    port: int
    server: asyncio.Server
    limits: Limits
    service: Service


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
    writer.close()


async def no_association(_: Client, __: Request, ___: Callable[[Target], bytes]) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@contextlib.asynccontextmanager
async def serving(total: int = 8, per_client: int = 8) -> AsyncIterator[Served]:
    failures: list[OSError] = []
    relay = Relay(8, 0, failures.append)
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    place = server.sockets[0].getsockname()
    limits = Limits(total, per_client)

    async def dial(_: Target) -> socket.socket:
        return await connect(HostNetwork(), place[0], place[1])

    async def converse(client: Client) -> socket.socket | None:
        return await negotiate(client, Socks5(None), dial, no_association)

    listener = socket.create_server(("127.0.0.1", 0))
    service = Service(listener, limits, relay, converse)
    try:
        yield Served(listener.getsockname()[1], server, limits, service)
    finally:
        await service.close()
        relay.close()
        server.close()
    assert failures == []


def run(scenario: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, PATIENCE_S))


async def visit(
    at: Served, *, said: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    writer.write(said)
    return reader, writer


async def exchange(at: Served) -> bytes:
    """What comes back for "hello"; nothing if it is hung up on."""
    reader, writer = await visit(at, said=CONNECT + bytes(6) + b"hello")
    try:
        return (await reader.readexactly(2 + 10 + 5))[12:]
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    finally:
        writer.close()


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("said", [b"", b"\x05", b"\x05\x01\x00\x05\x01"])
def test_who_does_not_say_what_it_wants_is_hung_up_on(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with serving(total=2) as at:
            slow = [await visit(at, said=said) for _ in range(2)]
            for reader, writer in slow:
                await rest_of(reader)
                writer.close()
            monkeypatch.setattr(service_module, "REQUEST_S", PATIENCE_S)
            assert await exchange(at) == b"hello"

    monkeypatch.setattr(service_module, "REQUEST_S", 0.05)
    run(scenario())


def test_who_is_one_too_many_is_hung_up_on_and_the_others_are_served() -> None:
    async def scenario() -> None:
        async with serving(total=8, per_client=2) as at:
            waiting = [await visit(at) for _ in range(2)]
            reader, writer = await visit(at, said=CONNECT + bytes(6))
            assert await rest_of(reader) == b""
            writer.close()
            for reader, writer in waiting:
                writer.write(CONNECT + bytes(6) + b"x")
                assert (await reader.readexactly(13))[-1:] == b"x"
                writer.close()

    run(scenario())


def test_connections_that_ended_make_room() -> None:
    async def scenario() -> None:
        async with serving(total=1) as at:
            for _ in range(20):
                while await exchange(at) != b"hello":  # the one before has not ended quite
                    await asyncio.sleep(0)

    run(scenario())


def test_a_refusal_is_read_though_more_was_sent_than_is_read() -> None:
    async def scenario() -> None:
        async with serving() as at:
            reader, writer = await visit(at, said=b"\x05\x01\x00\x05\x09\x00\x01" + bytes(100_000))
            assert (await reader.readexactly(12))[3] == 7
            writer.close()

    run(scenario())


def test_who_cannot_be_connected_is_told_and_hung_up_on() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.server.close()
            await asyncio.sleep(0)
            reader, writer = await visit(at, said=CONNECT + bytes(6))
            assert (await reader.read())[:4] == b"\x05\x00\x05\x05"
            writer.close()

    run(scenario())


def test_the_end_hangs_up_on_those_who_talk_and_counts_nobody() -> None:
    async def scenario() -> None:
        async with serving() as at:
            talking = [await visit(at, said=b"\x05") for _ in range(4)]
            assert await exchange(at) == b"hello"  # so they have been accepted
            await at.service.close()
            for reader, writer in talking:
                assert await rest_of(reader) == b""
                writer.close()

    run(scenario())
