# SPDX-License-Identifier: MIT
"""What an interface of the system leads into itself, and what it refuses to be."""

from ipaddress import ip_interface, ip_network

import pytest

from wgpy import Config, ConfigError, Interface, PeerConfig
from wgpy.interface import routes_of

PEERS = bytes([1]) * 32, bytes([2]) * 32


def config(*allowed_ips: str, addresses: tuple[str, ...] = ()) -> Config:
    """Each of two peers has a half of these."""
    networks = tuple(map(ip_network, allowed_ips))
    halves = networks[::2], networks[1::2]
    return Config(
        bytes([9]) * 32,
        addresses=tuple(map(ip_interface, addresses)),
        peers=tuple(
            PeerConfig(key, allowed_ips=half) for key, half in zip(PEERS, halves, strict=True)
        ),
    )


def test_there_is_a_route_to_each_allowed_ip_of_any_peer() -> None:
    networks = ("10.0.0.0/8", "fd00::/64", "10.1.0.0/16", "192.0.2.1/32")
    assert {str(network) for network in routes_of(config(*networks))} == set(networks)


def test_what_an_address_has_on_its_link_takes_no_route() -> None:
    addresses = ("10.0.0.1/24", "fd00::1/64")
    networks = ("10.0.0.2/32", "10.0.1.2/32", "fd00::2/128", "fd00:0:0:1::/64")
    left = routes_of(config(*networks, addresses=addresses))
    assert {str(network) for network in left} == {"10.0.1.2/32", "fd00:0:0:1::/64"}


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_a_default_route_is_refused_unless_no_route_is_asked_for(network: str) -> None:
    asked = config("10.0.0.0/24", network)
    with pytest.raises(ConfigError, match="routes=False"):
        Interface("wg0", asked)
    Interface("wg0", asked, routes=False)


@pytest.mark.parametrize("name", ["", "a/b", "sixteen-letters-", "wg%d"])
def test_what_is_no_name_of_an_interface_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        Interface(name, config())
