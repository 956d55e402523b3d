# SPDX-License-Identifier: MIT
"""Tunnels without privileges for minutes: is memory flat, is anything left?  scripts/soak-rootless.

Three tunnels of this process are the peers of three of `wgpyctl exec`, whose commands open a
connection after the other.  Every few seconds another command joins each, and this process opens
and closes 1,000 sockets.
"""

import asyncio
import contextlib
import os
import socket
import statistics
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Final

from wgpy import Config, PeerConfig, Tunnel
from wgpy.protocol.noise import StaticKey

TUNNELS: Final = 3
SOCKETS: Final = 1000  # at a time
PERIOD_S: Final = 5.0  # between looks
WARM_UP: Final = 0.2  # of the time; what caches and allocators take, they have by then
GROWTH_MAX: Final = 0.03  # of resident memory, from the first to the last fifth after that
SLACK_KB: Final = 1024  # of a small process a page is much
PORT: Final = 80
# argv: where to connect.  A quarter of a megabyte each way, over and over, with pauses.
TRAFFIC: Final = """
import socket, sys, time
data = bytes(1 << 18)
while True:
    with socket.create_connection((sys.argv[1], 80)) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass
    time.sleep(0.1)
"""
NAME: Final = "wgpy-tunnel\n"  # of the process that has a tunnel of exec


@dataclass(slots=True)
class Watched:
    """A process: its resident memory (KiB) and its number of descriptors, look by look."""

    name: str
    pid: int
    resident_kb: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def look(self) -> None:
        """Look once.  Raises OSError if it has ended."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (resident,) = [int(line.split()[1]) for line in lines if line.startswith("VmRSS:")]
        self.resident_kb.append(resident)
        with contextlib.suppress(PermissionError):  # it has keys, and is not for others to see
            self.descriptors.append(len(os.listdir(f"/proc/{self.pid}/fd")))

    def judge(self) -> bool:
        """Say how it went; -> whether nothing grew."""
        warm = int(len(self.resident_kb) * WARM_UP)
        first, last = (statistics.median(part) for part in _ends(self.resident_kb[warm:]))
        # The least of several looks: connections come and go.
        held = [min(part) for part in _ends(self.descriptors[warm:]) if part]
        grows = last > first * (1 + GROWTH_MAX) + SLACK_KB or held[1:] > held[:1]
        print(
            f"{self.name:<10} {self.pid:>8}: resident {first:.0f} -> {last:.0f} KiB, "
            f"at most {max(self.resident_kb)}; "
            f"descriptors {' -> '.join(map(str, held)) or 'not for us to see'}"
            f"{', WHICH GROWS' if grows else ''}"
        )
        return not grows


def _ends(looks: list[int]) -> tuple[list[int], list[int]]:
    """Return the first fifth of looks and the last."""
    fifth = max(1, len(looks) // 5)
    return looks[:fifth], looks[-fifth:]


def key(number: int) -> bytes:
    """Return a private key of nobody else's."""
    return bytes([number + 1]) * 32


def peer_config(number: int) -> Config:
    """Return the end that this process has of a tunnel."""
    client = PeerConfig(
        StaticKey(key(100 + number)).public_key, allowed_ips=(ip_network(f"10.9.{number}.2"),)
    )
    return Config(key(number), addresses=(ip_interface(f"10.9.{number}.1/24"),), peers=(client,))


def conf(directory: Path, number: int, port: int) -> Path:
    """Write the file of the other end."""
    path = directory / f"soak{os.getpid()}-{number}.conf"
    private, public = (b64encode(one).decode() for one in (
        key(100 + number), StaticKey(key(number)).public_key
    ))  # fmt: skip
    path.write_text(
        f"[Interface]\nPrivateKey = {private}\nAddress = 10.9.{number}.2/24\n"
        f"[Peer]\nPublicKey = {public}\nAllowedIPs = 10.9.{number}.1/32\n"
        f"Endpoint = 127.0.0.1:{port}\n"
    )
    return path


