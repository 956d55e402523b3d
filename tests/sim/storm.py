# SPDX-License-Identifier: MIT
"""A seed's story: hours in which all goes wrong, then calm, in which all must be well again.

run(seed) fails with Broken when a rule is broken; replay(seed) is the command that tells the story.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from core_numbers import REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES
from fakes import S
from sim.monitor import require
from sim.network import Weather
from sim.world import Host, World

from wgpy.config import Endpoint, PeerChange
from wgpy.dataplane.types import MessageEvent

RECOVERY_S = 30  # in the calm, payload passes after so long
FINALE_S = 40
IDLE_S = 600  # after so long without payload, nothing is left to be done
RUBBISH = 300  # forged initiations that come at once
ATTACKER = Endpoint(bytes([10, 99, 0, 1]), 666)

WEATHERS = (
    Weather(),
    Weather(),
    Weather(loss=0.05, jitter_s=0.1),
    Weather(loss=0.3, delay_s=0.1, jitter_s=0.3, duplicate=0.1),
    Weather(loss=0.7, delay_s=0.3, jitter_s=2, duplicate=0.3),
    Weather(delay_s=1, jitter_s=6, duplicate=0.2),
    Weather(hold=0.2, hold_s=30, duplicate=0.5),
    Weather(hold=0.1, hold_s=700),
    Weather(corrupt=0.2, loss=0.1),
    Weather(loss=1.0),
)


@dataclass
class Outcome:
    """What a run was about."""

    seed: int
    simulated_s: float
    handshakes: int  # sessions derived, on either side
    datagrams: int
    payloads: int


class Storm:
    """The events of a seed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.begin_s = world.now_s
        self.end_s = self.begin_s + self.random.choice((120, 600, 3600, 3 * 3600))
        self._keys = 100
        self._kinds = (
            self.change_weather,
            self.change_weather,
            self.partition,
            self.restart,
            self.take_link_down,
            self.flap,
            self.sleep,
            self.move,
            self.change_port,
            self.step_clock,
            self.change_preshared_key,
            self.change_private_key,
            self.remove_peer,
            self.set_wrong_endpoint,
            self.change_keepalive,
            self.use_nonces_up,
            self.replay,
            self.converse,
            self.converse,
            self.converse,
            self.send_a_little,
            self.send_a_little,
        )
        for _ in range(self.random.randint(5, 40)):
            self._at_some_time(self._something)
        if self.random.random() < 0.1:
            self._at_some_time(self.flood)
        if self.random.random() < 0.7:
            self._plan_finale()

    def _plan_finale(self) -> None:
        """Faults right before the calm, while sessions are in use."""
        pair = self.random.choice(self.world.pairs)
        self.world.at(self.end_s - FINALE_S, lambda: self._go_on(pair, 1, FINALE_S, 1.0))
        faults = (
            self.restart,
            self.take_link_down,
            self.flap,
            self.sleep,
            self.move,
            self.step_clock,
            self.partition,
            self.change_private_key,
            self.change_preshared_key,
            self.remove_peer,
            self.use_nonces_up,
            self.change_weather,
        )
        for _ in range(self.random.randint(1, 4)):
            when_s = self.end_s - FINALE_S / 2 * self.random.random()
            self.world.at(when_s, self.random.choice(faults))

    def _at_some_time(self, event: Callable[[], None]) -> None:
        self.world.at(self.random.uniform(self.begin_s, self.end_s), event)

    def _something(self) -> None:
        self.random.choice(self._kinds)()

    def _later(self, mean_s: float, callback: Callable[[], None]) -> float:
        """Call after some time, but before the end of the storm; -> seconds from now."""
        now_s = self.world.now_s
        wait_s = min(self.random.expovariate(1 / mean_s), self.end_s - now_s)
        self.world.at(now_s + wait_s, callback)
        return wait_s

    def _host(self) -> Host:
        return self.random.choice(self.world.hosts)

    def _client(self) -> Host:
        return self.random.choice(self.world.clients)

    def _sync_if_alive(self, host: Host) -> None:
        if host.alive:
            host.sync()

    def _sync_later(self, *hosts: Host) -> None:
        for host in hosts:
            self._later(20, partial(self._sync_if_alive, host))

    # ---- the network ----

    def change_weather(self) -> None:
        self.world.network.weather = weather = self.random.choice(WEATHERS)
        self.world.say(f"{weather}")

    def partition(self) -> None:
        a, b = self.random.choice(self.world.pairs)
        ways = {(a.number, b.number), (b.number, a.number)}
        if self.random.random() < 0.5:
            ways = {self.random.choice(sorted(ways))}
        blocked = self.world.network.blocked
        blocked |= ways
        wait_s = self._later(60, lambda: blocked.difference_update(ways))
        self.world.say(f"nothing passes {sorted(ways)} for {wait_s:.0f} s")

    def replay(self) -> None:
        """Somebody sends again what he saw, from his own address or as it was, maybe changed."""
        network = self.world.network
        for _ in range(self.random.randint(1, 20)):
            if not network.recent:
                return
            datagram = self.random.choice(network.recent)
            if self.random.random() < 0.5:
                datagram = replace(datagram, source=ATTACKER)
            if self.random.random() < 0.3:
                datagram = network.corrupted(datagram)
            network.carry(datagram)
        self.world.say("replays")

    # ---- hosts ----

    def restart(self) -> None:
        host = self._host()
        if not host.alive:
            return
        host.crash()

        def boot() -> None:
            if host.clock.dead:
                host.boot()
                host.sync()

        wait_s = self._later(self.random.choice((0.1, 5, 60)), boot)
        self.world.say(f"{host.name} is dead for {wait_s:.1f} s")

    def take_link_down(self) -> None:
        host = self._host()
        if not host.alive:
            return
        host.link_down()
        wait_s = self._later(self.random.choice((0.1, 5, 60)), lambda: host.link_up())
        self.world.say(f"{host.name} is down for {wait_s:.1f} s")

    def flap(self) -> None:
        """The link goes down and up a few times, and there is traffic at once."""
        host = self._host()
        other = self.random.choice(host.others)
        count = self.random.randint(2, 10)
        self.world.say(f"{host.name}'s link flaps {count} times")
        for number in range(count):
            self.world.at(
                self.world.now_s + number * self.random.choice((0.001, 0.01, 0.1)),
                lambda: self._flap_once(host, other),
            )

    def _flap_once(self, host: Host, other: Host) -> None:
        if host.alive and self.world.now_s < self.end_s:
            host.link_down()
            host.link_up()
            host.send(other)

    def sleep(self) -> None:
        host = self._host()
        if not host.alive:
            return
        host.fall_asleep()
        wait_s = self._later(self.random.choice((10, 100, 1000)), host.wake_up)
        self.world.say(f"{host.name} sleeps for {wait_s:.0f} s")

    def step_clock(self) -> None:
        host = self._host()
        by_s = self.random.choice((-1, 1)) * self.random.choice((0.001, 1, 100, 10_000))
        host.step_clock(round(by_s * S))
        self.world.say(f"{host.name}'s clock is stepped by {by_s} s")

    def move(self) -> None:
        """Another network: now and then of the other family, now and then an old one."""
        client = self._client()
        if not client.alive:
            return
        network = self.random.randint(1, 4)
        if network % 2:
            client.move(bytes([10, client.number, 0, network]))
        else:
            client.move(bytes([0xFD, client.number, *bytes(13), network]))
        self._sync_later(self.world.server)
        self.world.say(f"{client.name} moves to {client.endpoint}")

    def change_port(self) -> None:
        client = self._client()
        if not client.alive or not client.plane.running:
            return
        client.listen(self.random.randint(2000, 60000))
        self._sync_later(self.world.server)
        self.world.say(f"{client.name} listens on {client.port}")

    # ---- configuration ----

    def _key(self) -> bytes:
        self._keys += 1
        return bytes([self._keys]) * 32

    def change_preshared_key(self) -> None:
        a, b = self.random.choice(self.world.pairs)
        self.world.set_preshared_key(a, b, self._key())
        self._sync_later(a, b)
        self.world.say(f"{a.name} and {b.name} get another preshared key")

    def change_private_key(self) -> None:
        host = self._host()
        host.become(self._key())
        self._sync_later(host, *host.others)
        self.world.say(f"{host.name} gets another private key")

    def remove_peer(self) -> None:
        host = self._host()
        if not host.alive:
            return
        other = self.random.choice(host.others)
        host.configure(PeerChange(other.public_key, remove=True))
        self._sync_later(host)
        self.world.say(f"{host.name} removes {other.name}")

    def set_wrong_endpoint(self) -> None:
        client = self._client()
        if not client.alive:
            return
        wrong = Endpoint(ATTACKER.address, self.random.randint(1, 9))
        client.configure(PeerChange(self.world.server.public_key, update_only=True, endpoint=wrong))
        self._sync_later(client)
        self.world.say(f"{client.name} has a wrong endpoint")

    def change_keepalive(self) -> None:
        host = self._host()
        host.keepalive_s = self.random.choice((0, 1, 5, 25, 200))
        self._sync_later(host)
        self.world.say(f"{host.name} keeps alive every {host.keepalive_s} s")

    # ---- traffic and load ----

    def converse(self) -> None:
        """Payload both ways at a steady pace."""
        pair = self.random.choice(self.world.pairs)
        interval_s = self.random.choice((0.5, 2, 5, 11, 30, 70))
        count = self.random.randint(1, 40)
        answers = self.random.choice((0.0, 0.5, 1.0))
        self.world.say(f"{pair[0].name} and {pair[1].name} talk every {interval_s} s")
        self._go_on(pair, interval_s, count, answers)

    def _go_on(
        self, pair: tuple[Host, Host], interval_s: float, count: int, answers: float
    ) -> None:
        pair[0].send(pair[1])
        if self.random.random() < answers:
            pair[1].send(pair[0])
        if count and self.world.now_s + interval_s < self.end_s:
            self.world.at(
                self.world.now_s + interval_s,
                lambda: self._go_on(pair, interval_s, count - 1, answers),
            )

    def send_a_little(self) -> None:
        pair = list(self.random.choice(self.world.pairs))
        self.random.shuffle(pair)
        count = self.random.choice((1, 1, 2, 10, 200))
        for _ in range(count):
            pair[0].send(pair[1])
        self.world.say(f"{pair[0].name} sends {count} packets to {pair[1].name}")

    def use_nonces_up(self) -> None:
        host = self._host()
        counter = self.random.choice((REKEY_AFTER_MESSAGES, REJECT_AFTER_MESSAGES - 2))
        host.plane.jump_counters(counter)
        self.world.say(f"{host.name} has sealed {counter} messages")

    def flood(self) -> None:
        host = self._host()
        rubbish = MessageEvent(None, b"\x01" + bytes(147), ATTACKER)
        for _ in range(RUBBISH):
            host.plane.inject(rubbish)
        self.world.say(f"{host.name} gets {RUBBISH} forged initiations")


