"""Programs that tests run as nobody.  Each prints JSON; argv: its name and arguments."""

import asyncio
import errno
import json
import os
import signal
import socket
import sys
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_interface, ip_network
from pathlib import Path
from typing import Any

from wgpy import (
    Config,
    ConfigError,
    Host,
    LinkDeletedError,
    PeerConfig,
    StartError,
    Tunnel,
)
from wgpy.linux.addressing import equip
from wgpy.linux.namespace import Command, Namespace
from wgpy.linux.netlink import hold_netlink, open_netlink
from wgpy.protocol.noise import StaticKey

NAME = "wg0"
NAMESERVER = "nameserver 127.0.0.1\noptions timeout:30 attempts:1\n"
STRAY = "setsid sleep 1000 & exec sleep 1000"  # the first sleep is nobody's child


def tell(what: Any) -> None:
    print(json.dumps(what), flush=True)


async def told(line: str) -> None:
    """Until a test writes this line."""
    loop = asyncio.get_running_loop()
    assert (await loop.run_in_executor(None, sys.stdin.readline)).strip() == line


@asynccontextmanager
async def private(resolv_conf: str | None = None) -> AsyncIterator[Namespace]:
    network = Namespace()
    try:
        await network.start(NAME, resolv_conf)
        held = hold_netlink(network.requests)
        async with open_netlink(held) as netlink:
            await equip(netlink, NAME, [ip_interface("10.9.0.1/24")], 1420)
        held.close()
        yield network
    finally:
        await network.close()


async def run(network: Namespace, *argv: str, out: int = 2) -> Command:
    return await network.run(argv, environment=dict(os.environ), cwd="/", stdio=(0, out, 2))


async def output(network: Namespace, *argv: str) -> str:
    """What a command in there prints."""
    reading, writing = os.pipe()
    command = await run(network, *argv, out=writing)
    os.close(writing)
    with open(reading) as file:
        text = await asyncio.get_running_loop().run_in_executor(None, file.read)
    assert await command.status == 0
    return text


# ---- deaths ----


async def own() -> None:
    """Own a network with commands until the keeper ends or a line says to close it."""
    async with private() as network:
        command = await run(network, "sh", "-c", STRAY)
        tell({"keeper": network._pid, "command": command.pid})
        closing = asyncio.ensure_future(told("close"))
        await asyncio.wait({closing, network.ended}, return_when=asyncio.FIRST_COMPLETED)
    tell({"status": await command.status})
    if closing.done():
        return
    os._exit(0)  # a thread waits for the line


async def own_with_a_heir() -> None:
    """Have a child that holds copies of all descriptors and does not end."""
    async with private() as network:
        command = await run(network, "sh", "-c", STRAY)
        heir = os.fork()
        if heir == 0:
            os.closerange(1, 3)  # a test reads those to their ends
            signal.pause()
        tell({"keeper": network._pid, "command": command.pid, "heir": heir})
        await told("close")
    tell({"status": await command.status})


# ---- what is asked of a keeper ----


async def sockets() -> None:
    """A port here and there is not the same one, and any of them may be taken there."""
    async with private() as network:
        with socket.create_server(("127.0.0.1", 0)) as outside:
            address = outside.getsockname()
            with network.socket(socket.AF_INET, socket.SOCK_STREAM, 0) as inside:
                refused = inside.connect_ex(address)
            with network.socket(socket.AF_INET, socket.SOCK_STREAM, 0) as inside:
                inside.bind(("10.9.0.1", 80))
                inside.listen()
                with network.socket(socket.AF_INET, socket.SOCK_STREAM, 0) as client:
                    client.connect(("10.9.0.1", 80))
                    inside.accept()[0].close()
        try:
            network.socket(socket.AF_INET, 77, 0)
        except OSError as error:
            unknown = error.errno
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(1000):
            network.socket(socket.AF_INET6, socket.SOCK_DGRAM, 0).close()
        tell({
            "refused": errno.errorcode[refused],
            "unknown": errno.errorcode[unknown or 0],
            "leaked": len(os.listdir("/proc/self/fd")) - before,
        })  # fmt: skip


async def slow_look_up() -> None:
    """Sockets and commands are had while a name server thinks."""
    loop = asyncio.get_running_loop()
    async with private(NAMESERVER) as network:
        with network.socket(socket.AF_INET, socket.SOCK_DGRAM, 0) as server:
            server.bind(("127.0.0.1", 53))
            server.setblocking(False)
            hints = (socket.AF_INET, socket.SOCK_STREAM, 0, 0)
            looking = asyncio.ensure_future(network.getaddrinfo(b"peer.example", 443, *hints))
            asked = await loop.create_datagram_endpoint(lambda: NameServer(loop), sock=server)
            query, client = await asked[1].query
            network.socket(socket.AF_INET, socket.SOCK_DGRAM, 0).close()
            assert await (await run(network, "true")).status == 0
            waits = not looking.done()
            asked[0].sendto(answer(query, "10.9.0.7"), client)
            tell({"waits": waits, "found": await looking})
            asked[0].close()


