# SPDX-License-Identifier: MIT
"""However a connection ends, nothing of it stays: memory is flat without a garbage collector."""

import asyncio
import contextlib
import logging
import select
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from garbage import without_garbage_collector
from serving import GET, KEY_HEX, FakeDevice

from wgpy.config import DeviceSnapshot
from wgpy.uapi import server as server_module
from wgpy.uapi.protocol import LINE_MAX
from wgpy.uapi.server import UapiServer
from wgpy.uapi.socket_file import open_socket

CONNECTIONS = 10_000
AT_A_TIME = 10
SOME = 2_000  # blocks of memory that may come and go; a fifth of one for each connection


def long_reply(snapshot: DeviceSnapshot) -> Iterator[bytes]:
    """More than a socket takes (208 KiB, net.core.wmem_default), and not as slow as a real one."""
    for _ in range(16):
        yield (b"listen_port=%d\n" % snapshot.listen_port) * 4096


async def received(client: socket.socket) -> bytes:
    """What comes next; b"" if nothing does."""
    while True:
        try:
            return client.recv(1 << 20)
        except BlockingIOError:
            await asyncio.sleep(0)
        except ConnectionError:
            return b""


async def reply(client: socket.socket) -> None:
    data = b""
    while not data.endswith(b"\n\n"):
        data += (piece := await received(client))
        assert piece, "the connection ended"


async def end(client: socket.socket) -> None:
    while await received(client):
        pass


# ---- what a client does before it closes its socket ----


async def leaves_at_once(client: socket.socket) -> None:
    pass


async def asks_and_leaves(client: socket.socket) -> None:
    client.send(b"set=1\nlisten_port=5\n\n")
    await reply(client)


async def ends_the_stream(client: socket.socket) -> None:
    client.send(b"set=1\nlisten_port=5\n")
    client.shutdown(socket.SHUT_WR)
    await end(client)


async def leaves_within_a_reply(client: socket.socket) -> None:
    client.send(GET)
    assert await received(client)


async def leaves_within_a_reply_with_more_requests(client: socket.socket) -> None:
    client.send(GET * 9)
    assert await received(client)


async def shuts_down_within_a_reply(client: socket.socket) -> None:
    client.send(GET)
    client.shutdown(socket.SHUT_RD)  # a broken pipe, where closing is a reset connection


async def leaves_a_reply_unread(client: socket.socket) -> None:
    client.send(b"set=1\nlisten_port=5\n\n")
    while not select.select([client], [], [], 0)[0]:
        await asyncio.sleep(0)


async def leaves_within_a_request(client: socket.socket) -> None:
    client.send(b"set=1\npublic_key=%s\nallowed_ip=10." % KEY_HEX.encode())


async def leaves_within_a_bad_request(client: socket.socket) -> None:
    client.send(b"set=1\npublic_key=%s\nallowed_ip=x\nallowed" % KEY_HEX.encode())


async def is_refused(client: socket.socket) -> None:
    client.send(b"set=1\nlisten_port=x\n\nset=2\n\nget=1\nx=1\n\n")
    await reply(client)


async def is_refused_for_good(client: socket.socket) -> None:
    client.send(b"set=1\n" + b"x" * (LINE_MAX + 1))
    await end(client)


async def is_idle(client: socket.socket) -> None:
    for _ in range(AT_A_TIME):
        await asyncio.sleep(0)


async def does_not_read(client: socket.socket) -> None:
    client.send(GET)
    poll = select.poll()
    poll.register(client, 0)
    while not poll.poll(0):  # POLLHUP
        await asyncio.sleep(0)


async def finds_a_fault(client: socket.socket) -> None:
    client.send(GET)
    await reply(client)


async def finds_a_fault_within_a_reply(client: socket.socket) -> None:
    client.send(GET)
    await end(client)


def no_snapshot(device: FakeDevice) -> DeviceSnapshot:
    raise RuntimeError("broken")


def broken_reply(snapshot: DeviceSnapshot) -> Iterator[bytes]:
    yield b"listen_port=%d\n" % snapshot.listen_port
    raise RuntimeError("broken")


# What it does, and what else is different then.
ENDS: dict[Callable[[socket.socket], Awaitable[None]], tuple[object, str, object] | None] = {
    leaves_at_once: None,
    asks_and_leaves: None,
    ends_the_stream: None,
    leaves_within_a_reply: None,
    leaves_within_a_reply_with_more_requests: None,
    shuts_down_within_a_reply: None,
    leaves_a_reply_unread: None,
    leaves_within_a_request: None,
    leaves_within_a_bad_request: None,
    is_refused: None,
    is_refused_for_good: None,
    is_idle: (server_module, "CLIENTS_MAX", AT_A_TIME // 5),
    does_not_read: (server_module, "STALL_S", 0.0),
    finds_a_fault: (FakeDevice, "snapshot", no_snapshot),
    finds_a_fault_within_a_reply: (server_module, "format_get", broken_reply),
}


@contextlib.contextmanager
def without_log() -> Iterator[None]:
    """Pytest keeps what is logged."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("behave", ENDS, ids=lambda behave: behave.__name__)
def test_a_client_leaves_nothing_behind_if_it(
    behave: Callable[[socket.socket], Awaitable[None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def meet(path: str) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            client.connect(path)
            with contextlib.suppress(ConnectionError):
                await behave(client)

    async def main() -> None:
        device = FakeDevice()
        server = UapiServer(device.changing, device.snapshot)
        listener = open_socket("wg-test", tmp_path)
        server.serve(listener)

        async def meet_many(count: int) -> None:
            for _ in range(count // AT_A_TIME):
                await asyncio.gather(*(meet(listener.getsockname()) for _ in range(AT_A_TIME)))
                while select.select([listener], [], [], 0)[0] or server._clients:
                    await asyncio.sleep(0)
            for kept in (device.changes, device.applied, device.log):
                kept.clear()

        with contextlib.closing(server):
            await meet_many(AT_A_TIME)  # what is made once
            before = sys.getallocatedblocks()
            await meet_many(CONNECTIONS)
            assert sys.getallocatedblocks() - before < SOME

    monkeypatch.setattr(server_module, "format_get", long_reply)
    if (different := ENDS[behave]) is not None:
        monkeypatch.setattr(*different)
    with without_garbage_collector(), without_log():
        asyncio.run(asyncio.wait_for(main(), 120))
