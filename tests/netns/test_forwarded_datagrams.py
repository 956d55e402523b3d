# SPDX-License-Identifier: MIT
"""A gateway: UDP of what is behind the hosts goes through the tunnel, whole or in fragments."""

from collections.abc import Iterator

import pytest
from netns.gateways import Gateways, jumbo_frames
from netns.traffic import Cost, cost_of, send_datagrams

BURSTS = 50


def cost_of_datagrams(
    gateways: Gateways, family: int, size: int, burst: int, *, train: bool = False
) -> Cost:
    """Of BURSTS bursts of such datagrams."""
    left, _, source, target = gateways.parts
    address = gateways.address(family)

    def move() -> None:
        send_datagrams(source, target, address, size, burst=burst, bursts=BURSTS, train=train)

    cost = cost_of(move, left, source, target)
    assert cost.dropped == cost.checksum_errors == 0
    return cost


def splits_trains(gateways: Gateways) -> bool:
    """The kernel is older than Linux 6.2 and hands no trains of UDP over."""
    left = gateways.left
    features = left.host.run("ethtool", "-k", left.interface)
    return "tx-udp-segmentation: off" in features


@pytest.mark.parametrize("family", [4, 6])
def test_datagrams_that_fit_are_forwarded_as_they_are(gateways: Gateways, family: int) -> None:
    assert cost_of_datagrams(gateways, family, 1372, 45).frames >= 45 * BURSTS


@pytest.mark.parametrize("family", [4, 6])
def test_a_train_of_datagrams_that_fit_is_forwarded_whole(gateways: Gateways, family: int) -> None:
    cost = cost_of_datagrams(gateways, family, 1372, 45, train=True)
    if not splits_trains(gateways):
        assert BURSTS <= cost.frames < 2 * BURSTS


def test_fragments_of_the_lans_mtu_are_forwarded_in_fragments(gateways: Gateways) -> None:
    assert cost_of_datagrams(gateways, 4, 8000, 16).frames >= (6 + 5) * 16 * BURSTS


def test_fragments_of_the_tunnels_mtu_are_forwarded_as_they_are(gateways: Gateways) -> None:
    """In IPv6 only the source makes any."""
    gateways.learn_mtu(6)
    assert cost_of_datagrams(gateways, 6, 8000, 16).frames >= 6 * 16 * BURSTS


@pytest.fixture
def wide(gateways: Gateways) -> Iterator[Gateways]:
    """The LANs have jumbo frames."""
    with jumbo_frames(gateways):
        gateways.source.run("ip", "route", "flush", "cache")
        yield gateways


@pytest.mark.parametrize("train", [False, True], ids=["singly", "in trains"])
def test_jumbo_datagrams_are_forwarded_in_fragments(wide: Gateways, train: bool) -> None:
    cost = cost_of_datagrams(wide, 4, 8000, 8, train=train)
    assert cost.frames >= 6 * 8 * BURSTS