def tell(world: World, say: Callable[[str], None]) -> None:
    """Say each event and each datagram sent, with its time in seconds."""
    begin_s = world.now_s
    world.say = lambda text: say(f"{world.now_s - begin_s:10.3f} {text}")
    world.network.watch = lambda datagram: world.say(
        f"    {datagram.source.address.hex()} -> {datagram.to.address.hex()}: "
        f"type {datagram.kind}, {len(datagram.data)} bytes"
    )


def calm(world: World) -> None:
    """End all faults, and configure everybody as is right."""
    world.say("calm")
    world.network.weather = Weather()
    world.network.blocked.clear()
    world.network.lose_what_flies()
    for host in world.hosts:
        host.wake_up()
        if host.clock.dead:
            host.boot()
        host.link_up()
    for host in world.hosts:
        host.sync()


def require_recovery(world: World, random: Random) -> None:
    """Payload passes again within RECOVERY_S, whoever sends it."""
    directions = [(client, world.server) for client in world.clients]
    back = [(world.server, client) for client in world.clients]
    if random.random() < 0.5:
        directions += back
    elif world.server.knows_endpoints and random.random() < 0.5:
        directions = back
    sent: dict[tuple[Host, Host], set[int | None]] = {way: set() for way in directions}
    begin_s = world.now_s
    while world.now_s < begin_s + RECOVERY_S:
        for way, numbers in sent.items():
            numbers.add(way[0].send(way[1]))
        world.advance(1)
    for (sender, receiver), numbers in sent.items():
        require(
            numbers & world.monitor.delivered,
            f"payload from {sender.name} to {receiver.name} passes within {RECOVERY_S} s",
        )


