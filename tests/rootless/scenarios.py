# SPDX-License-Identifier: MIT
"""Programs that tests run as nobody.  Each prints JSON; argv: its name and arguments."""

import asyncio
import errno
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from ipaddress import ip_interface
from typing import Any

from wgpy import (
    StartError,
)
from wgpy.linux.addressing import equip
from wgpy.linux.namespace import Command, Namespace
from wgpy.linux.netlink import Netlink

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
        with closing(Netlink(network.requests)) as netlink:
            equip(netlink, NAME, [ip_interface("10.9.0.1/24")], 1420)
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


def run_named(scenarios: dict[str, Any]) -> None:
    """Run the one that is the first argument, a coroutine or not."""
    made = scenarios[sys.argv[1]](*sys.argv[2:])
    if asyncio.iscoroutine(made):
        asyncio.run(made)


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


if __name__ == "__main__":
    run_named(globals())
