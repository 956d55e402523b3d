# SPDX-License-Identifier: MIT
"""The ways that the benchmark's streams take: they are what they are called, and nothing stays."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.lab import run

sys.path.append(str(Path(__file__).resolve().parents[2]))  # at the end; see test_bench.py

from bench import cases, ways
from bench.__main__ import find_wgpy
from bench.lab import SOCKETS
from bench.topology import HOSTS, NESTED, Host, Tunnel, cable, tunnel

PORT = "5202"
# Prints where the connection comes from; argv: its own address, port.
LISTEN = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.create_server((sys.argv[1], int(sys.argv[2])), family=family) as server:
    print("listening", flush=True)
    server.settimeout(20)
    print(server.accept()[1][0], flush=True)
"""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)"
LANS = [ways.LanHost("lan", host) for host in HOSTS]


@pytest.fixture(scope="module")
def up() -> Iterator[Tunnel]:
    with cable(), tunnel(find_wgpy()) as made:
        yield made


def seen_from(ends: ways.Ends, address: str) -> str:
    """The client's address, as the server sees it."""
    with ends.server.child(sys.executable, "-c", LISTEN, address, PORT) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        ends.client.run(sys.executable, "-c", CONNECT, address, PORT)
        return server.stdout.readline().strip()


@pytest.mark.parametrize(
    ("way", "sources"),
    [
        (ways.direct, (HOSTS[0].inner4, HOSTS[0].inner6)),
        (ways.forwarded, LANS[0].addresses),
        (ways.masqueraded, (HOSTS[0].inner4, HOSTS[0].inner6)),
        (ways.nested, (NESTED[0].inner4, NESTED[0].inner6)),
    ],
)
def test_a_stream_takes_the_way_that_is_asked_for(
    up: Tunnel, way: ways.Way, sources: tuple[str, str]
) -> None:
    with way(up) as ends:
        before = [each.b.counters().frames for each in ends.tunnels]
        assert seen_from(ends, ends.address4) == sources[0]
        assert seen_from(ends, ends.address6) == sources[1]
        after = [each.b.counters().frames for each in ends.tunnels]
    assert all(y - x >= 4 for x, y in zip(before, after, strict=True))  # a SYN and a FIN each


def test_a_nested_tunnel_takes_what_is_left_of_the_mtu(up: Tunnel) -> None:
    with ways.nested(up) as ends:
        inner = NESTED[0]
        (link,) = json.loads(ends.client.ip("-j", "link", "show", "dev", inner.interface))
        assert link["mtu"] == 1340
        full = str(inner.mtu - 28)  # of IPv4 and ICMP
        ends.client.run("ping", "-c", "1", "-w", "10", "-M", "do", "-s", full, ends.address4)


def state(host: Host) -> list[str]:
    """All that a way could leave behind at a host."""
    interfaces = {line.split(": ")[1] for line in host.ip("-o", "link").splitlines()}
    return [
        str(sorted(interfaces)),
        host.ip("route", "show"),
        host.ip("-6", "route", "show"),
        host.run("wg", "show", host.interface, "allowed-ips"),
        host.run("nft", "list", "ruleset"),
        host.run("cat", *ways.SWITCHES),
        str(sorted(SOCKETS.glob(f"{host.interface}*"))),
    ]


def fail_on(way: ways.Way, up: Tunnel, before: list[list[str]]) -> None:
    with way(up):
        assert [state(host) for host in up.hosts] != before
        raise ZeroDivisionError


@pytest.mark.parametrize("way", [ways.forwarded, ways.masqueraded, ways.nested])
def test_a_way_leaves_nothing_even_when_what_it_is_for_fails(up: Tunnel, way: ways.Way) -> None:
    ours = up.a.namespace.removesuffix("a")
    before = [state(host) for host in up.hosts]
    for _ in range(2):  # at once again: nothing is in the way of the next
        with pytest.raises(ZeroDivisionError):
            fail_on(way, up, before)
        assert [state(host) for host in up.hosts] == before
    assert run(["ip", "netns", "list"]).count(ours) == 2
    up.check()


@pytest.mark.parametrize("name", ["forward6", "forward4-p4", "forward-nat", "nested"])
def test_a_case_tells_throughput_retransmits_and_costs(up: Tunnel, name: str) -> None:
    (case,) = (case for case in cases.CASES if case.name == name)
    figures = case.measure(up, 1)
    assert figures["gbit_s"] > 0
    assert figures["retransmits"] >= 0
    assert min(figures["cpu_a_s_per_gb"], figures["cpu_b_s_per_gb"]) > 0
