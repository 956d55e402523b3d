# SPDX-License-Identifier: MIT
"""The stock wg-quick brings wgpy up and takes it down as it does the kernel module."""

import json
import subprocess
from pathlib import Path

import pytest
from netns.lab import ENVIRONMENT, Namespace, Side, eventually, ping

pytestmark = pytest.mark.skipif(
    Path("/sys/module/wireguard").exists(),
    reason="this kernel has WireGuard: wg-quick does not ask for wgpy",
)


def traces(host: Namespace) -> list[str]:
    """All that an interface could leave behind in a namespace."""
    commands = (
        "ip -o link show type tun",
        "ip rule show",
        "ip -6 rule show",
        "ip route show table all",
        "ip -6 route show table all",
        "nft list tables",
    )
    return [host.run(*command.split()) for command in commands]


@pytest.fixture
def up(sides: tuple[Side, Side]) -> tuple[Side, Side]:
    left, right = sides
    left.write_config(right)
    right.write_config(left)
    left.quick("up")
    right.quick("up")
    return sides


def test_up_applies_the_configuration(up: tuple[Side, Side]) -> None:
    left, right = up
    own, peer = left.host.run("wg", "show", left.interface, "dump").splitlines()
    assert own.split("\t") == [left.private_key, left.public_key, "51820", "off"]
    assert peer.split("\t")[:4] == [
        right.public_key,
        "(none)",
        f"{right.host.outer4}:51820",
        f"{right.inner4}/32,{right.inner6}/128",
    ]


@pytest.mark.parametrize("outside", [4, 6])
def test_both_families_pass_through_either(sides: tuple[Side, Side], outside: int) -> None:
    left, right = sides
    left.write_config(right, outside=outside)
    right.write_config(left, outside=outside)
    left.quick("up")
    right.quick("up")
    ping(left.host, right.inner4)
    ping(left.host, right.inner6)
    ping(right.host, left.inner4, size=1300)


def test_tcp_is_carried_at_speed(up: tuple[Side, Side]) -> None:
    left, right = up
    server = right.host.popen("iperf3", "--server", "--one-off", "--bind", right.inner4)
    eventually(lambda: right.inner4 in right.host.run("ss", "-ltn"), "a listening iperf3")
    flags = ["--client", right.inner4, "--time", "2", "--json"]
    result = json.loads(left.host.run("iperf3", *flags))
    server.communicate(timeout=10)
    assert result["end"]["sum_received"]["bits_per_second"] > 50e6


def test_down_leaves_nothing_behind(sides: tuple[Side, Side]) -> None:
    left, right = sides
    left.write_config(right)
    before = traces(left.host)
    left.quick("up")
    assert traces(left.host) != before
    assert left.socket.exists()
    left.quick("down")
    eventually(lambda: not left.host.pids(), "the end of the daemon")
    assert not left.socket.exists()
    assert traces(left.host) == before


def test_a_pipe_behind_up_ends_with_it(sides: tuple[Side, Side]) -> None:
    left, right = sides
    left.write_config(right)
    command = f"wg-quick up {left.config} 2>&1 | cat"
    done = subprocess.run(
        left.host.argv("sh", "-c", command),
        capture_output=True,
        text=True,
        timeout=20,
        env=ENVIRONMENT,
        check=True,
    )
    assert f"wgpy {left.interface}" in done.stdout


def test_a_default_route_takes_all_but_its_own_packets(sides: tuple[Side, Side]) -> None:
    left, right = sides
    left.write_config(right, allowed="0.0.0.0/0, ::/0")
    right.write_config(left)
    before = traces(left.host)
    right.quick("up")
    right.host.run("ip", "address", "add", "198.51.100.1/32", "dev", "lo")
    left.quick("up")
    assert left.host.run("wg", "show", left.interface, "fwmark").strip() == "0xca6c"
    ping(left.host, "198.51.100.1")
    left.quick("down")
    eventually(lambda: not left.host.pids(), "the end of the daemon")
    assert traces(left.host) == before
