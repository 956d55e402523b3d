# SPDX-License-Identifier: MIT
"""The other end of a tunnel that `wgpyctl proxy` makes, which tests run as nobody."""

import asyncio
import json
import socket
import sys
import tempfile
from base64 import b64encode
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from pathlib import Path
from typing import Any

from rootless.scenarios import answer, run_named, tell
from rootless.tunnel_scenarios import KEYS, greet

from wgpy import Config, PeerConfig, Tunnel
from wgpy.protocol.noise import StaticKey
from wgpy.testing import LEFT, RIGHT

# Proxies that run at the same time: each is somebody else.
PROXIES = {"home": (KEYS[1], RIGHT), "other": (bytes([3]) * 32, ("192.0.2.3", "2001:db8::3"))}
NAME_ERROR = 3  # RFC 1035, 4.1.1
CONF = """[Interface]
PrivateKey = {private}
Address = {v4}/24, {v6}/64
DNS = {dns}

[Peer]
PublicKey = {public}
AllowedIPs = {allowed}
Endpoint = 127.0.0.1:{port}
PersistentKeepalive = 25
"""


async def serve() -> None:
    """Be the peer: TCP and UDP echo, HTTP, names.  Lines of JSON have it connect to the proxy."""
    with tempfile.TemporaryDirectory() as directory:
        async with Tunnel(peer_config()) as tunnel:
            port = (await tunnel.status()).listen_port
            await serve_streams(tunnel)
            await serve_datagrams(tunnel)
            write_users(Path(directory, "users"))
            for name in PROXIES:
                write_conf(Path(directory, f"{name}.conf"), name, port)
            tell({"directory": directory})
            while line := await asyncio.get_running_loop().run_in_executor(
                None, sys.stdin.readline
            ):
                tell(await asyncio.wait_for(visit(tunnel, **json.loads(line)), 30))


def peer_config() -> Config:
    """That of the peer, who does not begin."""
    proxies = tuple(
        PeerConfig(StaticKey(key).public_key, allowed_ips=tuple(map(ip_network, addresses)))
        for key, addresses in PROXIES.values()
    )
    addresses = (IPv4Interface(f"{LEFT.v4}/24"), IPv6Interface(f"{LEFT.v6}/64"))
    return Config(KEYS[0], addresses=addresses, peers=proxies)


def write_conf(path: Path, name: str, port: int) -> None:
    key, (v4, v6) = PROXIES[name]
    path.write_text(
        CONF.format(
            private=b64encode(key).decode(),
            public=b64encode(StaticKey(KEYS[0]).public_key).decode(),
            v4=v4,
            v6=v6,
            dns=LEFT.v4,
            allowed=", ".join(LEFT),
            port=port,
        )
    )


def write_users(path: Path) -> None:
    path.write_text("# who may\nalice:correct horse:battery\n")
    path.chmod(0o600)


async def serve_streams(tunnel: Tunnel) -> None:
    for address in LEFT:
        await tunnel.start_server(echo, address, 7)
        await tunnel.start_server(greet, address, 80)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def serve_datagrams(tunnel: Tunnel) -> None:
    loop = asyncio.get_running_loop()
    for family, address in zip((socket.AF_INET, socket.AF_INET6), LEFT, strict=True):
        for port, protocol in ((7, Echo), (53, Names)):
            sock = tunnel.socket(family, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            sock.setblocking(False)
            sock.bind((address, port))
            await loop.create_datagram_endpoint(protocol, sock=sock)


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.transport.sendto(data, address)


class Names(Echo):
    """Every name is the peer's, but those that begin with `no-`."""

    def datagram_received(self, data: bytes, address: Any) -> None:
        reply = answer(data, LEFT.v4)
        if data[13:].startswith(b"no-"):
            end = data.index(b"\0", 12) + 5
            flags = bytes((data[2] | 0x80, 0x80 | NAME_ERROR))
            reply = data[:2] + flags + b"\0\1\0\0\0\0\0\0" + data[12:end]
        self.transport.sendto(reply, address)


async def visit(tunnel: Tunnel, *, port: int, is_udp: bool = False) -> str:
    """Send "hello" to the proxy's end of the tunnel; return what comes back."""
    host = RIGHT.v4
    if not is_udp:
        reader, writer = await tunnel.open_connection(host, port)
        writer.write(b"hello")
        writer.write_eof()
        data = await reader.read()
        writer.close()
        return data.decode()
    loop = asyncio.get_running_loop()
    with tunnel.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((host, port))
        sock.send(b"hello")
        return (await loop.sock_recv(sock, 100)).decode()


if __name__ == "__main__":
    run_named(globals())
