# SPDX-License-Identifier: MIT
"""The configuration socket: good, bad and slow clients."""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import (
    EMPTY_REPLY,
    GET,
    KEY_HEX,
    OK,
    Client,
    Connect,
    FakeDevice,
    run,
    with_allowed_ips,
)

from wgpy.config import DeviceChange
from wgpy.errors import ConfigError
from wgpy.uapi import server as server_module
from wgpy.uapi.protocol import LINE_MAX
from wgpy.uapi.server import UapiServer
from wgpy.uapi.socket_file import open_socket

# ---- requests and replies ----


def test_a_get_is_answered_with_the_snapshot(device: FakeDevice, directory: Path) -> None:
    async def test(connect: Connect) -> None:
        client = await connect()
        assert await client.ask(GET) == EMPTY_REPLY

    run(device, directory, test)


def test_a_set_is_applied_once_and_as_a_whole(device: FakeDevice, directory: Path) -> None:
    async def test(connect: Connect) -> None:
        client = await connect()
        assert await client.ask(b"set=1\nlisten_port=5\nfwmark=6\n\n") == OK
        assert await client.ask(GET) == b"listen_port=5\nfwmark=6\n" + OK

    run(device, directory, test)
    assert device.changes == [DeviceChange(listen_port=5, fwmark=6)]


def test_a_connection_carries_many_requests_in_one_write(
    device: FakeDevice, directory: Path
) -> None:
    async def test(connect: Connect) -> None:
        client = await connect()
        await client.send(b"".join(b"set=1\nlisten_port=%d\n\n\n" % n + GET for n in range(500)))
        for n in range(500):
            assert await client.reply() == OK
            assert await client.reply() == b"listen_port=%d\n" % n + OK

    run(device, directory, test)


def test_a_request_may_come_byte_by_byte(device: FakeDevice, directory: Path) -> None:
    async def test(connect: Connect) -> None:
        slow, other = await connect(), await connect()
        for byte in b"set=1\nlisten_port=51820\n":
            await slow.send(bytes([byte]))
            assert await other.ask(GET) == EMPTY_REPLY
        assert await slow.ask(b"\n") == OK
        assert await other.ask(GET) == b"listen_port=51820\n" + OK

    run(device, directory, test)


def test_a_bad_request_changes_nothing_and_the_next_is_served(
    device: FakeDevice, directory: Path
) -> None:
    async def test(connect: Connect) -> None:
        client = await connect()
        bad = b"set=1\nlisten_port=5\nfwmark=x\nlisten_port=6\n\n"
        assert await client.ask(bad) == b"errno=-22\n\n"
        assert await client.ask(b"set=1\nlisten_port\n\n") == b"errno=-71\n\n"
        assert await client.ask(GET) == EMPTY_REPLY

    run(device, directory, test)
    assert device.changes == []


@pytest.mark.parametrize("code", [errno.EADDRINUSE, errno.EINVAL])
def test_a_change_that_the_device_refuses_is_answered_with_its_errno(
    code: int, device: FakeDevice, directory: Path
) -> None:
    async def test(connect: Connect) -> None:
        client = await connect()
        assert await client.ask(b"set=1\nlisten_port=5\n\n") == b"errno=%d\n\n" % -code

    device.fail = ConfigError(code, "no")
    run(device, directory, test)


