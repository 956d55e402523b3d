# SPDX-License-Identifier: MIT
"""Programs with tunnels, which tests run as nobody; as in scenarios.py."""

import asyncio
import errno
import io
import logging
import os
import socket
import ssl
import sys
import tempfile
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv4Interface, ip_network
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from rootless.scenarios import NAME, answer, run_named, tell, told

from wgpy import (
    Config,
    ConfigError,
    DeviceChange,
    Endpoint,
    Host,
    LinkDeletedError,
    PeerChange,
    PeerConfig,
    Tunnel,
)
from wgpy.events import DiagnosisChanged, PeerRemoved
from wgpy.linux.netlink import LINK, MESSAGE, NLM_F_REQUEST, Netlink
from wgpy.protocol.noise import StaticKey
from wgpy.testing import LEFT, RIGHT, pair

RTM_DELLINK = 17  # <linux/rtnetlink.h>
SILENT = ip_network("198.51.100.0/24")
KEYS = bytes([1]) * 32, bytes([2]) * 32


def with_dns(config: Config) -> Config:
    """The name server is in the left tunnel."""
    return replace(config, dns=(IPv4Address(LEFT.v4),))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())
    writer.close()


async def exchange() -> None:
    """TCP over both families, UDP, and a port that only root may take elsewhere."""
    loop = asyncio.get_running_loop()
    data = os.urandom(1 << 20)
    async with pair() as (first, second):
        echoed = []
        for address in LEFT:
            async with await first.start_server(echo, address, 80):
                reader, writer = await second.open_connection(address, 80)
                writer.write(data)
                writer.write_eof()
                echoed.append(await reader.read() == data)
                writer.close()
        there = first.socket(socket.AF_INET, socket.SOCK_DGRAM)
        here = second.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with there, here:
            there.bind((LEFT.v4, 7))
            for udp in (there, here):
                udp.setblocking(False)
            await loop.run_in_executor(None, here.sendto, b"datagram", there.getsockname())
            readable = loop.create_future()
            loop.add_reader(there, readable.set_result, None)
            await readable
            loop.remove_reader(there)
            received, sender = there.recvfrom(100)
        with second.socket() as refusing:
            refusing.setblocking(False)
            try:
                await loop.sock_connect(refusing, (LEFT.v4, 81))
            except ConnectionRefusedError:
                echoed.append(True)
        status = await second.status()
        tell({
            "echoed": echoed,
            "datagram": received.decode(),
            "sender": sender[0],
            "sessions": [one.last_handshake_age_s is not None for one in status.peers],
            "up": status.up,
            "mtu": status.mtu,
        })  # fmt: skip


def certificate(directory: Path) -> tuple[Path, Path]:
    """Files of a key and a certificate for the first of two tunnels, by its address."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "first")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(LEFT.v4))]), False)
        .sign(key, hashes.SHA256())
    )
    no_password = serialization.NoEncryption()
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (directory / "key").write_bytes(key.private_bytes(pem, form, no_password))
    (directory / "cert").write_bytes(made.public_bytes(pem))
    return directory / "key", directory / "cert"


def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of the first of two tunnels, and of those who trust it."""
    with tempfile.TemporaryDirectory() as directory:
        key, cert = certificate(Path(directory))
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(cert, key)
        asking = ssl.create_default_context(cafile=str(cert))
    return serving, asking


async def https(program: str) -> None:
    """What the program of the documents has for httpx checks certificates as httpx does."""
    example: dict[str, Any] = {"__name__": "example"}
    exec(compile(program, "<example>", "exec"), example)
    serving, asking = tls_contexts()
    said = []
    async with (
        pair() as (first, second),
        await first.start_server(greet, LEFT.v4, 443, ssl=serving),
    ):
        for trusted in (asking, ssl.create_default_context()):
            transport = example["Transport"](second, trusted)
            async with example["httpx"].AsyncClient(transport=transport) as client:
                try:
                    said.append((await client.get(f"https://{LEFT.v4}/")).text)
                except example["httpx"].ConnectError as error:
                    said.append(type(error).__name__)
    tell(said)


async def tls() -> None:
    """Names in certificates are those of who is asked for, as asyncio has it."""
    serving, asking = tls_contexts()
    address = LEFT.v4
    async with pair() as (first, second):
        server = await first.start_server(say_hello, address, 443, ssl=serving)
        reader, writer = await second.open_connection(address, 443, ssl=asking)
        tell((await reader.read()).decode())
        writer.close()
        server.close()


