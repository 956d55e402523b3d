# SPDX-License-Identifier: MIT
"""The status socket: what clients get, and what those who mean no good cost."""

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from garbage import without_garbage_collector

from wgpy import status_socket as status_module
from wgpy.status import (
    SUFFIX,
    DeviceStatus,
    Diagnosis,
    PeerStatus,
    Severity,
    from_json_untrusted,
)
from wgpy.status_socket import CLIENTS_MAX, StatusServer
from wgpy.uapi.socket_file import open_socket

NEVER_S = 3600.0
CONNECTIONS = 1_000
SOME = 500  # blocks of memory that may come and go; half of one for each connection


class FakeEngine:
    """Counts how often it is asked; the count is the listen port, so that lines differ."""

    def __init__(self, peers: int = 0) -> None:
        self.peers = tuple(PeerStatus(n.to_bytes(32, "big")) for n in range(peers))
        self.diagnoses: tuple[Diagnosis, ...] = ()
        self.taken = 0
        self.fail: Exception | None = None
        self.on_take: Callable[[], None] = lambda: None

    async def status(self) -> DeviceStatus:
        self.taken += 1
        self.on_take()
        if self.fail is not None:
            raise self.fail
        return DeviceStatus(
            "wg0", listen_port=self.taken, diagnoses=self.diagnoses, peers=self.peers
        )


