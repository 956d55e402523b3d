# SPDX-License-Identifier: MIT
"""Programs with pairs of wgpy.testing, which tests run as nobody; as in scenarios.py."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

from rootless.scenarios import run_named, tell
from rootless.tunnel_scenarios import echo
from waiting import PATIENCE_S, until

from wgpy import Config, Tunnel
from wgpy.testing import LEFT, RIGHT, Counters, Link, pair, pair_in_thread

PORT = 7


def udp_at(tunnel: Tunnel, address: str) -> socket.socket:
    made = tunnel.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, PORT))
    made.settimeout(0)
    return made


async def received(udp: socket.socket) -> str:
    loop = asyncio.get_running_loop()
    return (await asyncio.wait_for(loop.sock_recv(udp, 2000), PATIENCE_S)).decode()


async def lossy() -> None:
    """TCP over a link that loses, doubles and swaps: all comes, and the link has counted."""
    data = os.urandom(1 << 20)
    # With this seed nothing of the handshake is lost, which would be sent again after 5 s.
    link = Link(loss=0.01, duplicate=0.01, delay_s=0.001, jitter_s=0.0005, seed=7)
    async with pair(link) as both:
        left, right = both
        async with await left.start_server(echo, LEFT.v4, PORT):
            reader, writer = await right.open_connection(LEFT.v4, PORT)
            writer.write(data)
            writer.write_eof()
            whole = await reader.read() == data
            writer.close()
        counters = both.wire.to_left
        tell({
            "whole": whole,
            "lost": counters.lost > 0,
            "duplicated": counters.duplicated > 0,
            "both ways": both.wire.to_right.delivered > 0,
        })  # fmt: skip


async def far() -> None:
    """Measure round trips, in seconds, over a link that takes 30 ms each way."""
    async with (
        pair(Link(delay_s=0.03)) as (left, right),
        await left.start_server(echo, LEFT.v6, PORT),
    ):
        begin_s = time.monotonic()
        reader, writer = await right.open_connection(LEFT.v6, PORT)
        connected_s = time.monotonic()
        writer.write_eof()
        await reader.read()
        writer.close()
        tell([connected_s - begin_s, time.monotonic() - connected_s])


async def narrow() -> None:
    """Send a datagram that is too large for the link, and one that is not."""
    async with pair(Link(mtu=1000)) as both:
        with udp_at(both.left, LEFT.v4) as here, udp_at(both.right, RIGHT.v4) as there:
            for length in (1200, 800):
                here.sendto(bytes(length), (RIGHT.v4, PORT))
            tell({
                "length": len(await received(there)),
                "too large": both.wire.to_right.too_large,
                "cut": both.wire.to_right.cut,
            })  # fmt: skip


async def cut() -> None:
    """Cut the link before the first handshake and after it, and heal it."""
    async with pair() as both:
        wire = both.wire
        with udp_at(both.left, LEFT.v4) as left, udp_at(both.right, RIGHT.v4) as right:
            wire.cut()
            left.sendto(b"staged", (RIGHT.v4, PORT))
            await until(lambda: wire.to_right.cut)  # an initiation
            wire.heal()
            right.sendto(b"begins anew", (LEFT.v4, PORT))  # the left one waits for 5 s
            told = [await received(left), await received(right)]
            before = wire.to_right.cut
            wire.cut()
            left.sendto(b"never comes", (RIGHT.v4, PORT))
            await until(lambda: wire.to_right.cut > before)
            wire.heal()
            left.sendto(b"comes", (RIGHT.v4, PORT))
            told.append(await received(right))
        tell(told)


def smaller(config: Config) -> Config:
    return replace(config, mtu=1280)


def in_thread() -> None:
    """Use a pair from a program that has no loop; nothing is left of it."""
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with pair_in_thread(Link(delay_s=0.001), adapt=smaller) as both:
        status = both.run(both.left.status())
        with both.left.socket() as listener, both.right.socket() as client:
            listener.bind((LEFT.v4, PORT))
            listener.listen()
            client.connect((LEFT.v4, PORT))
            with listener.accept()[0] as served:
                client.sendall(b"hello")
                told = served.recv(100).decode()
    after = threading.active_count(), len(os.listdir("/proc/self/fd"))
    tell({
        "told": told,
        "mtu": status.mtu,
        "left over": [now - then for now, then in zip(after, before, strict=True)],
        "counted": both.wire.to_left.sent > 0,
        "is perfect": replace(both.wire.to_right, sent=0, delivered=0) == Counters(),
    })  # fmt: skip


def failing() -> None:
    """What goes wrong inside of it ends it, and is raised; so is what it cannot be had for."""
    try:
        with pair_in_thread():
            raise KeyError("a test's own")
    except KeyError:
        threads = [thread.name for thread in threading.enumerate()]
    tell(threads)


def run_pytest(conftest: str, *tests: str) -> None:
    """Run pytest, with no plug-in but its own, on files of these contents."""
    command = (sys.executable, "-W", "error", "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider")
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "conftest.py").write_text(conftest)
        for number, content in enumerate(tests):
            Path(directory, f"test_{number}.py").write_text(content)
        done = subprocess.run(
            [*command, directory],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    tell({"status": done.returncode, "output": done.stdout + done.stderr})


if __name__ == "__main__":
    run_named(globals())