async def say_hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    writer.close()


async def changes() -> None:
    """Peers come and go in a tunnel that is there; what happens is told."""
    async with pair() as (first, second):
        events = second.events()
        async with await first.start_server(say_hello, LEFT.v4, 80):
            reader, writer = await second.open_connection(LEFT.v4, 80)
            await reader.read()
            writer.close()
        (left,) = (await second.status()).peers
        await second.configure(DeviceChange(peers=(PeerChange(left.public_key, remove=True),)))
        told = []
        async for event in events:
            if isinstance(event, DiagnosisChanged):  # of the machine: it has small buffers
                continue
            told.append(type(event).__name__)
            if isinstance(event, PeerRemoved):
                break
        events.close()
        try:
            await second.open_connection(LEFT.v4, 80)
        except OSError as error:
            tell({"told": told, "then": errno.errorcode[error.errno or 0]})


async def serve_example(private_key: str, client: str) -> None:
    """Be the peer of the example in the documents, which is nobody's before it comes."""
    config = Config(
        b64decode(private_key),
        addresses=(IPv4Interface("10.0.0.1/24"),),
        peers=(PeerConfig(b64decode(client), allowed_ips=(ip_network("10.0.0.2"),)),),
    )
    async with (
        Tunnel(config) as tunnel,
        await tunnel.start_server(greet, "10.0.0.1", 80),
        await tunnel.start_server(speak_postgres, "10.0.0.1", 5432),
        name_server(tunnel, "10.0.0.1"),
    ):
        tell((await tunnel.status()).listen_port)
        await told("close")


