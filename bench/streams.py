# SPDX-License-Identifier: MIT
"""asyncio streams for a while, through a tunnel of this process or without one.

argv: "serve" and an address; or "send", "receive" or "enter", an address, how long (s), and a file
of wg-quick if there is to be a tunnel.  Prints Gbit/s, or how long it took from entering the tunnel
until there was a connection (ms).
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable

import wgpy

PORT = 6100
CHUNK = bytes(1 << 18)
SENDS, RECEIVES = b"s", b"r"  # what the client does
Connect = Callable[[str, int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Measure = Callable[[Connect, str, float], Awaitable[float]]


async def serve(address: str) -> None:
    """Serve until the end; a line says when that begins."""
    async with await asyncio.start_server(answer, address, PORT, limit=len(CHUNK)) as server:
        print("listening", flush=True)
        await server.serve_forever()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Count what a client sends and tell it, or send for as long as it listens."""
    with contextlib.suppress(ConnectionError):
        if await reader.read(1) == SENDS:
            writer.write(str(await count(reader)).encode())
        else:
            while not reader.at_eof():
                writer.write(CHUNK)
                await writer.drain()
    writer.close()


async def count(reader: asyncio.StreamReader, end: float = float("inf")) -> int:
    """Count bytes until there are no more, or until a time of the monotonic clock."""
    total = 0
    while time.monotonic() < end and (data := await reader.read(len(CHUNK))):
        total += len(data)
    return total


async def send(connect: Connect, address: str, seconds: float) -> float:
    """Return Gbit/s, until all has arrived."""
    reader, writer = await connect(address, PORT)
    start = time.monotonic()
    writer.write(SENDS)
    while time.monotonic() < start + seconds:
        writer.write(CHUNK)
        await writer.drain()
    writer.write_eof()
    total = int(await reader.read())
    writer.close()
    return total * 8 / (time.monotonic() - start) / 1e9


async def receive(connect: Connect, address: str, seconds: float) -> float:
    """Return Gbit/s."""
    reader, writer = await connect(address, PORT)
    writer.write(RECEIVES)
    start = time.monotonic()
    total = await count(reader, start + seconds)
    taken = time.monotonic() - start
    writer.transport.abort()
    return total * 8 / taken / 1e9


async def figure(what: str, address: str, seconds: float, conf: str | None) -> float:
    """Measure one thing."""
    measure: dict[str, Measure] = {"send": send, "receive": receive}
    if conf is None:
        return await measure[what](asyncio.open_connection, address, seconds)
    made = wgpy.Tunnel(wgpy.Config.from_file(conf))  # imports what it takes
    start = time.monotonic()
    async with made as tunnel:
        if what != "enter":
            return await measure[what](tunnel.open_connection, address, seconds)
        _, writer = await tunnel.open_connection(address, PORT)
        taken = time.monotonic() - start
        writer.close()
        return taken * 1e3


def main() -> None:
    """Run the command line."""
    what, address, *more = sys.argv[1:]
    if what == "serve":
        asyncio.run(serve(address))
    else:
        conf = more[1] if len(more) > 1 else None
        print(asyncio.run(figure(what, address, float(more[0]), conf)))


if __name__ == "__main__":
    main()
