"""The configuration socket: good, bad and slow clients, the real tools, and the socket's file."""

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import socket
import stat
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wireguard_tools import WireguardConfig, WireguardKey, WireguardPeer
from wireguard_tools.wireguard_uapi import WireguardUAPIDevice

from wgpy.config import (
    ZERO_KEY,
    AllowedIP,
    DeviceChange,
    DeviceSnapshot,
    PeerChange,
    PeerSnapshot,
)
from wgpy.errors import ConfigError
from wgpy.uapi import server as server_module
from wgpy.uapi.protocol import LINE_MAX
from wgpy.uapi.server import (
    DIRECTORY,
    SocketFile,
    SocketWatch,
    UapiServer,
    open_socket,
)

KEY = bytes(range(32))
KEY_HEX = KEY.hex()
OK = b"errno=0\n\n"
GET = b"get=1\n\n"
EMPTY_REPLY = b"listen_port=0\n" + OK

needs_wg = pytest.mark.skipif(
    shutil.which("wg") is None or os.geteuid() != 0, reason="needs root and the wg tool"
)


class FakeDevice:
    """Keeps what it is told, as a device would; `fail` makes every change fail."""

    def __init__(self) -> None:
        self.state = DeviceSnapshot(private_key=ZERO_KEY, listen_port=0, fwmark=0, peers=())
        self.changes: list[DeviceChange] = []
        self.snapshots = 0
        self.fail: Exception | None = None

    def snapshot(self) -> DeviceSnapshot:
        self.snapshots += 1
        if self.fail is not None:
            raise self.fail
        return self.state

    def configure(self, change: DeviceChange) -> None:
        if self.fail is not None:
            raise self.fail
        self.changes.append(change)
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
        allowed_ips=kept + change.allowed_ips,
    )


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> bytes:
        return await self.reader.readuntil(b"\n\n")

    async def ask(self, data: bytes) -> bytes:
        await self.send(data)
        return await self.reply()

    def stop_reading(self) -> None:
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def read_again(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

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
    server = UapiServer(device.configure, device.snapshot)
    sock = open_socket("wg-test", directory)
    path = sock.getsockname()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(os.unlink, path)
        stack.callback(server.close)
        await server.serve(sock)

        async def connect() -> Client:
            client = Client(*await asyncio.open_unix_connection(path, limit=1 << 24))
            stack.callback(client.writer.transport.abort)
            return client

        yield connect


def run(device: FakeDevice, directory: Path, test: Callable[[Connect], Any]) -> None:
    """Run the coroutine function test against a server for device."""

    async def main() -> None:
        async with asyncio.timeout(20), serving(device, directory) as connect:
            await test(connect)

    asyncio.run(main())


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run"


def with_allowed_ips(count: int) -> DeviceSnapshot:
    many = tuple(AllowedIP(bytes([10, *n.to_bytes(3, "big")]), 32) for n in range(count))
    peer = PeerSnapshot(KEY, ZERO_KEY, None, 0, 0, 0, 0, many)
    return DeviceSnapshot(private_key=ZERO_KEY, listen_port=0, fwmark=0, peers=(peer,))


# ---- requests and replies -----------------------------------------------------------------------


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
    assert (record.name, record.levelno) == ("wgpy.uapi", logging.ERROR)
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
    assert len([record for record in caplog.records if record.name == "wgpy.uapi"]) == 10
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


# ---- the end of the stream ----------------------------------------------------------------------


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


# ---- many, slow and hostile clients -------------------------------------------------------------


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
        await deaf.send(GET)
        with logged_events() as logged:
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

    logger, handler = logging.getLogger("wgpy.uapi"), Handler()
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


def test_closing_drops_the_clients_and_stops_listening(device: FakeDevice, directory: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            server = UapiServer(device.configure, device.snapshot)
            sock = open_socket("wg-test", directory)
            path = sock.getsockname()
            await server.serve(sock)
            client = Client(*await asyncio.open_unix_connection(path))
            assert await client.ask(GET) == EMPTY_REPLY
            server.close()
            assert await client.ended()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_unix_connection(path)

    asyncio.run(main())


# ---- the real tools -----------------------------------------------------------------------------

CONFIGURATION = """\
[Interface]
ListenPort = 51820
FwMark = 0xca6c
PrivateKey = oK56DE9Ue9zK76rAc8pBl6opph+1v36lm7cXXsQKrQM=

[Peer]
PublicKey = GtL7fZc/bLnqZldpVofMCD6hDjrK28SsdLxevJ+qtKU=
PresharedKey = /UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak=
AllowedIPs = 10.0.0.0/24, 2001:db8::/32
Endpoint = 192.0.2.1:51821
PersistentKeepalive = 25

[Peer]
PublicKey = nLiu0wrgNyi4/6oEOEU8xSCSGlYjHPs2JE7R8/R7Vkc=
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = [2001:db8::1]:51822
"""
PUBLIC = "GtL7fZc/bLnqZldpVofMCD6hDjrK28SsdLxevJ+qtKU="


class Tools:
    """Runs wg against our socket, where it looks for it."""

    def __init__(self, interface: str) -> None:
        self.interface = interface
        self.path = DIRECTORY / f"{interface}.sock"

    async def wg(self, verb: str, *arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            "wg", verb, self.interface, *arguments, stdout=-1, stderr=-1
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def ok(self, verb: str, *arguments: str) -> str:
        code, out, err = await self.wg(verb, *arguments)
        assert (code, err) == (0, "")
        return out


def run_tools(device: FakeDevice, test: Callable[[Tools], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        tools = Tools(f"wgt{os.getpid()}")
        server = UapiServer(device.configure, device.snapshot)
        async with asyncio.timeout(20), contextlib.AsyncExitStack() as stack:
            sock = open_socket(tools.interface)
            stack.callback(SocketFile.of(sock).remove)
            stack.callback(server.close)
            await server.serve(sock)
            await test(tools)

    asyncio.run(main())


@needs_wg
def test_wg_showconf_gives_what_wg_setconf_set(device: FakeDevice, tmp_path: Path) -> None:
    path = tmp_path / "wg.conf"
    path.write_text(CONFIGURATION)

    async def test(tools: Tools) -> None:
        await tools.ok("setconf", str(path))
        assert (await tools.ok("showconf")).split() == CONFIGURATION.split()
        await tools.ok("syncconf", str(path))
        assert (await tools.ok("showconf")).split() == CONFIGURATION.split()

    run_tools(device, test)


@needs_wg
def test_wg_set_changes_what_wg_show_shows(device: FakeDevice) -> None:
    async def test(tools: Tools) -> None:
        await tools.ok("set", "listen-port", "7", "fwmark", "0x10")
        assert await tools.ok("show", "listen-port") == "7\n"
        assert await tools.ok("show", "fwmark") == "0x10\n"
        await tools.ok("set", "peer", PUBLIC, "endpoint", "[fe80::1%lo]:9", "allowed-ips", "::1")
        assert await tools.ok("show", "endpoints") == f"{PUBLIC}\t[fe80::1%lo]:9\n"
        assert await tools.ok("show", "allowed-ips") == f"{PUBLIC}\t::1/128\n"
        assert PUBLIC in await tools.ok("show")
        await tools.ok("set", "fwmark", "off", "peer", PUBLIC, "remove")
        assert await tools.ok("show", "fwmark") == "off\n"
        assert await tools.ok("show", "peers") == ""

    run_tools(device, test)


@needs_wg
def test_wg_tells_the_error_of_a_refused_change(device: FakeDevice) -> None:
    async def test(tools: Tools) -> None:
        code, _, err = await tools.wg("set", "listen-port", "7")
        assert code == 1
        assert os.strerror(errno.EADDRINUSE) in err

    device.fail = ConfigError(errno.EADDRINUSE, "taken")
    run_tools(device, test)


@needs_wg
def test_wg_lists_the_interface_and_leaves_no_error(
    device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(tools: Tools) -> None:
        process = await asyncio.create_subprocess_exec("wg", "show", "interfaces", stdout=-1)
        out, _ = await process.communicate()
        assert tools.interface in out.decode().split()

    run_tools(device, test)
    assert [record for record in caplog.records if record.name == "wgpy.uapi"] == []


def test_the_pypi_client_sets_and_gets(device: FakeDevice, directory: Path) -> None:
    key, public = WireguardKey(KEY_HEX), WireguardKey(PUBLIC)
    peer = WireguardPeer(
        public, endpoint_host="192.0.2.1", endpoint_port=51820, persistent_keepalive=25
    )
    peer.allowed_ips += WireguardPeer(public, allowed_ips=["10.0.0.0/24", "fd00::/64"]).allowed_ips

    def set_and_get() -> WireguardConfig:
        client = WireguardUAPIDevice(directory / "wg-test.sock")
        with contextlib.closing(client):
            config = WireguardConfig(private_key=key, listen_port=7, fwmark=8)
            config.add_peer(peer)
            client.set_config(config)
            return client.get_config()

    async def test(connect: Connect) -> None:
        config = await asyncio.to_thread(set_and_get)
        assert (config.private_key, config.listen_port, config.fwmark) == (key, 7, 8)
        (got,) = config.peers.values()
        assert (got.public_key, got.persistent_keepalive) == (public, 25)
        assert (str(got.endpoint_host), got.endpoint_port) == ("192.0.2.1", 51820)
        assert [str(prefix) for prefix in got.allowed_ips] == ["10.0.0.0/24", "fd00::/64"]

    run(device, directory, test)


# ---- the socket file ----------------------------------------------------------------------------


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_directory_is_for_all_and_the_socket_for_its_owner(umask: int, directory: Path) -> None:
    before = os.umask(umask)
    try:
        with open_socket("wg0", directory):
            assert mode_of(directory) == 0o755
            assert mode_of(directory / "wg0.sock") == 0o700
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file to a group")
def test_the_socket_may_be_given_to_a_group_as_well(directory: Path) -> None:
    with open_socket("wg0", directory, group=1):
        status = (directory / "wg0.sock").lstat()
        assert (status.st_uid, status.st_gid) == (os.geteuid(), 1)
        assert stat.S_IMODE(status.st_mode) == 0o660


@pytest.mark.parametrize(("mode", "gid"), [(0o700, 0), (0o700, 1), (0o701, 1), (0o710, 0)])
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory to a group")
def test_a_directory_closed_to_the_group_is_refused(mode: int, gid: int, directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, -1, gid)
    directory.chmod(mode)
    with pytest.raises(PermissionError, match="closed to the group"):
        open_socket("wg0", directory, group=1)
    assert list(directory.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory to a group")
def test_a_directory_of_the_group_will_do(directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, -1, 1)
    directory.chmod(0o710)
    open_socket("wg0", directory, group=1).close()


def test_a_socket_that_cannot_be_given_away_is_not_left_behind(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(PermissionError):
        open_socket("wg0", directory, group=1)
    assert list(directory.iterdir()) == []


def test_a_socket_that_answers_is_left_alone(directory: Path) -> None:
    with open_socket("wg0", directory) as sock:
        file = SocketFile.of(sock)
        with pytest.raises(OSError, match="already served") as caught:
            open_socket("wg0", directory)
        assert caught.value.errno == errno.EADDRINUSE
        assert file.exists()


def test_a_socket_with_a_full_backlog_is_left_alone(directory: Path) -> None:
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(open_socket("wg0", directory))
        sock.listen(0)
        code = 0
        while code == 0:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            code = client.connect_ex(sock.getsockname())
        assert code == errno.EAGAIN
        with pytest.raises(OSError, match="already served"):
            open_socket("wg0", directory)


def test_a_stale_socket_is_replaced(directory: Path) -> None:
    open_socket("wg0", directory).close()
    assert (directory / "wg0.sock").exists()
    with open_socket("wg0", directory) as sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(sock.getsockname())


def test_another_file_in_its_place_is_left_alone(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    path = directory / "wg0.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        open_socket("wg0", directory)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_directory_that_others_can_write_is_refused(mode: int, directory: Path) -> None:
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(PermissionError, match="writable by others"):
        open_socket("wg0", directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory away")
def test_a_directory_of_somebody_else_is_refused(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    os.chown(directory, 1, 1)
    with pytest.raises(PermissionError, match="writable by others"):
        open_socket("wg0", directory)


def test_a_link_in_the_place_of_the_directory_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for target in ("elsewhere", "nowhere"):
        directory.symlink_to(tmp_path / target)
        with pytest.raises(NotADirectoryError):
            open_socket("wg0", directory)
        directory.unlink()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("interface", ["", ".", "..", "../wg0", "a/b", "/"])
def test_a_name_that_leads_elsewhere_is_refused(interface: str, directory: Path) -> None:
    with pytest.raises(OSError, match="not an interface name"):
        open_socket(interface, directory)
    assert not directory.exists()


def test_removing_spares_the_socket_of_a_successor(directory: Path) -> None:
    with open_socket("wg0", directory) as first:
        file = SocketFile.of(first)
        file.path.unlink()
        with open_socket("wg0", directory) as second:
            file.remove()
            assert SocketFile.of(second).exists()
            SocketFile.of(second).remove()
            assert not file.path.exists()
            SocketFile(file.path, file.device, file.inode).remove()


@pytest.mark.parametrize("name", ["", "\0wgpy-test-abstract"])
def test_a_socket_without_a_file_has_no_socket_file(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        if name:
            sock.bind(f"{name}-{os.getpid()}")
        with pytest.raises(FileNotFoundError):
            SocketFile.of(sock)


# ---- the watch ----------------------------------------------------------------------------------


def unlink(path: Path) -> None:
    path.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_suffix(".old"))


def replace_by_another(path: Path) -> None:
    other = path.with_suffix(".new")
    other.touch()
    other.rename(path)


def remove_the_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("remove", [unlink, rename, replace_by_another, remove_the_directory])
def test_the_watch_tells_when_the_file_is_gone(
    remove: Callable[[Path], None], directory: Path
) -> None:
    async def main() -> None:
        with open_socket("wg0", directory) as sock:
            removed = asyncio.Event()
            file = SocketFile.of(sock)
            with contextlib.closing(SocketWatch(file, removed.set)):
                remove(file.path)
                async with asyncio.timeout(20):
                    await removed.wait()

    asyncio.run(main())


def test_the_watch_tells_nothing_else_and_only_once(directory: Path) -> None:
    told: list[str] = []

    async def main() -> None:
        with open_socket("wg0", directory) as first, open_socket("wg1", directory) as second:
            both_seen = asyncio.Event()
            mine, other = SocketFile.of(first), SocketFile.of(second)
            one = SocketWatch(mine, lambda: told.append("mine"))
            two = SocketWatch(other, both_seen.set)
            mine.path.chmod(0o600)
            os.utime(mine.path)
            other.path.unlink()
            async with asyncio.timeout(20):
                await both_seen.wait()
            one.close()
            one.close()
            two.close()
            mine.path.unlink()
            await asyncio.sleep(0)

    asyncio.run(main())
    assert told == []


def test_the_watch_does_without_inotify_when_the_host_has_no_more(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(path: Path) -> int:
        raise OSError(errno.EMFILE, f"no inotify for {path}")

    monkeypatch.setattr("wgpy.uapi.server._inotify_open", exhausted)
    monkeypatch.setattr("wgpy.uapi.server._LOOK_INTERVAL_S", 0.01)

    async def main() -> None:
        with open_socket("wg0", directory) as sock:
            removed = asyncio.Event()
            file = SocketFile.of(sock)
            with contextlib.closing(SocketWatch(file, removed.set)):
                file.path.unlink()
                async with asyncio.timeout(20):
                    await removed.wait()

    asyncio.run(main())


def test_the_watch_of_a_missing_file_is_refused(directory: Path) -> None:
    async def main() -> None:
        with open_socket("wg0", directory) as sock:
            file = SocketFile.of(sock)
            file.path.unlink()
            with pytest.raises(FileNotFoundError):
                SocketWatch(file, lambda: None)

    asyncio.run(main())