async def speak_postgres(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Enough of PostgreSQL's protocol 3.0 for a client that starts and asks simple queries.

    A query is not run: the tag of its completion is the query.
    """

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + (4 + len(body)).to_bytes(4, "big") + body

    async def rest() -> bytes:
        return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4)

    parameters = {b"server_version": b"17.0", b"client_encoding": b"UTF8"}
    ready = message(b"Z", b"I")
    assert (await rest()).startswith((3 << 16).to_bytes(4, "big"))
    writer.write(message(b"R", bytes(4)))  # no password is asked for
    for name, value in parameters.items():
        writer.write(message(b"S", name + b"\0" + value + b"\0"))
    writer.write(message(b"K", bytes(8)) + ready)
    while (kind := await reader.readexactly(1)) == b"Q":
        writer.write(message(b"C", await rest()) + ready)
    assert kind == b"X"
    writer.close()


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
    writer.close()


async def inside() -> None:
    """A command sees the tunnel and nothing else, and what is typed and said passes."""
    async with pair(adapt=with_dns) as (_, second):
        with socket.create_server(("127.0.0.1", 0)) as outside:
            port = str(outside.getsockname()[1])
            script = f"""
cat
ls /sys/class/net
ping -c 1 -W 10 -q {LEFT.v4} >/dev/null && echo pinged
cat /etc/resolv.conf
"$0" -c 'import socket, sys; socket.create_connection(("127.0.0.1", int(sys.argv[1])))' "$1" ||
    echo alone
exit 3
"""
            process = await second.create_subprocess_exec(
                *("sh", "-c", script, sys.executable, port),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                cwd="/",
            )
            output, errors = await process.communicate(b"typed\n")
            assert output is not None
            tell(
                {
                    "lines": output.decode().split("\n"),
                    "errors": errors,
                    "status": process.returncode,
                }
            )


async def names() -> None:
    """Names are looked up at the server in the tunnel, for the program and for commands."""
    async with (
        pair(adapt=with_dns) as (first, second),
        name_server(first, LEFT.v4, "10.9.0.7"),
    ):
        infos = await second.getaddrinfo("db.internal", 5432, family=socket.AF_INET)
        command = ("getent", "ahostsv4", "db.internal")
        process = await second.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        tell({"program": infos[0][-1], "command": (output or b"").split()[0].decode()})


@asynccontextmanager
async def name_server(tunnel: Tunnel, address: str, other: str = "") -> AsyncIterator[None]:
    """One at this address, which has one address for every name: its own or the other."""
    server = tunnel.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    server.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: Answering(other or address), sock=server
    )
    try:
        yield
    finally:
        transport.close()


class Answering(asyncio.DatagramProtocol):
    """A name server that has one address for every name."""

    def __init__(self, address: str) -> None:
        self._address = address

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.transport.sendto(answer(data, self._address), address)


async def timed_out() -> None:
    """Who is not to be reached in time is given up, and so is the socket."""
    async with pair() as (first, second):
        nobody = PeerConfig(StaticKey(KEYS[0]).public_key, allowed_ips=(SILENT,))
        nowhere = Endpoint(bytes([127, 0, 0, 1]), 9)
        await second.configure(DeviceChange(peers=(nobody.change(nowhere),)))
        open_before = len(os.listdir("/proc/self/fd"))
        try:
            await second.create_connection((str(SILENT[1]), 80), timeout=0.2)
        except TimeoutError as error:
            failure = errno.errorcode[error.errno or 0]
        left = len(os.listdir("/proc/self/fd")) - open_before
        async with await first.start_server(say_hello, LEFT.v4, 80):
            with await second.create_connection((LEFT.v4, 80), timeout=30) as connected:
                hello = await asyncio.get_running_loop().sock_recv(connected, 100)
        tell({"failure": failure, "left": left, "then": hello.decode()})


async def asked_too_late() -> None:
    """What is asked of a tunnel that has ended."""
    async with Tunnel(Config(KEYS[0])) as tunnel:
        pass
    failures = []
    questions = (tunnel.status, lambda: tunnel.configure(DeviceChange()), told_of(tunnel))
    for ask in questions:
        try:
            await ask()
        except OSError as error:
            failures.append(type(error).__name__)
    tell(failures)


def told_of(tunnel: Tunnel) -> Callable[[], Coroutine[Any, Any, None]]:
    async def listen() -> None:
        tunnel.events()

    return listen


async def dying_interface() -> None:
    """The interface is deleted: everything ends, and says so."""
    said = io.StringIO()
    logging.basicConfig(stream=said, format="%(message)s")
    async with Tunnel(Config(KEYS[0])) as tunnel:
        process = await tunnel.create_subprocess_exec("sleep", "1000")
        with closing(tunnel.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)) as netlink:
            index = Netlink(netlink).link(NAME).index
            header = MESSAGE.pack(MESSAGE.size + LINK.size, RTM_DELLINK, NLM_F_REQUEST, 0, 0)
            netlink.send(header + LINK.pack(0, 0, index, 0, 0))
        try:
            await tunnel.until_end()
        except LinkDeletedError:
            status = await process.wait()
        try:
            tunnel.socket()
        except OSError as error:
            failure = type(error).__name__
    tell({"status": status, "socket": failure, "said": said.getvalue()})


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


async def many(count: str) -> None:
    """Tunnels come and go and leave no descriptor, thread or process."""

    async def once() -> None:
        async with pair() as (first, second), await first.start_server(echo, LEFT.v4, 80):
            reader, writer = await second.open_connection(LEFT.v4, 80)
            writer.write_eof()
            await reader.read()
            writer.close()
            await writer.wait_closed()

    await once()
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    for _ in range(int(count)):
        await once()
    await asyncio.sleep(0)
    after = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    tell({"before": before, "after": after, "children": children()})


async def named_endpoint() -> None:
    """A peer has a name, which is looked up outside; a change of its endpoint counts from then."""
    first, second = (StaticKey(key).public_key for key in KEYS)
    asking = (IPv4Interface(f"{RIGHT.v4}/24"),)
    serving = PeerConfig(second, allowed_ips=(ip_network(RIGHT.v4),))
    config = Config(KEYS[0], addresses=(IPv4Interface(f"{LEFT.v4}/24"),), peers=(serving,))
    async with Tunnel(config) as left, await left.start_server(say_hello, LEFT.v4, 80):
        named = Host("localhost", (await left.status()).listen_port)
        peer = PeerConfig(first, endpoint=named, allowed_ips=(ip_network(LEFT.v4),))
        async with Tunnel(Config(KEYS[1], addresses=asking, peers=(peer,))) as right:
            reader, writer = await right.open_connection(LEFT.v4, 80)
            await reader.read()
            writer.close()
            (seen,) = (await right.status()).peers
            tell(seen.endpoint is not None and seen.endpoint.port == named.port)


async def refused_change() -> None:
    """What cannot be applied is told on entering, and nothing stays."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        try:
            async with Tunnel(Config(KEYS[0], listen_port=port)):
                pass
        except ConfigError as error:
            tell({"errno": errno.errorcode[error.errno], "children": children()})


if __name__ == "__main__":
    run_named(globals())