def exec_(*arguments: str) -> list[str]:
    """Return the command line of `wgpyctl exec` with these."""
    return [sys.executable, "-m", "wgpy.ctl", "exec", *arguments]


def children(pid: int) -> list[int]:
    """Return who was started by a process."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def command(path: Path, number: int) -> AsyncIterator[list[Watched]]:
    """Have a command with traffic; -> it and what serves it."""
    client = [sys.executable, "-c", TRAFFIC, f"10.9.{number}.1"]
    process = await asyncio.create_subprocess_exec(*exec_(str(path), "--", *client))
    try:
        while len(started := children(process.pid)) < 2:
            await asyncio.sleep(0.05)
        (tunnel,) = [one for one in started if Path(f"/proc/{one}/comm").read_text() == NAME]
        (keeper,) = children(tunnel)
        (init,) = children(keeper)
        names = ("wgpyctl", "engine", "keeper", "init")
        pids = (process.pid, tunnel, keeper, init)
        yield [Watched(f"{name} {number}", pid) for name, pid in zip(names, pids, strict=True)]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def visit(path: Path, number: int) -> None:
    """Have another command in the same tunnel, and an end of it."""
    ping = ["ping", "-c", "1", "-q", f"10.9.{number}.1"]
    process = await asyncio.create_subprocess_exec(
        *exec_("--join", path.stem, "--", *ping), stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0


def open_many(tunnel: Tunnel) -> None:
    """Open as many sockets as a program may want, and close them."""
    info = (socket.AF_INET, socket.SOCK_DGRAM, 0, "", ())
    with contextlib.ExitStack() as stack:
        for _ in range(SOCKETS):
            stack.enter_context(tunnel.socket_factory(info))


async def soak(minutes: int, directory: Path) -> bool:
    """Go on for so long; -> whether nothing grew and nothing is left."""
    before = len(os.listdir("/proc/self/fd"))
    async with contextlib.AsyncExitStack() as stack:
        tunnels: list[Tunnel] = []
        files: list[Path] = []
        watched = [Watched("this", os.getpid())]
        for number in range(TUNNELS):
            tunnel = await stack.enter_async_context(Tunnel(peer_config(number)))
            await stack.enter_async_context(
                await tunnel.start_server(echo, f"10.9.{number}.1", PORT)
            )
            tunnels.append(tunnel)
            files.append(conf(directory, number, (await tunnel.status()).listen_port))
            watched += await stack.enter_async_context(command(files[-1], number))
        await watch(minutes, watched, tunnels, files)
        received = [(await one.status()).peers[0].rx_bytes for one in tunnels]
        print("received by the peers, MB:", *(count // 1_000_000 for count in received))
    left = [str(path) for path in directory.rglob("*.exec")]
    after = len(os.listdir("/proc/self/fd"))
    print(f"left: sockets {left}, processes {children(os.getpid())}, descriptors {after - before}")
    flat = [one.judge() for one in watched]
    return all(flat) and not left and not children(os.getpid()) and after == before


async def watch(
    minutes: int, watched: Sequence[Watched], tunnels: Sequence[Tunnel], files: Sequence[Path]
) -> None:
    """Look at the processes until the time is over, and give them something to do."""
    end = time.monotonic() + minutes * 60
    while time.monotonic() < end:
        for tunnel in tunnels:
            open_many(tunnel)
        await asyncio.gather(*(visit(path, number) for number, path in enumerate(files)))
        await asyncio.sleep(PERIOD_S)
        for one in watched:
            one.look()


def main() -> int:
    """Return the exit status.  Arguments: minutes."""
    with tempfile.TemporaryDirectory(prefix="wgpy-soak-") as directory:
        os.environ["XDG_RUNTIME_DIR"] = directory
        return 0 if asyncio.run(soak(int(sys.argv[1]), Path(directory))) else 1


if __name__ == "__main__":
    sys.exit(main())
