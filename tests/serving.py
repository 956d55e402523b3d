# SPDX-License-Identifier: MIT
"""A configuration socket that is served in the test's own process, and its clients."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from wgpy.config import (
    ZERO_KEY,
    AllowedIP,
    DeviceChange,
    DeviceSnapshot,
    PeerChange,
    PeerSnapshot,
)
from wgpy.uapi.server import UapiServer
from wgpy.uapi.socket_file import open_socket

KEY = bytes(range(32))
KEY_HEX = KEY.hex()
OK = b"errno=0\n\n"
GET = b"get=1\n\n"
EMPTY_REPLY = b"listen_port=0\n" + OK


class FakeDevice:
    """Keeps what it is told, as a device would; `fail` makes every change fail."""

    def __init__(self) -> None:
        self.state = DeviceSnapshot(private_key=ZERO_KEY, listen_port=0, fwmark=0, peers=())
        self.changes: list[DeviceChange] = []  # that were begun
        self.applied: list[DeviceChange] = []
        self.log: list[str] = []  # "begin" and "end" of a change
        self.snapshots = 0
        self.fail: Exception | None = None
        self.pieces = 0  # between the beginning and the end of a change

    def snapshot(self) -> DeviceSnapshot:
        self.snapshots += 1
        if self.fail is not None:
            raise self.fail
        return self.state

    def changing(self, change: DeviceChange) -> Iterator[None]:
        """Take the change, go on for `pieces`, and apply it."""
        if self.fail is not None:
            raise self.fail
        self.changes.append(change)
        self.log.append("begin")
        for _ in range(self.pieces):
            yield
        self._apply(change)
        self.applied.append(change)
        self.log.append("end")

    def _apply(self, change: DeviceChange) -> None:
        peers = {} if change.replace_peers else {p.public_key: p for p in self.state.peers}
        for section in change.peers:
            old = peers.pop(section.public_key, None)
            if not section.remove:
                peers[section.public_key] = edited(old, section)
        self.state = DeviceSnapshot(
            private_key=self.state.private_key
            if change.private_key is None
            else change.private_key,
            listen_port=self.state.listen_port
            if change.listen_port is None
            else change.listen_port,
            fwmark=self.state.fwmark if change.fwmark is None else change.fwmark,
            peers=tuple(peers.values()),
        )


def edited(old: PeerSnapshot | None, change: PeerChange) -> PeerSnapshot:
    if old is None:
        old = PeerSnapshot(change.public_key, ZERO_KEY, None, 0, 0, 0, 0, ())
    kept = () if change.replace_allowed_ips else old.allowed_ips
    preshared_key, keepalive_s = change.preshared_key, change.persistent_keepalive_s
    return replace(
        old,
        preshared_key=old.preshared_key if preshared_key is None else preshared_key,
        endpoint=old.endpoint if change.endpoint is None else change.endpoint,
        persistent_keepalive_s=old.persistent_keepalive_s if keepalive_s is None else keepalive_s,
        allowed_ips=(*kept, *change.allowed_ips),
    )


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        assert isinstance(writer.transport, asyncio.Transport)
        self._transport = writer.transport

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> bytes:
        return await self.reader.readuntil(b"\n\n")

    async def ask(self, data: bytes) -> bytes:
        await self.send(data)
        return await self.reply()

    def stop_reading(self) -> None:
        self._transport.pause_reading()

    def read_again(self) -> None:
        self._transport.resume_reading()

    async def ended(self) -> bool:
        """Whether the server is done with this connection; waits for it."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True


Connect = Callable[[], Coroutine[Any, Any, Client]]


@contextlib.asynccontextmanager
async def serving(device: FakeDevice, directory: Path) -> AsyncIterator[Connect]:
    """A server for device; gives a function that connects to it."""
    server = UapiServer(device.changing, device.snapshot)
    sock = open_socket("wg-test", directory)
    path = sock.getsockname()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(os.unlink, path)
        stack.callback(server.close)
        server.serve(sock)

        async def connect() -> Client:
            client = Client(*await asyncio.open_unix_connection(path, limit=1 << 24))
            stack.callback(client.writer.transport.abort)
            return client

        yield connect


def run(device: FakeDevice, directory: Path, test: Callable[[Connect], Any]) -> None:
    """Run the coroutine function test against a server for device."""

    async def main() -> None:
        async with serving(device, directory) as connect:
            await test(connect)

    asyncio.run(asyncio.wait_for(main(), 20))


def with_allowed_ips(count: int) -> DeviceSnapshot:
    many = tuple(AllowedIP(bytes([10, *n.to_bytes(3, "big")]), 32) for n in range(count))
    peer = PeerSnapshot(KEY, ZERO_KEY, None, 0, 0, 0, 0, many)
    return DeviceSnapshot(private_key=ZERO_KEY, listen_port=0, fwmark=0, peers=(peer,))
