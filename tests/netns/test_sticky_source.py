# SPDX-License-Identifier: MIT
"""From which of a host's addresses its peer hears, while addresses, links and routes change.

The host has two cables to its peer, who itself is reached at an address behind both.  On the second
cable only the host's address there gets through, as with a provider who filters.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from netns.lab import Namespace, Side, eventually, ping

FILTER = """
table inet filter {
    chain input {
        type filter hook input priority 0;
        iifname "second" ip saddr 192.0.2.0/24 drop
        iifname "second" ip6 saddr 2001:db8::/64 drop
    }
}
"""
AT_ONCE_S = 3.0  # a handshake's retry would take 5


@dataclass(frozen=True)
class Addresses:
    """Of the host: on either cable; of its peer: likewise, and behind both."""

    first: str
    another: str
    second: str
    peer_first: str
    peer_second: str
    peer: str
    length: int  # of a cable's prefix, bits
    host_length: int


ADDRESSES = {
    4: Addresses(
        "192.0.2.1", "192.0.2.9", "198.51.100.1", "192.0.2.2", "198.51.100.2", "203.0.113.1", 24, 32
    ),
    6: Addresses(
        "2001:db8::1",
        "2001:db8::9",
        "2001:db8:2::1",
        "2001:db8::2",
        "2001:db8:2::2",
        "2001:db8:3::1",
        64,
        128,
    ),
}


@dataclass(frozen=True)
class Lab:
    left: Side
    right: Side
    outside: Addresses

    def route(self, cable: str, metric: int = 100) -> None:
        """Leads from the left to the right, in place of a route of that metric."""
        via = self.outside.peer_first if cable == "cable" else self.outside.peer_second
        to = f"{self.outside.peer}/{self.outside.host_length}"
        words = ["route", "replace", to, "via", via, "dev", cable, "metric", str(metric)]
        self.left.host.run("ip", *words)

    def start(self, asked: str) -> None:
        """The right asks the left at this address, and has an answer from there."""
        for side, peer, address in (
            (self.left, self.right, self.outside.peer),
            (self.right, self.left, asked),
        ):
            side.host.run("wgpy", side.interface)
            settings = side.settings(peer)
            side.configure(settings.replace(f"= {peer.host.outer4}:", f"= {bracketed(address)}:"))
        ping(self.right.host, self.left.inner4)
        assert self.heard_from(asked)

    def heard_from(self, address: str) -> bool:
        """Whether that is where the right heard last from the left."""
        told = self.right.show("endpoints").split()[1]
        return told == f"{bracketed(address)}:{self.left.port}"


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def answered(host: Namespace, address: str) -> bool:
    once = ["ping", "-n", "-c", "1", "-W", "0.3", address]
    return "1 received" in host.run(*once, check=False)


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def lab(request: pytest.FixtureRequest, sides: tuple[Side, Side]) -> Lab:
    left, right = sides
    both = ADDRESSES[request.param]
    veth = ["type", "veth", "peer", "name", "second", "netns", right.host.name]
    left.host.run("ip", "link", "add", "second", *veth)
    for side in sides:
        side.host.run("ip", "link", "set", "second", "addrgenmode", "none", "up")  # no DAD
        for cable in ("cable", "second"):
            link_local = f"fe80::{1 + sides.index(side)}/64"
            side.host.run("ip", "address", "add", link_local, "dev", cable, "nodad")
    no_dad = ["nodad"] if request.param == 6 else []
    for side, device, address, length in (
        (left, "second", both.second, both.length),
        (right, "second", both.peer_second, both.length),
        (right, "lo", both.peer, both.host_length),
    ):
        add = ["address", "add", f"{address}/{length}", "dev", device]
        side.host.run("ip", *add, *no_dad)
    unloved = [f"{both.another}/{both.length}", "dev", "cable", "preferred_lft", "0", *no_dad]
    left.host.run("ip", "address", "add", *unloved)  # the kernel would not choose it
    for address, device in (
        (both.first, "cable"),
        (both.another, "cable"),
        (both.second, "second"),
    ):
        to = [f"{address}/{both.host_length}", "dev", device]
        right.host.run("ip", "route", "add", *to, "src", both.peer)
    right.host.run("nft", "-f", "-", stdin=FILTER)
    made = Lab(left, right, both)
    made.route("cable")
    return made


def test_the_answer_comes_from_the_address_that_was_asked(lab: Lab) -> None:
    lab.start(asked=lab.outside.another)
    ping(lab.left.host, lab.right.inner6)
    assert lab.heard_from(lab.outside.another)


def test_what_else_changes_on_the_host_does_no_harm(lab: Lab) -> None:
    lab.start(asked=lab.outside.another)
    host = lab.left.host
    host.run("ip", "link", "add", "other", "type", "veth")
    host.run("ip", "address", "add", "10.99.0.1/24", "dev", "other")
    host.run("ip", "link", "set", "other", "up")
    host.run("ip", "route", "add", "10.98.0.0/16", "dev", "other")
    host.run("ip", "rule", "add", "from", "10.99.0.1", "lookup", "99")
    ping(host, lab.right.inner4, count=10)
    host.run("ip", "link", "delete", "other")
    ping(host, lab.right.inner4, count=10)
    assert lab.heard_from(lab.outside.another)


def test_an_address_is_asked_though_the_way_back_is_another(lab: Lab) -> None:
    lab.right.host.run("nft", "flush", "ruleset")
    lab.start(asked=lab.outside.second)
    ping(lab.left.host, lab.right.inner4)
    assert lab.heard_from(lab.outside.second)


def test_after_the_address_was_removed_another_takes_over(lab: Lab) -> None:
    lab.start(asked=lab.outside.another)
    gone = f"{lab.outside.another}/{lab.outside.length}"
    lab.left.host.run("ip", "address", "delete", gone, "dev", "cable")
    ping(lab.left.host, lab.right.inner4)
    assert lab.heard_from(lab.outside.first)
    ping(lab.right.host, lab.left.inner4)


def reroute(lab: Lab) -> None:
    lab.route("second")


def reroute_by_rule(lab: Lab) -> None:
    via, family = lab.outside.peer_second, "-6" if ":" in lab.outside.peer else "-4"
    table = ["via", via, "dev", "second", "table", "77"]
    lab.left.host.run("ip", family, "route", "add", lab.outside.peer, *table)
    lab.left.host.run("ip", family, "rule", "add", "to", lab.outside.peer, "lookup", "77")


def take_the_link_down(lab: Lab) -> None:
    lab.route("second", metric=200)
    lab.left.host.run("ip", "link", "set", "cable", "down")


def take_the_route_away(lab: Lab) -> None:
    lab.route("second", metric=200)
    lab.left.host.run("ip", "route", "delete", lab.outside.peer, "dev", "cable")


WAYS = [reroute, reroute_by_rule, take_the_link_down, take_the_route_away]


@pytest.mark.parametrize("change", WAYS)
def test_when_the_way_changes_the_source_does_too(lab: Lab, change: Callable[[Lab], None]) -> None:
    lab.start(asked=lab.outside.first)
    change(lab)
    there = lab.right.inner4
    eventually(lambda: answered(lab.left.host, there), "an answer over the other way", AT_ONCE_S)
    assert lab.heard_from(lab.outside.second)
    ping(lab.right.host, lab.left.inner4)


def test_when_the_way_changes_a_peer_that_goes_on_asking_the_old_address_is_told(lab: Lab) -> None:
    lab.start(asked=lab.outside.first)
    lab.route("second")
    there = lab.left.inner4
    eventually(lambda: answered(lab.right.host, there), "an answer over the other way", AT_ONCE_S)
    assert lab.heard_from(lab.outside.second)
    lab.route("cable")
    eventually(lambda: answered(lab.right.host, there), "an answer over the first way", AT_ONCE_S)
    ping(lab.right.host, there)