class NameServer(asyncio.DatagramProtocol):
    """Takes one query."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.query: asyncio.Future[tuple[bytes, Any]] = loop.create_future()

    def datagram_received(self, data: bytes, address: Any) -> None:
        if not self.query.done():
            self.query.set_result((data, address))


def answer(query: bytes, address: str) -> bytes:
    """RFC 1035, 4.1: the query's header and question, and one A record."""
    end = query.index(b"\0", 12) + 5
    header = query[:2] + b"\x81\x80" + b"\0\1\0\1\0\0\0\0"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address)
    return header + query[12:end] + record


async def many_addresses() -> None:
    """A name has more addresses than a letter holds, and another is longer than that."""
    async with private() as network:
        hints = (socket.AF_INET, socket.SOCK_STREAM, 0, 0)
        found = await network.getaddrinfo(b"many.example", 443, *hints)
        try:
            await network.getaddrinfo(b"x" * 100_000, 443, *hints)
        except OSError as error:
            refused = error.errno
        assert await (await run(network, "true")).status == 0
        tell({"found": len(found), "refused": errno.errorcode[refused or 0]})


async def unknown_name() -> None:
    async with private(NAMESERVER) as network:
        try:
            await network.getaddrinfo(b"no.such.name.invalid", 80, 0, socket.SOCK_STREAM, 0, 0)
        except socket.gaierror as error:
            tell({"gaierror": error.errno in (socket.EAI_AGAIN, socket.EAI_NONAME)})


async def commands() -> None:
    """Exit status, signals, what is not there, and what is seen from inside."""
    async with private(NAMESERVER) as network:
        first = await run(network, "sh", "-c", "exit 7")
        second = await run(network, "sleep", "1000")
        second.send_signal(signal.SIGTERM)
        try:
            await run(network, "no-such-command")
        except OSError as error:
            missing = error.errno
        tell({
            "exit": await first.status,
            "signal": await second.status,
            "missing": errno.errorcode[missing or 0],
            "interfaces": (await output(network, "ls", "/sys/class/net")).split(),
            "addresses": await output(network, "ip", "-o", "address"),
            "routes": await output(network, "ip", "route"),
            "resolv.conf": await output(network, "cat", "/etc/resolv.conf"),
            "uid": int(await output(network, "id", "-u")),
            "descriptors": (await output(network, "ls", "/proc/self/fd")).split(),
            "ignored": await output(network, "grep", "SigIgn", "/proc/self/status"),
        })  # fmt: skip


async def cancelled() -> None:
    """Whoever started a command and was cancelled leaves none."""
    async with private() as network:
        starting = asyncio.ensure_future(run(network, "sleep", "1000"))
        await asyncio.sleep(0)  # it is asked for
        starting.cancel()
        await asyncio.wait({starting})
        listed = ["sleep"]
        while "sleep" in listed:
            listed = (await output(network, "ps", "-eo", "comm")).split()
        tell(listed[-1])


async def hidden() -> None:
    """List what services there are to look names up."""
    async with private() as network:
        script = "ls /run/nscd /run/systemd/resolve; cat /etc/resolv.conf"
        tell((await output(network, "sh", "-c", script)).split())


async def refused() -> None:
    """Say why there is no network."""
    network = Namespace()
    try:
        await network.start(NAME)
    except StartError as error:
        tell(str(error))
    finally:
        await network.close()


# ---- tunnels ----

KEYS = bytes([1]) * 32, bytes([2]) * 32
PUBLIC_KEYS = tuple(StaticKey(key).public_key for key in KEYS)
ADDRESSES = ("10.9.0.1", "fd09::1"), ("10.9.0.2", "fd09::2")


def config(number: int, *peers: PeerConfig, dns: str = "") -> Config:
    """A tunnel that is the first or the second of two."""
    v4, v6 = ADDRESSES[number]
    return Config(
        KEYS[number],
        addresses=(IPv4Interface(f"{v4}/24"), IPv6Interface(f"{v6}/64")),
        peers=peers,
        dns=(IPv4Address(dns),) if dns else (),
    )


