# SPDX-License-Identifier: MIT
"""A network that misbehaves, by chance from a seed."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random

from fakes import Datagram, FakeHandle, FakeLoop, Receiver, S

from wgpy.config import Endpoint

REPLAYABLE = 64  # datagrams that the attacker remembers


@dataclass(frozen=True, slots=True)
class Weather:
    """How the network treats datagrams; probabilities from 0 to 1."""

    loss: float = 0.0
    delay_s: float = 0.02
    jitter_s: float = 0.0  # up to so much on top, so that datagrams overtake each other
    duplicate: float = 0.0
    hold: float = 0.0  # delivered only after ...
    hold_s: float = 0.0  # ... up to so long
    corrupt: float = 0.0


class SimNetwork:
    """Carries datagrams as the weather permits, for as long as no partition forbids it."""

    def __init__(self, loop: FakeLoop, random: Random) -> None:
        self.weather = Weather()
        self.blocked: set[tuple[int, int]] = set()  # numbers of hosts: from, to
        self.watch: Callable[[Datagram], None] = lambda datagram: None
        self.recent: deque[Datagram] = deque(maxlen=REPLAYABLE)
        self.sent = 0
        self._loop = loop
        self._random = random
        self._receivers: dict[Endpoint, Receiver] = {}
        self._flying: set[FakeHandle] = set()

    def attach(self, endpoint: Endpoint, receiver: Receiver) -> None:
        self._receivers[endpoint] = receiver

    def detach(self, endpoint: Endpoint) -> None:
        self._receivers.pop(endpoint, None)

    def send(self, datagram: Datagram) -> None:
        self.sent += 1
        self.watch(datagram)
        self.recent.append(datagram)
        weather, chance = self.weather, self._random.random
        if weather.loss and chance() < weather.loss:
            return
        if weather.corrupt and chance() < weather.corrupt:
            datagram = self.corrupted(datagram)
        for _ in range(2 if weather.duplicate and chance() < weather.duplicate else 1):
            self.carry(datagram)

    def carry(self, datagram: Datagram) -> None:
        """Deliver it in due time, unless there is a partition then."""
        weather = self.weather
        delay_s = weather.delay_s + weather.jitter_s * self._random.random()
        if weather.hold and self._random.random() < weather.hold:
            delay_s += weather.hold_s * self._random.random()
        handle = FakeHandle(lambda: None)
        self._flying.add(handle)

        def arrive() -> None:
            self._flying.discard(handle)
            if handle.callback is not None:
                self._deliver(datagram)

        self._loop.call_at(self._loop.now_ns + round(delay_s * S), arrive)

    def _deliver(self, datagram: Datagram) -> None:
        receiver = self._receivers.get(datagram.to)
        way = (host_number(datagram.source), host_number(datagram.to))
        if receiver is not None and way not in self.blocked:
            receiver.receive(datagram)

    def corrupted(self, datagram: Datagram) -> Datagram:
        data = bytearray(datagram.data)
        data[self._random.randrange(4, len(data))] ^= 1 << self._random.randrange(8)
        return replace(datagram, data=bytes(data))

    def lose_what_flies(self) -> None:
        for handle in self._flying:
            handle.cancel()


def host_number(endpoint: Endpoint) -> int:
    return endpoint.address[1]


@contextmanager
def watched(network: SimNetwork) -> Iterator[list[Datagram]]:
    """What is sent inside the block."""
    log: list[Datagram] = []
    before, network.watch = network.watch, log.append
    yield log
    network.watch = before
