# SPDX-License-Identifier: MIT
"""A wire between two plain sockets of this host, without any tunnel."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from functools import partial

from waiting import PATIENCE_S, until

from wgpy.testing import Counters, Link, Wire

UDP_SEGMENT = 103  # <linux/udp.h>


class End:
    """A socket where a tunnel would be."""

    def __init__(self) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.setblocking(False)
        self.udp.bind(("127.0.0.1", 0))
        self.port: int = self.udp.getsockname()[1]

    async def receive(self) -> bytes:
        received = asyncio.get_running_loop().sock_recv(self.udp, 65535)
        return await asyncio.wait_for(received, PATIENCE_S)

    def nothing_came(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return not self.udp.recv(1)
        return True


@contextlib.asynccontextmanager
async def wired(link: Link) -> AsyncIterator[tuple[End, Wire, End]]:
    with contextlib.ExitStack() as stack:
        left, right = End(), End()
        for end in (left, right):
            stack.enter_context(closing(end.udp))
        wire = stack.enter_context(closing(Wire(link)))
        for end, port in zip((left, right), wire.ports, strict=True):
            end.udp.connect(("127.0.0.1", port))
        wire.connect(left.port, right.port)
        yield left, wire, right


def delivered(wire: Wire, count: int) -> bool:
    return wire.to_right.delivered == count


def test_it_carries_both_ways_and_counts_each() -> None:
    async def main() -> None:
        async with wired(Link()) as (left, wire, right):
            left.udp.send(b"there")
            assert await right.receive() == b"there"
            right.udp.send(b"back")
            right.udp.send(b"again")
            assert [await left.receive(), await left.receive()] == [b"back", b"again"]
            assert wire.to_right == Counters(sent=1, delivered=1)
        assert wire.to_left == Counters(sent=2, delivered=2)  # also when it is closed

    asyncio.run(main())


def test_datagrams_that_are_sent_as_one_are_carried_one_by_one() -> None:
    async def main() -> None:
        async with wired(Link(mtu=28 + 1000)) as (left, wire, right):
            for size in (1001, 1000):
                segment = (socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))
                left.udp.sendmsg([bytes(10 * size)], [segment])
            assert [len(await right.receive()) for _ in range(10)] == [1000] * 10
            assert wire.to_right == Counters(sent=20, delivered=10, too_large=10)

    asyncio.run(main())


def test_the_delay_is_in_each_way_of_a_round_trip() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with wired(Link(delay_s=0.02)) as (left, _, right):
            begin_s = loop.time()
            left.udp.send(b"there")
            await right.receive()
            right.udp.send(b"back")
            await left.receive()
            assert loop.time() - begin_s >= 0.04

    asyncio.run(main())


def test_it_is_cut_healed_and_changed_while_it_runs() -> None:
    async def main() -> None:
        async with wired(Link(delay_s=0.001)) as (left, wire, right):
            wire.cut()
            left.udp.send(b"lost")
            await until(lambda: wire.to_right.cut == 1)
            wire.heal()
            left.udp.send(b"carried")
            assert await right.receive() == b"carried"
            wire.link = replace(wire.link, loss=1)
            right.udp.send(b"lost")
            await until(lambda: wire.to_left.lost == 1)
            assert wire.link == Link(loss=1, delay_s=0.001)
            assert left.nothing_came()

    asyncio.run(main())


def test_strangers_are_not_heard() -> None:
    async def main() -> None:
        async with wired(Link()) as (left, wire, right):
            with closing(End().udp) as stranger:
                stranger.sendto(b"from elsewhere", ("127.0.0.1", wire.ports[0]))
            left.udp.send(b"there")
            assert await right.receive() == b"there"
            assert wire.to_right == Counters(sent=1, delivered=1)

    asyncio.run(main())


def test_it_goes_on_when_nobody_is_at_one_of_its_ends() -> None:
    async def main() -> None:
        problems: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(context))
        async with wired(Link()) as (left, wire, right):
            right.udp.close()
            for number in range(1, 4):
                left.udp.send(b"refused by the kernel, which tells the wire")
                await until(partial(delivered, wire, number))
        assert problems == []

    asyncio.run(main())


def test_what_the_kernel_drops_before_the_loop_has_a_turn_is_counted() -> None:
    count = 20_000  # of 1 kB each: more than a receive buffer holds, root's too

    async def main() -> None:
        async with wired(Link(delay_s=1000)) as (left, wire, _):
            for _ in range(count):
                left.udp.send(bytes(1000))
            await until(lambda: wire.to_right.overrun)
            assert wire.to_right.sent + wire.to_right.overrun <= count

    asyncio.run(main())