def peer(number: int, port: int | None = None, host: str = "127.0.0.1") -> PeerConfig:
    """The first or the second of two, at a port of this host."""
    return PeerConfig(
        PUBLIC_KEYS[number],
        endpoint=None if port is None else Host(host, port),
        allowed_ips=tuple(map(ip_network, ADDRESSES[number])),
    )


@asynccontextmanager
async def pair(dns: str = "", host: str = "127.0.0.1") -> AsyncIterator[tuple[Tunnel, Tunnel]]:
    """Two tunnels; the second knows where the first is."""
    async with Tunnel(config(0, peer(1))) as first:
        port = (await first.status()).listen_port
        async with Tunnel(config(1, peer(0, port, host), dns=dns)) as second:
            yield first, second


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())
    writer.close()


async def exchange() -> None:
    """TCP over both families, UDP, and a port that only root may take elsewhere."""
    loop = asyncio.get_running_loop()
    data = os.urandom(1 << 20)
    async with pair() as (first, second):
        echoed = []
        for address in ADDRESSES[0]:
            async with await first.start_server(echo, address, 80):
                reader, writer = await second.open_connection(address, 80)
                writer.write(data)
                writer.write_eof()
                echoed.append(await reader.read() == data)
                writer.close()
        there = first.socket(socket.AF_INET, socket.SOCK_DGRAM)
        here = second.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with there, here:
            there.bind((ADDRESSES[0][0], 7))
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
                await loop.sock_connect(refusing, (ADDRESSES[0][0], 81))
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


async def serve_example(private_key: str, client: str) -> None:
    """Be the peer of the example in the documents, which is nobody's before it comes."""
    config = Config(
        b64decode(private_key),
        addresses=(IPv4Interface("10.0.0.1/24"),),
        peers=(PeerConfig(b64decode(client), allowed_ips=(ip_network("10.0.0.2"),)),),
    )
    async with Tunnel(config) as tunnel, await tunnel.start_server(greet, "10.0.0.1", 80):
        tell((await tunnel.status()).listen_port)
        await told("close")


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
    writer.close()


async def inside() -> None:
    """A command sees the tunnel and nothing else, and what is typed and said passes."""
    async with pair(dns="10.9.0.1") as (_, second):
        with socket.create_server(("127.0.0.1", 0)) as outside:
            port = str(outside.getsockname()[1])
            script = """
cat
ls /sys/class/net
ping -c 1 -W 10 -q 10.9.0.1 >/dev/null && echo pinged
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
    loop = asyncio.get_running_loop()
    async with pair(dns=ADDRESSES[0][0]) as (first, second):
        server = first.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((ADDRESSES[0][0], 53))
        server.setblocking(False)
        transport, _ = await loop.create_datagram_endpoint(Answering, sock=server)
        infos = await second.getaddrinfo("db.internal", 5432, family=socket.AF_INET)
        command = ("getent", "ahostsv4", "db.internal")
        process = await second.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        tell({"program": infos[0][-1], "command": (output or b"").split()[0].decode()})
        transport.close()


class Answering(asyncio.DatagramProtocol):
    """A name server that has one address for every name."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.transport.sendto(answer(data, "10.9.0.7"), address)


async def dying_interface() -> None:
    """The interface is deleted: everything ends, and says so."""
    async with Tunnel(config(0)) as tunnel:
        process = await tunnel.create_subprocess_exec("sleep", "1000")
        network = tunnel._network
        held = hold_netlink(network.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0))
        async with open_netlink(held) as netlink:
            await netlink.link("del", ifname=NAME)
        held.close()
        try:
            await tunnel.until_end()
        except LinkDeletedError:
            status = await process.wait()
        try:
            tunnel.socket()
        except OSError as error:
            tell({"status": status, "socket": type(error).__name__})


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


async def many(count: str) -> None:
    """Tunnels come and go and leave no descriptor, thread or process."""

    async def once() -> None:
        async with pair() as (first, second), await first.start_server(echo, "10.9.0.1", 80):
            reader, writer = await second.open_connection("10.9.0.1", 80)
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
    async with pair(host="localhost") as (first, second):
        async with await first.start_server(echo, "10.9.0.1", 80):
            reader, writer = await second.open_connection("10.9.0.1", 80)
            writer.write_eof()
            await reader.read()
            writer.close()
        tell(
            [
                one.endpoint.port == (await first.status()).listen_port
                for one in (await second.status()).peers
                if one.endpoint
            ]
        )


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
    scenario: Callable[..., Awaitable[None]] = globals()[sys.argv[1]]
    asyncio.run(scenario(*sys.argv[2:]))  # type: ignore[arg-type]
