# SPDX-License-Identifier: MIT
"""A pair of tunnels that are peers of each other, on the running loop or on one in a thread."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network
from typing import Any, Final, NamedTuple, TypeVar

from wgpy.protocol.noise import StaticKey
from wgpy.settings import Config, PeerConfig
from wgpy.testing.way import Link
from wgpy.testing.wire import LOOPBACK, Wire
from wgpy.tunnel import Tunnel
from wgpy.wgquick import Host

T = TypeVar("T")


class Addresses(NamedTuple):
    """Those of a tunnel."""

    v4: str
    v6: str


# Of documentation (RFC 5737, RFC 3849), so that nothing of the host is ever meant.
LEFT: Final = Addresses("192.0.2.1", "2001:db8::1")
RIGHT: Final = Addresses("192.0.2.2", "2001:db8::2")
PERFECT: Final = Link()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two tunnels, at LEFT and RIGHT, and the wire between them: `left, right = both`."""

    left: Tunnel
    right: Tunnel
    wire: Wire

    def __iter__(self) -> Iterator[Tunnel]:
        """Give the left one, then the right one."""
        yield self.left
        yield self.right


@dataclass(frozen=True, slots=True)
class PairInThread(Pair):
    """A pair whose loop runs in a thread.

    `socket` of a tunnel, and all of the wire, are for any thread; the rest is for `run`.
    """

    _loop: asyncio.AbstractEventLoop = field(repr=False)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it on the pair's loop, and return or raise what it does."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def _as_it_is(config: Config) -> Config:
    return config


@contextlib.asynccontextmanager
async def pair(
    link: Link = PERFECT, *, adapt: Callable[[Config], Config] = _as_it_is
) -> AsyncIterator[Pair]:
    """Have two tunnels that are peers, each the other's only one, inside of `async with`.

    Keys are new each time; the first packet of either makes the handshake.  `adapt` is given the
    left one's configuration and then the right one's, and returns what is to be used: another MTU,
    say, by dataclasses.replace.  Raises StartError where a private network cannot be had, OSError.
    """
    keys = os.urandom(32), os.urandom(32)
    with contextlib.closing(Wire(link)) as wire:
        left = adapt(_config(LEFT, keys[0], RIGHT, keys[1], wire.ports[0]))
        right = adapt(_config(RIGHT, keys[1], LEFT, keys[0], wire.ports[1]))
        async with Tunnel(left) as first, Tunnel(right) as second:
            ports = [(await tunnel.status()).listen_port for tunnel in (first, second)]
            wire.connect(*ports)
            yield Pair(first, second, wire)


def _config(own: Addresses, key: bytes, other: Addresses, other_key: bytes, port: int) -> Config:
    peer = PeerConfig(
        StaticKey(other_key).public_key,
        endpoint=Host(LOOPBACK, port),
        allowed_ips=tuple(map(ip_network, other)),
    )
    addresses = ip_interface(f"{own.v4}/24"), ip_interface(f"{own.v6}/64")
    return Config(key, addresses=addresses, peers=(peer,))


@contextlib.contextmanager
def pair_in_thread(
    link: Link = PERFECT, *, adapt: Callable[[Config], Config] = _as_it_is
) -> Iterator[PairInThread]:
    """Have a pair as `pair` makes it, for tests that are no coroutines: its loop has a thread.

    Raises StartError where a private network cannot be had, OSError.
    """
    ready: Future[PairInThread] = Future()
    over: Future[None] = Future()

    async def live() -> None:
        async with pair(link, adapt=adapt) as both:
            loop = asyncio.get_running_loop()
            ready.set_result(PairInThread(both.left, both.right, both.wire, loop))
            await asyncio.wrap_future(over)

    with ThreadPoolExecutor(1, "wgpy.testing") as executor:
        life = executor.submit(asyncio.run, live())
        either: set[Future[Any]] = {ready, life}
        try:
            wait(either, return_when=FIRST_COMPLETED)
            if not ready.done():
                life.result()  # which raises
            yield ready.result()
        finally:
            over.set_result(None)  # so that the thread ends, whatever happened
    life.result()
