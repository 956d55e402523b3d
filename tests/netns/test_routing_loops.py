"""The route to a peer's endpoint leads into the tunnel that is to carry packets to it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import pytest
from netns.lab import Namespace, Side, key_pair, ping

FRAMES_MAX = 500  # of five pings; without a guard, 250,000 a second
BEHIND = "10.88.0.1", "10.88.0.2"  # the left and its peer behind the right


@contextmanager
def loop(left: Side, right: Side, version: int) -> Iterator[None]:
    """The left reaches the right's endpoint through the tunnel, as it believes."""
    to = f"{right.host.outer4}/32" if version == 4 else f"{right.host.outer6}/128"
    left.host.run("ip", "route", "add", to, "dev", left.interface)
    try:
        yield
    finally:
        left.host.run("ip", "route", "delete", to, "dev", left.interface)


Looped = Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def looped(request: pytest.FixtureRequest, tunnel: tuple[Side, Side]) -> Looped:
    """For a block in which there is a loop; the peer may be sent what its endpoint is sent."""
    left, right = tunnel
    inner, outer = f"{right.inner4}, {right.inner6}", f"{right.host.outer4}, {right.host.outer6}"
    version: int = request.param
    left.setconf(left.settings(right, outside=version, allowed=f"{inner}, {outer}"))
    return lambda: loop(left, right, version)


def frames(side: Side) -> int:
    """How many packets the host has sent into the tunnel."""
    path = f"/sys/class/net/{side.interface}/statistics/tx_packets"
    return int(side.host.run("cat", path))


def five_pings(host: Namespace, address: str, size: int = 56) -> str:
    """What five pings say that have no answer."""
    flags = ["-n", "-c", "5", "-i", "0.2", "-W", "1", "-s", str(size)]
    said = host.run("ping", *flags, address, check=False)
    assert " 0 received" in said
    return said


@pytest.mark.parametrize("size", [56, 1372, 8000])
def test_a_loop_makes_no_storm(tunnel: tuple[Side, Side], looped: Looped, size: int) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    before = frames(left)
    with looped():
        five_pings(left.host, right.inner4, size)
        assert frames(left) - before < FRAMES_MAX
    ping(left.host, right.inner4)


def test_nor_does_one_before_the_first_handshake(tunnel: tuple[Side, Side], looped: Looped) -> None:
    left, right = tunnel
    before = frames(left)
    with looped():
        five_pings(left.host, right.inner6)
        assert frames(left) - before < FRAMES_MAX


def test_a_peer_may_be_reached_through_another_one(tunnel: tuple[Side, Side]) -> None:
    """The endpoint of a second interface of the right is its address in the tunnel of the first."""
    left, right = tunnel
    private_key, public_key = key_pair()
    inner = replace(
        right, interface=f"{right.interface}x", private_key=private_key, public_key=public_key
    )
    inner = replace(inner, inner4=BEHIND[1], port=51821)
    right.host.run("wgpy", inner.interface)
    try:
        inner.configure(inner.settings(left, allowed=BEHIND[0]).replace("Endpoint", "#"))
        left.host.run("ip", "address", "add", f"{BEHIND[0]}/24", "dev", left.interface)
        endpoint = f"{right.inner4}:{inner.port}"
        left.set("peer", public_key, "endpoint", endpoint, "allowed-ips", BEHIND[1])
        ping(left.host, BEHIND[1], count=10)
        ping(right.host, BEHIND[0], size=1000)
    finally:
        left.host.run("ip", "address", "delete", f"{BEHIND[0]}/24", "dev", left.interface)
        right.host.run("ip", "link", "delete", inner.interface)
