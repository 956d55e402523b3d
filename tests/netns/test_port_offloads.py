# SPDX-License-Identifier: MIT
"""Gateways whose ports make lists of packets, or super-packets, of what comes in one by one."""

from collections.abc import Iterator

import pytest
from netns.gateways import Gateways, make_gateways
from netns.lab import namespaces, transfer
from netns.traffic import FEW_PACKETS, RETRANSMITS_MAX, STREAM, cost_of, send_datagrams

ONE_BY_ONE = ["tso", "off", "gso", "off", "tx-udp-segmentation", "off"]
STRAYS = 10  # packets that hosts send of themselves: neighbours and groups of IPv6


@pytest.fixture(scope="module", params=["rx-gro-list", "rx-udp-gro-forwarding"])
def ports(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateways]:
    """All ports of the gateways have this on, and what comes in is not joined yet."""
    with namespaces() as make:
        gateways = make_gateways(make, tmp_path_factory.mktemp("ports"))
        for side, host in ((gateways.left, gateways.source), (gateways.right, gateways.target)):
            for sender, device in ((host, "lan"), (side.host, "cable")):
                sender.run("ethtool", "-K", device, *ONE_BY_ONE)
            for device in ("lan", "cable"):
                side.host.run("ethtool", "-K", device, "gro", "on", request.param, "on")
        yield gateways


@pytest.mark.parametrize("family", [4, 6])
def test_a_stream_that_a_port_joins_arrives(ports: Gateways, family: int) -> None:
    left, _, source, target = ports.parts
    address = ports.address(family)
    cost = cost_of(
        lambda: transfer(source, target, address, STREAM // 4, window=FEW_PACKETS),
        left,
        source,
        target,
    )
    assert cost.dropped == cost.checksum_errors == 0
    assert cost.retransmits <= RETRANSMITS_MAX / 4


@pytest.mark.parametrize("family", [4, 6])
def test_datagrams_that_a_port_joins_arrive(ports: Gateways, family: int) -> None:
    left, _, source, target = ports.parts
    address = ports.address(family)
    cost = cost_of(
        lambda: send_datagrams(source, target, address, 1372, burst=45, bursts=100, train=True),
        left,
        source,
        target,
    )
    assert cost.dropped == cost.checksum_errors == 0
    assert cost.frames <= 45 * 100 + STRAYS
