# SPDX-License-Identifier: MIT
"""A gateway: streams of what is behind the hosts go through the tunnel."""

import pytest
from netns.gateways import Gateways, jumbo_frames
from netns.lab import chain, statistic, transfer
from netns.traffic import STREAM, check_whole


@pytest.mark.parametrize("family", [4, 6])
def test_a_stream_from_behind_the_gateway_crosses_whole(gateways: Gateways, family: int) -> None:
    left, _, source, target = gateways.parts
    address = gateways.address(family)
    check_whole(lambda: transfer(source, target, address, STREAM), left, source, target)


def test_a_masqueraded_stream_crosses_whole(gateways: Gateways) -> None:
    left, _, source, target = gateways.parts
    rule = f"oifname {left.interface} masquerade"
    with chain(left.host, f"type nat hook postrouting priority srcnat; {rule};"):
        check_whole(
            lambda: transfer(source, target, gateways.address(4), STREAM), left, source, target
        )


def test_a_stream_to_a_published_port_crosses_whole(gateways: Gateways) -> None:
    """DNAT: the right gateway's address in the tunnel stands for the host behind it."""
    left, right, source, target = gateways.parts
    listen = gateways.address(4)
    rule = f"ip daddr {right.inner4} tcp dport 5201 dnat to {listen}"
    with chain(right.host, f"type nat hook prerouting priority dstnat; {rule};"):
        check_whole(
            lambda: transfer(source, target, right.inner4, STREAM, listen=listen),
            left,
            source,
            target,
        )


@pytest.mark.parametrize("family", [4, 6])
def test_a_stream_of_jumbo_frames_learns_the_tunnels_mtu_and_crosses_whole(
    gateways: Gateways, family: int
) -> None:
    left, _, source, target = gateways.parts
    address = gateways.address(family)
    refusals = "IcmpInDestUnreachs" if family == 4 else "Icmp6InPktTooBigs"
    with jumbo_frames(gateways):
        source.run("ip", f"-{family}", "route", "flush", "cache")
        before = statistic(source, refusals)
        check_whole(lambda: transfer(source, target, address, STREAM), left, source, target)
        assert 0 < statistic(source, refusals) - before < 100
        assert "mtu 1420" in source.run("ip", "route", "get", address)