def require_rest(world: World) -> None:
    """Without payload and keepalives, everything comes to rest."""
    for host in world.hosts:
        host.keepalive_s = 0
        host.sync()
    world.advance(IDLE_S)
    for host in world.hosts:
        require(host.clock.waiting == 0, f"no timer of {host.name} runs on when it is idle")
        require(not host.plane.indexes, f"{host.name} keeps no keys and no handshake when idle")
    sent = world.network.sent
    world.advance(3600)
    require(world.network.sent == sent, "who is idle sends nothing")


def replay(seed: int) -> str:
    """How to see a seed's story, from the repository's directory."""
    return f"PYTHONPATH=tests python -m sim {seed}"


def run(seed: int, say: Callable[[str], None] | None = None) -> Outcome:
    """Run a seed, and say what happens in it; Broken if a rule is broken."""
    random = Random(seed)
    world = World(seed, hosts=random.choice((2, 2, 2, 3)))
    if say is not None:
        tell(world, say)
    world.server.knows_endpoints = random.random() < 0.5
    storm = Storm(world)
    world.until(storm.end_s)
    calm(world)
    require_recovery(world, random)
    require_rest(world)
    return Outcome(
        seed=seed,
        simulated_s=world.now_s - storm.begin_s,
        handshakes=world.monitor.handshakes,
        datagrams=world.network.sent,
        payloads=len(world.monitor.delivered),
    )
