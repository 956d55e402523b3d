# SPDX-License-Identifier: MIT
"""Pairs of datagram sockets over loopback, with and without headers of SOCKS5."""

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wgpy.relay.relay import End, Relay

pytestmark = pytest.mark.threads

FOREVER = 0.0
PATIENCE_S = 30.0
BURST = 50  # datagrams that fit the smallest buffer
LAST = b"last"


def udp(family: int = socket.AF_INET) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
    return sock


def joined(family: int = socket.AF_INET) -> tuple[socket.socket, socket.socket]:
    """Two sockets that are connected to each other."""
    near, far = udp(family), udp(family)
    near.connect(far.getsockname())
    far.connect(near.getsockname())
    return near, far


def header(sock: socket.socket) -> bytes:
    host, port, *_ = sock.getsockname()
    kind = 1 if sock.family == socket.AF_INET else 4
    return bytes((0, 0, 0, kind)) + socket.inet_pton(sock.family, host) + struct.pack("!H", port)


@contextlib.asynccontextmanager
async def relaying(idle_s: float = FOREVER) -> AsyncIterator[Relay]:
    failures: list[OSError] = []
    relay = Relay(4, idle_s, failures.append)
    try:
        yield relay
    finally:
        relay.close()
    assert failures == []


class Association:
    """A client with headers, servers of both families, and what is for names."""

    def __init__(self, relay: Relay) -> None:
        self.client, outer = joined()
        self.servers = udp(), udp(socket.AF_INET6)
        self.to_names, self.names = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for sock in (self.to_names, self.names):
            sock.setblocking(False)
        self.end: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        inner = (udp(), udp(socket.AF_INET6))
        self.number = relay.add_datagrams(outer, inner, self.end.set_result, self.to_names)

    def close(self) -> None:
        for sock in (self.client, *self.servers, self.to_names, self.names):
            sock.close()


def run(scenario: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, PATIENCE_S))


async def came(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 1 << 16)


async def came_from(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(sock, ready.set_result, None)
    await ready
    loop.remove_reader(sock)
    data, source = sock.recvfrom(1 << 16)
    return data, source


def test_datagrams_keep_their_bounds_both_ways() -> None:
    async def scenario() -> None:
        async with relaying() as relay:
            client, outer = joined()
            other, server = joined()
            end: asyncio.Future[End] = asyncio.get_running_loop().create_future()
            number = relay.add_datagrams(outer, (other,), end.set_result)
            with client, server:
                for sender, receiver in ((client, server), (server, client)):
                    for size in (0, 1, 1200, 65507):
                        data = os.urandom(size)
                        sender.send(data)
                        assert await came(receiver) == data
                relay.drop(number)
                assert await end == End(66708, 66708, errno.ECANCELED)

    run(scenario())


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_header_says_where_to_and_whence(family: int) -> None:
    async def scenario() -> None:
        async with relaying() as relay:
            with contextlib.closing(Association(relay)) as ends:
                server = ends.servers[family == socket.AF_INET6]
                for size in (0, 1, 1200, 65000):
                    data = os.urandom(size)
                    ends.client.send(header(server) + data)
                    got, source = await came_from(server)
                    assert got == data
                    server.sendto(data[::-1], source)
                    assert await came(ends.client) == header(server) + data[::-1]

    run(scenario())


def test_of_thousands_none_is_lost() -> None:
    async def scenario() -> None:
        async with relaying() as relay:
            with contextlib.closing(Association(relay)) as ends:
                for first in range(0, 3000, BURST):
                    for number in range(first, first + BURST):
                        to = ends.servers[number % 2]
                        ends.client.send(header(to) + struct.pack("=I", number))
                    numbers = [
                        struct.unpack("=I", await came(ends.servers[number % 2]))[0]
                        for number in range(first, first + BURST)
                    ]
                    assert numbers == list(range(first, first + BURST))
                relay.drop(ends.number)
                assert (await ends.end).lost == 0

    run(scenario())


def test_names_are_for_control() -> None:
    async def scenario() -> None:
        async with relaying() as relay:
            with contextlib.closing(Association(relay)) as ends:
                data = b"\0\0\0\x03\x05names\0\x35payload"
                ends.client.send(data)
                assert await came(ends.names) == data

    run(scenario())


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=40), max_size=8))
@example([b"\0\0\x01\x01" + bytes(6) + b"fragment"])
@example([b"\0\0\0\x01" + bytes(5), b"\0\0\0\x04" + bytes(17), b"\0\0\0\x05" + bytes(30)])
@example([b"\0\0\0\x01" + bytes(6) + b"to port 0", b"\0\0\0\x04" + bytes(18)])
def test_what_is_malformed_goes_nowhere_and_the_next_one_goes_on(hostile: list[bytes]) -> None:
    async def scenario() -> None:
        async with relaying() as relay:
            with contextlib.closing(Association(relay)) as ends:
                for data in hostile:
                    if data[3:4] != b"\x03":
                        ends.client.send(data)
                ends.client.send(header(ends.servers[0]) + LAST)
                while await came(ends.servers[0]) != LAST:
                    pass

    run(scenario())


def test_a_target_that_is_not_there_for_a_while_does_not_end_it() -> None:
    async def scenario() -> None:
        async with relaying() as relay:
            client, outer = joined()
            other, server = joined()
            ended: list[End] = []
            relay.add_datagrams(outer, (other,), ended.append)
            with client, server:
                server.connect(("127.0.0.1", 9))  # so the kernel says that nobody is there
                for _ in range(200):
                    client.send(b"x")
                    await asyncio.sleep(0)
                server.connect(other.getsockname())
                client.send(LAST)
                while await came(server) != LAST:
                    pass
                assert ended == []

    run(scenario())


def test_what_nobody_uses_ends() -> None:
    async def scenario() -> None:
        async with relaying(idle_s=0.05) as relay:
            with contextlib.closing(Association(relay)) as ends:
                assert (await ends.end).error == errno.ETIMEDOUT

    run(scenario())


def test_what_is_dropped_twice_or_late_is_dropped_once() -> None:
    async def scenario() -> None:
        async with relaying() as relay:
            for _ in range(20):
                with contextlib.closing(Association(relay)) as ends:
                    relay.drop(ends.number)
                    relay.drop(ends.number)
                    assert (await ends.end).error == errno.ECANCELED

    run(scenario())
