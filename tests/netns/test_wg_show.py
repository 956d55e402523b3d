# SPDX-License-Identifier: MIT
"""All that `wg show` and `wg showconf` can be asked, of a device with two peers."""

import json
import time
from dataclasses import dataclass

import pytest
from netns.lab import Namespace, Side, eventually, key_pair, ping, run

LINK_LOCAL = "[fe80::5%cable]:7"
RANGES = "10.9.0.0/16", "fd09::/32"


@dataclass(frozen=True)
class Shown:
    """A side with a first peer that it has talked to, and a second that it cannot reach."""

    side: Side
    first: str
    second: str
    psk: str

    def dump(self) -> list[list[str]]:
        return [line.split("\t") for line in self.side.show("dump").splitlines()]


@pytest.fixture
def shown(tunnel: tuple[Side, Side]) -> Shown:
    left, right = tunnel
    _, other = key_pair()
    psk = run(["wg", "genpsk"]).strip()
    second = ["peer", other, "preshared-key", "/dev/stdin", "endpoint", LINK_LOCAL]
    left.set(*second, "persistent-keepalive", "25", "allowed-ips", ",".join(RANGES), stdin=psk)
    left.set("fwmark", "0x2a")
    ping(left.host, right.inner4)
    return Shown(left, right.public_key, other, psk)


def test_dump_has_everything(shown: Shown) -> None:
    own, first, second = shown.dump()
    assert own == [shown.side.private_key, shown.side.public_key, "51820", "0x2a"]
    assert first[:4] == [shown.first, "(none)", "192.0.2.2:51820", "10.77.0.2/32,fd77::2/128"]
    assert first[7] == "off"
    assert second == [shown.second, shown.psk, LINK_LOCAL, ",".join(RANGES), "0", "0", "0", "25"]


def test_dump_has_the_time_of_the_handshake_and_the_bytes_on_the_cable(shown: Shown) -> None:
    handshake_s, received, sent = (int(figure) for figure in shown.dump()[1][4:7])
    assert abs(time.time() - handshake_s) < 60
    pings = 3 * (16 + 96 + 16)  # header, 84 bytes padded, tag
    assert received == 92 + pings
    assert sent == 148 + pings


@pytest.mark.parametrize(
    ("field", "column"), [("private-key", 0), ("public-key", 1), ("listen-port", 2), ("fwmark", 3)]
)
def test_each_field_of_the_interface_can_be_asked_for(
    field: str, column: int, shown: Shown
) -> None:
    assert shown.side.show(field) == shown.dump()[0][column]


@pytest.mark.parametrize(
    ("field", "columns"),
    [
        ("peers", [0]),
        ("preshared-keys", [0, 1]),
        ("endpoints", [0, 2]),
        ("allowed-ips", [0, 3]),
        ("latest-handshakes", [0, 4]),
        ("transfer", [0, 5, 6]),
        ("persistent-keepalive", [0, 7]),
    ],
)
def test_each_field_of_the_peers_can_be_asked_for(
    field: str, columns: list[int], shown: Shown
) -> None:
    expected = [[peer[column] for column in columns] for peer in shown.dump()[1:]]
    answer = shown.side.show(field).replace(" ", ",")  # between allowed IPs
    assert [line.split("\t") for line in answer.splitlines()] == expected


def lines_about(side: Side, *command: str) -> list[str]:
    """Others on this machine may have interfaces too, which come and go."""
    answer = side.host.run("wg", "show", *command, check=False)
    prefix = f"{side.interface}\t"
    return [line.removeprefix(prefix) for line in answer.splitlines() if line.startswith(prefix)]


@pytest.mark.parametrize("field", ["dump", "fwmark", "allowed-ips", "transfer"])
def test_all_interfaces_can_be_asked(field: str, shown: Shown) -> None:
    assert lines_about(shown.side, "all", field) == shown.side.show(field).splitlines()


def test_interfaces_are_listed(shown: Shown) -> None:
    assert shown.side.interface in shown.side.host.run("wg", "show", "interfaces").split()


def test_the_overview_is_complete(shown: Shown) -> None:
    own, first, _ = shown.dump()
    lines = [line.strip() for line in shown.side.show().splitlines()]
    assert lines[:6] == [
        f"interface: {shown.side.interface}",
        f"public key: {own[1]}",
        "private key: (hidden)",
        "listening port: 51820",
        "fwmark: 0x2a",
        "",
    ]
    assert lines[6:9] == [
        f"peer: {shown.first}",
        f"endpoint: {first[2]}",
        "allowed ips: 10.77.0.2/32, fd77::2/128",
    ]
    assert lines[9].startswith("latest handshake: ")
    assert lines[10] == "transfer: 476 B received, 532 B sent"
    assert lines[12:] == [
        f"peer: {shown.second}",
        "preshared key: (hidden)",
        f"endpoint: {LINK_LOCAL}",
        "allowed ips: 10.9.0.0/16, fd09::/32",
        "persistent keepalive: every 25 seconds",
    ]


def test_showconf_is_what_setconf_takes(shown: Shown) -> None:
    side = shown.side
    settings = side.host.run("wg", "showconf", side.interface)
    assert f"PrivateKey = {side.private_key}\n" in settings
    assert f"PresharedKey = {shown.psk}\n" in settings
    side.setconf(settings)
    assert side.host.run("wg", "showconf", side.interface) == settings


def test_peers_keep_the_order_in_which_they_came(shown: Shown) -> None:
    others = [run(["wg", "genpsk"]).strip() for _ in range(20)]
    for other in others:
        shown.side.set("peer", other)
    assert shown.side.show("peers").splitlines() == [shown.first, shown.second, *others]


def listening(host: Namespace, address: str) -> bool:
    return address in host.run("ss", "-ltn")


def test_it_answers_during_a_transfer_at_full_speed(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    server = right.host.popen("iperf3", "--server", "--one-off", "--bind", right.inner4)
    eventually(lambda: listening(right.host, right.inner4), "a listening iperf3")
    client = left.host.popen("iperf3", "--client", right.inner4, "--time", "2", "--json")
    eventually(lambda: int(left.show("transfer").split()[2]) > 1 << 20, "a transfer")
    figures = []
    while client.poll() is None:
        for side in tunnel:
            figures.append(int(side.show("transfer").split()[2]))
    result = json.loads(client.communicate()[0])
    server.communicate(timeout=10)
    assert figures[::2] == sorted(figures[::2])
    assert figures[::2][-1] > result["end"]["sum_sent"]["bytes"] / 2