class Client:
    """A connection that reads when it is told to, and does nothing else."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)
        self.socket.connect(path)
        self.rest = b""

    async def line(self) -> bytes:
        """The next one; b"" if the server ends the connection before that."""
        while b"\n" not in self.rest:
            try:
                piece = self.socket.recv(1 << 16)
            except BlockingIOError:
                await asyncio.sleep(0.001)
                continue
            except ConnectionError:
                return b""
            if not piece:
                return b""
            self.rest += piece
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    async def number(self) -> int:
        """How many the status that comes next is."""
        return from_json_untrusted(await self.line()).listen_port


Connect = Callable[[], Client]
Scenario = Callable[[Connect], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(engine: FakeEngine, directory: Path) -> AsyncIterator[tuple[StatusServer, str]]:
    listener = open_socket("wg0", directory, SUFFIX)
    path = listener.getsockname()
    with contextlib.closing(StatusServer(listener, engine.status)) as server:
        yield server, path
    await asyncio.sleep(0)  # for its task to end


def run(engine: FakeEngine, directory: Path, scenario: Scenario) -> None:
    async def main() -> None:
        with contextlib.ExitStack() as stack:

            def connect() -> Client:
                client = Client(path)
                stack.enter_context(client.socket)
                return client

            async with serving(engine, directory) as (_, path):
                await scenario(connect)

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines come as fast as they are read."""
    monkeypatch.setattr(status_module, "INTERVAL_S", 0.0)
    monkeypatch.setattr(status_module, "SHARE", 0)


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only newcomers get a line."""
    monkeypatch.setattr(status_module, "INTERVAL_S", NEVER_S)


# ---- what a client gets ----


def test_a_client_is_told_the_status_at_once(
    engine: FakeEngine, tmp_path: Path, seldom: None
) -> None:
    async def scenario(connect: Connect) -> None:
        expected = DeviceStatus("wg0", listen_port=1, diagnoses=())
        assert from_json_untrusted(await connect().line()) == expected

    run(engine, tmp_path, scenario)


def test_and_then_again_and_again(engine: FakeEngine, tmp_path: Path, often: None) -> None:
    async def scenario(connect: Connect) -> None:
        client = connect()
        numbers = [await client.number() for _ in range(5)]
        assert numbers == sorted(set(numbers))

    run(engine, tmp_path, scenario)


def test_all_peers_are_in_it_however_many(tmp_path: Path, seldom: None) -> None:
    for count in (1, 31, 32, 33, 10_000):
        engine = FakeEngine(count)

        async def scenario(connect: Connect, engine: FakeEngine = engine) -> None:
            assert from_json_untrusted(await connect().line()).peers == engine.peers

        directory = tmp_path / str(count)
        run(engine, directory, scenario)


def test_what_is_wrong_is_in_it_however_much(tmp_path: Path, seldom: None) -> None:
    for count in (0, 1, 32, 33, 1_000):
        engine = FakeEngine(count)
        engine.diagnoses = tuple(
            Diagnosis("no-answer", Severity.ERROR, "a sentence", peer.public_key)
            for peer in engine.peers
        )

        async def scenario(connect: Connect, engine: FakeEngine = engine) -> None:
            read = from_json_untrusted(await connect().line())
            assert (read.diagnoses, read.peers) == (engine.diagnoses, engine.peers)

        run(engine, tmp_path / str(count), scenario)


def test_others_have_their_turn_while_a_long_line_is_made(tmp_path: Path, seldom: None) -> None:
    async def scenario(connect: Connect) -> None:
        client, turns = connect(), 0
        line = asyncio.create_task(client.line())
        while not line.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 10_000 / status_module._PER_PIECE

    run(FakeEngine(10_000), tmp_path, scenario)


def test_clients_share_a_status(
    engine: FakeEngine, tmp_path: Path, seldom: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_module, "SHARE", sys.maxsize)

    async def scenario(connect: Connect) -> None:
        assert await connect().number() == 1
        assert [await connect().number() for _ in range(5)] == [1] * 5

    run(engine, tmp_path, scenario)


def test_nobody_is_asked_while_nobody_looks(
    engine: FakeEngine, tmp_path: Path, often: None
) -> None:
    async def scenario(connect: Connect) -> None:
        client = connect()
        await client.line()
        client.socket.close()
        taken = 0
        while engine.taken != taken:
            taken = engine.taken
            for _ in range(100):
                await asyncio.sleep(0)

    run(engine, tmp_path, scenario)


def test_a_newcomer_costs_others_no_line(engine: FakeEngine, tmp_path: Path, seldom: None) -> None:
    async def scenario(connect: Connect) -> None:
        first = connect()
        assert await first.number() == 1
        for _ in range(5):
            await connect().line()
        with pytest.raises(BlockingIOError):
            first.socket.recv(1)

    run(engine, tmp_path, scenario)


def test_the_end_of_the_server_is_that_of_its_clients(
    engine: FakeEngine, tmp_path: Path, seldom: None
) -> None:
    async def main() -> None:
        async with serving(engine, tmp_path) as (_, path):
            client = Client(path)
            await client.line()
        with client.socket:
            assert await client.line() == b""
        with pytest.raises(ConnectionRefusedError):
            Client(path)

    asyncio.run(asyncio.wait_for(main(), 20))


# ---- what may go wrong ----


def test_a_status_that_cannot_be_taken_ends_connections_and_not_the_server(
    engine: FakeEngine,
    tmp_path: Path,
    often: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(connect: Connect) -> None:
        engine.fail = OSError(errno.EIO, os.strerror(errno.EIO))
        assert await connect().line() == b""
        engine.fail = None
        assert await connect().number() > 1

    run(engine, tmp_path, scenario)
    assert {record.getMessage() for record in caplog.records} == {"cannot tell the status"}


def test_a_failure_is_told_once_an_interval_however_many_come(
    engine: FakeEngine, tmp_path: Path, seldom: None, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(connect: Connect) -> None:
        engine.fail = OSError(errno.EIO, os.strerror(errno.EIO))
        assert await connect().line() == b""
        for _ in range(100):
            connect()
            await asyncio.sleep(0)

    run(engine, tmp_path, scenario)
    assert len(caplog.records) == 1


def test_a_status_too_long_for_a_line_is_not_sent(
    engine: FakeEngine, tmp_path: Path, seldom: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_module, "DOCUMENT_MAX", 100)

    async def scenario(connect: Connect) -> None:
        assert await connect().line() == b""

    run(engine, tmp_path, scenario)


def test_what_a_client_sends_is_never_read(engine: FakeEngine, tmp_path: Path, often: None) -> None:
    async def scenario(connect: Connect) -> None:
        talker, other = connect(), connect()
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += talker.socket.send(b"get=1\n\n" * 1000)
        for _ in range(5):
            await talker.line()
            await other.line()
        with pytest.raises(BlockingIOError):
            talker.socket.send(b"x" * sent)

    run(engine, tmp_path, scenario)


def test_a_client_that_has_said_all_is_told_all_the_same(
    engine: FakeEngine, tmp_path: Path, often: None
) -> None:
    async def scenario(connect: Connect) -> None:
        client = connect()
        client.socket.shutdown(socket.SHUT_WR)
        assert [bool(await client.line()) for _ in range(3)] == [True] * 3

    run(engine, tmp_path, scenario)


def test_a_client_that_does_not_read_gets_one_line_and_the_newest_when_it_does(
    engine: FakeEngine, tmp_path: Path, often: None
) -> None:
    async def scenario(connect: Connect) -> None:
        deaf, other = connect(), connect()
        while await other.number() < 100:
            pass
        assert await deaf.number() <= 2  # the first for both, or the next
        assert await deaf.number() >= 100

    run(engine, tmp_path, scenario)


def test_a_long_line_goes_to_a_slow_reader_whole(tmp_path: Path, often: None) -> None:
    async def scenario(connect: Connect) -> None:
        slow, other = connect(), connect()
        for _ in range(2):
            await other.line()
        assert len(from_json_untrusted(await slow.line()).peers) == 3000

    run(FakeEngine(3000), tmp_path, scenario)


def test_a_client_that_stops_within_a_line_is_dropped_after_a_while(
    tmp_path: Path,
    often: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(status_module, "STALL_S", 0.0)
    caplog.set_level(logging.INFO)

    async def scenario(connect: Connect) -> None:
        client = connect()
        while not caplog.records:
            await asyncio.sleep(0.001)
        assert await client.line() == b""

    run(FakeEngine(3000), tmp_path, scenario)
    assert caplog.records[0].getMessage() == "dropped a client that does not read its status"


def test_there_is_room_for_a_newcomer_and_who_reads_keeps_its_place(
    engine: FakeEngine, tmp_path: Path, often: None
) -> None:
    async def scenario(connect: Connect) -> None:
        reader = connect()
        await reader.line()
        for _ in range(3 * CLIENTS_MAX):  # they read nothing
            connect()
            await reader.line()
        newcomer = connect()
        for _ in range(3):
            assert await newcomer.line()
            assert await reader.line()

    run(engine, tmp_path, scenario)


# ---- memory ----


async def leaves_at_once(client: Client) -> None:
    pass


async def reads_and_leaves(client: Client) -> None:
    assert await client.line()


async def leaves_within_a_line(client: Client) -> None:
    while not client.rest:
        try:
            client.rest = client.socket.recv(1)
        except BlockingIOError:
            await asyncio.sleep(0)
        except ConnectionError:
            return


async def talks_and_leaves(client: Client) -> None:
    with contextlib.suppress(OSError):
        client.socket.send(b"set=1\n" * 1000)


@pytest.mark.parametrize(
    "behave", [leaves_at_once, reads_and_leaves, leaves_within_a_line, talks_and_leaves]
)
def test_a_thousand_connections_leave_nothing_behind(
    behave: Callable[[Client], Awaitable[None]], tmp_path: Path, often: None
) -> None:
    """Many at once, and another that reads all the while."""

    async def main() -> None:
        async with serving(FakeEngine(CONNECTIONS), tmp_path) as (server, path):

            async def meet(count: int) -> None:
                for _ in range(count // 10):
                    clients = [Client(path) for _ in range(10)]
                    await asyncio.gather(*map(behave, clients))
                    for client in clients:
                        client.socket.close()
                    await reads_and_leaves(watcher)
                while len(server._clients) > 1:
                    await reads_and_leaves(watcher)

            watcher = Client(path)
            with watcher.socket:
                await meet(2 * CONNECTIONS)  # some 2,000 blocks are made once
                before = sys.getallocatedblocks()
                fds = len(os.listdir("/proc/self/fd"))
                await meet(CONNECTIONS)
                assert len(os.listdir("/proc/self/fd")) == fds
                assert sys.getallocatedblocks() - before < SOME

    with without_garbage_collector():
        asyncio.run(asyncio.wait_for(main(), 120))


# ---- the file ----


def test_two_of_one_name_are_not_served(tmp_path: Path) -> None:
    with open_socket("wg0", tmp_path, SUFFIX), pytest.raises(OSError, match="served") as caught:
        open_socket("wg0", tmp_path, SUFFIX)
    assert caught.value.errno == errno.EADDRINUSE


def test_the_socket_of_wg_has_another_name(tmp_path: Path) -> None:
    with open_socket("wg0", tmp_path, SUFFIX), open_socket("wg0", tmp_path):
        assert sorted(os.listdir(tmp_path)) == ["wg0.sock", "wg0.status"]


def test_it_is_json_in_one_line(engine: FakeEngine, tmp_path: Path, seldom: None) -> None:
    async def scenario(connect: Connect) -> None:
        assert json.loads(await connect().line())["version"] == 1

    run(engine, tmp_path, scenario)