@pytest.mark.parametrize("request_", [GET, b"set=1\n\n"])
def test_a_failure_of_the_device_is_an_io_error_and_the_server_lives_on(
    request_: bytes, device: FakeDevice, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(connect: Connect) -> None:
        client = await connect()
        device.fail = RuntimeError("broken")
        assert await client.ask(request_) == b"errno=-5\n\n"
        device.fail = None
        assert await client.ask(GET) == EMPTY_REPLY

    run(device, directory, test)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is RuntimeError


def test_an_error_is_logged_with_its_line_made_printable(
    device: FakeDevice, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(connect: Connect) -> None:
        client = await connect()
        assert await client.ask(b"set=1\nfwmark=\x1b[2J\xff\n\n") == b"errno=-22\n\n"

    run(device, directory, test)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("wgpy.uapi.server", logging.ERROR)
    assert record.getMessage() == r"refused a request: bad value (EINVAL): 'fwmark=\x1b[2J\xff'"


def test_a_log_never_holds_a_key(
    device: FakeDevice, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "5ec2e7" * 11
    base64 = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="

    async def test(connect: Connect) -> None:
        client = await connect()
        for text in (secret, base64):
            for line in ("{}", "private_key={}", "fwmark={}", "key: {}", "x={}"):
                bad = f"set=1\n{line.format(text)}\n\n".encode()
                assert await client.ask(bad) in (b"errno=-22\n\n", b"errno=-71\n\n")

    caplog.set_level(logging.DEBUG)
    run(device, directory, test)
    assert len([record for record in caplog.records if record.name == "wgpy.uapi.server"]) == 10
    assert "5ec2e7" not in caplog.text
    assert base64[:8] not in caplog.text


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_no_bytes_stop_the_server_or_change_the_device(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    async def test(connect: Connect) -> None:
        hostile, good = await connect(), await connect()
        await hostile.send(b"set=1\nlisten_port=5\n= \n" + data)
        hostile.writer.write_eof()
        await hostile.reader.read()
        assert await good.ask(GET) == EMPTY_REPLY

    device = FakeDevice()
    run(device, tmp_path_factory.mktemp("uapi"), test)
    assert device.changes == []


# ---- the end of the stream ----


def test_a_set_may_end_with_the_stream(device: FakeDevice, directory: Path) -> None:
    async def test(connect: Connect) -> None:
        client = await connect()
        await client.send(b"set=1\nlisten_port=5\n")
        client.writer.write_eof()
        assert await client.reply() == OK
        assert await client.ended()

    run(device, directory, test)
    assert device.changes == [DeviceChange(listen_port=5)]


def test_a_get_may_end_with_the_stream(device: FakeDevice, directory: Path) -> None:
    async def test(connect: Connect) -> None:
        client = await connect()
        await client.send(b"get=1\n")
        client.writer.write_eof()
        assert await client.reply() == EMPTY_REPLY

    run(device, directory, test)


def test_a_set_cut_off_within_a_line_is_not_applied(device: FakeDevice, directory: Path) -> None:
    async def test(connect: Connect) -> None:
        client = await connect()
        await client.send(b"set=1\nlisten_port=518")
        client.writer.write_eof()
        assert await client.reply() == b"errno=-71\n\n"

    run(device, directory, test)
    assert device.changes == []


def test_connecting_and_leaving_is_no_error(
    device: FakeDevice, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(connect: Connect) -> None:
        client = await connect()
        client.writer.write_eof()
        assert await client.ended()

    run(device, directory, test)
    assert caplog.records == []


# ---- many, slow and hostile clients ----


def test_silent_clients_hold_up_nobody(device: FakeDevice, directory: Path) -> None:
    async def work(connect: Connect) -> None:
        client = await connect()
        for _ in range(10):
            assert await client.ask(b"set=1\nfwmark=0\n\n") == OK
            assert await client.ask(GET) == EMPTY_REPLY

    async def test(connect: Connect) -> None:
        silent = [await connect() for _ in range(4)]
        starts = (b"", b"s", b"get=1\n", b"set=1\nlisten_port=5\n")
        for client, start in zip(silent, starts, strict=True):
            await client.send(start)
        await asyncio.gather(*(work(connect) for _ in range(64)))

    run(device, directory, test)
    assert len(device.changes) == 640


def test_a_line_without_end_is_refused_and_the_connection_closed(
    device: FakeDevice, directory: Path
) -> None:
    async def test(connect: Connect) -> None:
        client = await connect()
        await client.send(b"set=1\n" + b"x" * (LINE_MAX + 1))
        assert await client.reply() == b"errno=-%d\n\n" % errno.EMSGSIZE
        assert await client.ended()

    run(device, directory, test)


def test_a_get_during_a_big_set_sees_the_state_before_it(
    device: FakeDevice, directory: Path
) -> None:
    lines = b"".join(b"allowed_ip=10.%d.%d.0/24\n" % (n >> 8, n & 255) for n in range(20_000))

    async def test(connect: Connect) -> None:
        setting, getting = await connect(), await connect()
        await setting.send(b"set=1\npublic_key=" + KEY_HEX.encode() + b"\n" + lines)
        assert await getting.ask(GET) == EMPTY_REPLY
        assert await setting.ask(lines + b"\n") == OK
        assert (await getting.ask(GET)).count(b"allowed_ip=") == 40_000

    run(device, directory, test)


# ---- long changes ----

LONG = b"set=1\nreplace_peers=true\npublic_key=" + KEY_HEX.encode() + b"\n\n"
SHORT = b"set=1\nfwmark=7\n\n"


def test_a_get_waits_for_the_long_change_before_it(device: FakeDevice, directory: Path) -> None:
    device.pieces = 100

    async def test(connect: Connect) -> None:
        changing, getting = await connect(), await connect()
        await changing.send(LONG)
        while not device.changes:
            await asyncio.sleep(0)
        assert KEY_HEX.encode() in await getting.ask(GET)
        assert await changing.reply() == OK

    run(device, directory, test)


def test_a_short_change_is_answered_in_the_middle_of_a_long_one(
    device: FakeDevice, directory: Path
) -> None:
    device.pieces = 1_000_000

    async def test(connect: Connect) -> None:
        changing, other = await connect(), await connect()
        await changing.send(LONG)
        while not device.changes:
            await asyncio.sleep(0)
        device.pieces = 0
        assert await other.ask(SHORT) == OK
        assert device.applied == device.changes[1:]

    run(device, directory, test)
    assert device.applied == device.changes[::-1]


def test_long_changes_are_applied_one_after_the_other(device: FakeDevice, directory: Path) -> None:
    device.pieces = 20

    async def test(connect: Connect) -> None:
        clients = [await connect() for _ in range(5)]
        assert await asyncio.gather(*(client.ask(LONG) for client in clients)) == [OK] * 5

    run(device, directory, test)
    assert device.log == ["begin", "end"] * 5


def test_a_long_change_is_applied_whole_though_its_client_is_dropped(
    device: FakeDevice, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.pieces = 100_000
    monkeypatch.setattr(server_module, "CLIENTS_MAX", 1)

    async def test(connect: Connect) -> None:
        changing = await connect()
        await changing.send(LONG)
        while not device.changes:
            await asyncio.sleep(0)
        other = await connect()
        assert KEY_HEX.encode() in await other.ask(GET)
        assert await changing.ended()

    run(device, directory, test)
    assert device.applied == device.changes


def test_a_long_change_that_is_refused_lets_the_next_one_go_on(
    device: FakeDevice, directory: Path
) -> None:
    async def test(connect: Connect) -> None:
        client = await connect()
        device.fail = ConfigError(errno.ENOMEM, "too many")
        assert await client.ask(LONG) == b"errno=-%d\n\n" % errno.ENOMEM
        device.fail = None
        assert await client.ask(LONG) == OK

    run(device, directory, test)


def test_a_client_that_does_not_read_is_not_written_to(device: FakeDevice, directory: Path) -> None:
    device.state = with_allowed_ips(100_000)

    async def test(connect: Connect) -> None:
        deaf, other = await connect(), await connect()
        deaf.stop_reading()
        await deaf.send(GET * 100)
        for _ in range(5):
            assert (await other.ask(GET)).endswith(OK)

    run(device, directory, test)
    assert device.snapshots == 1 + 5


def test_a_client_that_does_not_read_for_long_is_dropped(
    device: FakeDevice,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    device.state = with_allowed_ips(100_000)
    monkeypatch.setattr(server_module, "STALL_S", 0.01)

    async def test(connect: Connect) -> None:
        deaf = await connect()
        deaf.stop_reading()
        with logged_events() as logged:
            await deaf.send(GET)
            assert await logged.get() == "dropped a client that does not read"
        deaf.read_again()
        assert not (await deaf.reader.read()).endswith(OK)

    caplog.set_level(logging.INFO)
    run(device, directory, test)


@contextlib.contextmanager
def logged_events() -> Iterator[asyncio.Queue[str]]:
    """The server's log messages as they come."""
    messages: asyncio.Queue[str] = asyncio.Queue()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.put_nowait(record.getMessage())

    logger, handler = logging.getLogger("wgpy.uapi.server"), Handler()
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def test_a_client_that_leaves_within_a_reply_harms_nobody(
    device: FakeDevice, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device.state = with_allowed_ips(100_000)

    async def test(connect: Connect) -> None:
        leaving, other = await connect(), await connect()
        await leaving.send(GET * 3)
        await leaving.reader.readexactly(1)
        leaving.writer.transport.abort()
        assert (await other.ask(GET)).endswith(OK)

    run(device, directory, test)
    assert caplog.records == []


def test_the_client_idle_for_longest_makes_room(
    device: FakeDevice, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "CLIENTS_MAX", 2)

    async def test(connect: Connect) -> None:
        first, second = await connect(), await connect()
        assert await second.ask(GET) == EMPTY_REPLY
        assert await first.ask(GET) == EMPTY_REPLY
        third = await connect()
        assert await second.ended()
        assert await first.ask(GET) == EMPTY_REPLY
        assert await third.ask(GET) == EMPTY_REPLY

    run(device, directory, test)


def test_closing_drops_the_clients_and_stops_listening_and_no_more(
    device: FakeDevice, directory: Path
) -> None:
    async def main() -> None:
        server = UapiServer(device.changing, device.snapshot)
        sock = open_socket("wg-test", directory)
        path = sock.getsockname()
        server.serve(sock)
        client = Client(*await asyncio.open_unix_connection(path))
        assert await client.ask(GET) == EMPTY_REPLY
        server.close()
        assert await client.ended()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_unix_connection(path)
        assert Path(path).exists()  # whose removal is not the server's

    asyncio.run(asyncio.wait_for(main(), 20))
