# SPDX-License-Identifier: MIT
"""Which sticky sources hold, by the routes of the loopback interface, which every host has."""

import asyncio
import socket
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from fakes import FakeLoop

from wgpy.config import DeviceChange, Endpoint, PeerChange
from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import PeerStats
from wgpy.device import PEERS_PER_TURN, Device
from wgpy.linux.routes import RouteWatch
from wgpy.linux.sockets import open_sockets
from wgpy.ports import Feature

LOOPBACK = {4: socket.inet_aton("127.0.0.1"), 6: socket.inet_pton(socket.AF_INET6, "::1")}
NOT_OURS = socket.inet_aton("192.0.2.77")
INTERFACE = socket.if_nametoindex("lo")


@dataclass
class FakePaths:
    """Peers by slot, and what was judged of them: the sources of those that have one, and loops."""

    endpoints: list[Endpoint]
    listen_port: int = 51820
    fwmark: int = 7
    judged: dict[int, bool] = field(default_factory=dict)
    looped: dict[int, bool] = field(default_factory=dict)

    def paths(self) -> Iterator[list[tuple[int, Endpoint]]]:
        for numbered in enumerate(self.endpoints):
            yield [numbered]

    def loops(self) -> list[tuple[int, Endpoint]]:
        return list(enumerate(self.endpoints))

    def set_leads_in(self, slot: int, endpoint: Endpoint, leads_in: bool) -> None:
        assert endpoint is self.endpoints[slot]
        self.looped[slot] = leads_in

    def allow_source(self, slot: int, path: Endpoint, holds: bool) -> None:
        assert path is self.endpoints[slot]
        self.judged[slot] = holds


def judge(*endpoints: Endpoint) -> dict[int, bool]:
    fake = FakePaths(list(endpoints))

    async def look() -> None:
        await RouteWatch(fake, lambda: 0).look()

    asyncio.run(look())
    return fake.judged


def judge_loops(own_interface: int, *endpoints: Endpoint) -> dict[int, bool]:
    fake = FakePaths(list(endpoints))

    async def look() -> None:
        await RouteWatch(fake, lambda: own_interface).look_at_loops()

    asyncio.run(look())
    return fake.looped


def needs(version: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET) as probe:
            probe.bind(("::1" if version == 6 else "127.0.0.1", 0))
    except OSError:
        pytest.skip(f"the host has no IPv{version}")


@pytest.mark.parametrize("version", [4, 6])
def test_a_source_holds_while_the_route_leaves_by_its_interface(version: int) -> None:
    needs(version)
    address = LOOPBACK[version]
    there = Endpoint(address, 9, source=address, source_ifindex=INTERFACE)
    elsewhere = Endpoint(address, 9, source=address, source_ifindex=INTERFACE + 1)
    assert judge(there, elsewhere) == {0: True, 1: False}


def test_a_source_that_is_not_ours_does_not_hold() -> None:
    path = Endpoint(LOOPBACK[4], 9, source=NOT_OURS, source_ifindex=INTERFACE)
    assert judge(path) == {0: False}


def test_a_path_in_a_zone_is_not_judged() -> None:
    link_local = socket.inet_pton(socket.AF_INET6, "fe80::1")
    path = Endpoint(link_local, 9, INTERFACE, source=link_local, source_ifindex=INTERFACE)
    assert judge(path) == {}


@pytest.mark.parametrize("version", [4, 6])
def test_a_route_that_leaves_by_our_own_interface_leads_in(version: int) -> None:
    needs(version)
    there = Endpoint(LOOPBACK[version], 9)
    assert judge_loops(INTERFACE, there) == {0: True}
    assert judge_loops(INTERFACE + 1, there) == {0: False}
    assert judge_loops(0, there) == {0: False}


def test_a_source_that_holds_decides_on_the_route() -> None:
    address = LOOPBACK[4]
    holds = Endpoint(address, 9, source=address, source_ifindex=INTERFACE)
    does_not = Endpoint(address, 9, source=NOT_OURS, source_ifindex=INTERFACE + 1)
    unknown = Endpoint(address, 9, source=NOT_OURS)
    assert judge_loops(INTERFACE, holds, does_not, unknown) == {0: True, 1: True, 2: True}
    assert judge_loops(INTERFACE + 1, holds, does_not, unknown) == {0: False, 1: False, 2: False}


def test_a_zone_names_the_interface() -> None:
    link_local = socket.inet_pton(socket.AF_INET6, "fe80::1")
    path = Endpoint(link_local, 9, INTERFACE)
    assert judge_loops(INTERFACE, path) == {0: True}
    assert judge_loops(INTERFACE + 1, path) == {0: False}


def test_what_cannot_be_reached_leads_nowhere() -> None:
    broadcast = Endpoint(bytes([255] * 4), 0, source=NOT_OURS)
    assert judge_loops(0, broadcast) == {0: False}


def test_a_suspicion_makes_it_look() -> None:
    fake = FakePaths([Endpoint(LOOPBACK[4], 9)])

    async def until_judged() -> None:
        while not fake.looped:
            await asyncio.sleep(0.001)

    async def scenario() -> None:
        watch = RouteWatch(fake, lambda: INTERFACE)
        running = asyncio.create_task(watch.run())
        for _ in range(2):
            fake.looped.clear()
            watch.suspect()
            await asyncio.wait_for(until_judged(), 10)
        running.cancel()

    asyncio.run(scenario())
    assert fake.looped == {0: True}


class CountingPlane(Plane):
    """Counts how many peers were looked up."""

    looked_up = 0

    def stats(self, slot: int) -> PeerStats:
        self.looked_up += 1
        return super().stats(slot)


@contextmanager
def device_with(peers: Iterable[PeerChange]) -> Iterator[tuple[Device, CountingPlane]]:
    with closing(CountingPlane()) as plane:
        device = Device(plane, open_sockets, FakeLoop(), (-1,), Feature(0))
        device.configure(DeviceChange(peers=tuple(peers)))
        with closing(device):
            yield device, plane


def test_only_peers_with_a_source_have_a_path() -> None:
    with_source = Endpoint(LOOPBACK[4], 9, source=LOOPBACK[4], source_ifindex=INTERFACE)
    endpoints = [with_source, Endpoint(LOOPBACK[4], 9), None]
    peers = [PeerChange(bytes([n]) * 32, endpoint=end) for n, end in enumerate(endpoints, 1)]
    with device_with(peers) as (device, _):
        [[(slot, path)]] = device.paths()
        assert (path.source, path.source_ifindex) == (with_source.source, INTERFACE)
        device.configure(DeviceChange(replace_peers=True))
        device.allow_source(slot, path, False)  # too late, and no matter
        assert list(device.paths()) == []


def many_peers() -> list[PeerChange]:
    source = Endpoint(LOOPBACK[4], 9, source=LOOPBACK[4], source_ifindex=INTERFACE)
    keys = (n.to_bytes(32, "big") for n in range(1, 3 * PEERS_PER_TURN))
    return [PeerChange(key, endpoint=source) for key in keys]


def test_peers_that_go_while_others_are_looked_up_have_no_path() -> None:
    peers = many_peers()
    with device_with(peers) as (device, _):
        pieces = device.paths()
        assert len(next(pieces)) == PEERS_PER_TURN
        device.configure(DeviceChange(replace_peers=True, peers=tuple(peers[-1:])))
        assert sum(map(len, pieces)) <= 1


def test_a_look_at_thousands_of_peers_leaves_others_their_turn() -> None:
    peers = [PeerChange(peer.public_key) for peer in many_peers()]

    async def look(device: Device, plane: CountingPlane) -> list[int]:
        looked_up = [0]  # peers, by each turn of the loop
        looking = asyncio.create_task(RouteWatch(device, lambda: 0).look())
        while not looking.done():
            await asyncio.sleep(0)
            looked_up.append(plane.looked_up)
        await looking
        return looked_up

    with device_with(peers) as (device, plane):
        looked_up = asyncio.run(look(device, plane))
    assert looked_up[-1] == len(peers)
    assert max(b - a for a, b in pairwise(looked_up)) <= PEERS_PER_TURN
