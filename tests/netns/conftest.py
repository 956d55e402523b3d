# SPDX-License-Identifier: MIT
"""Fixtures for tests with real interfaces, in namespaces of a test's own or of a module's."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from netns.broken import Host, daemon
from netns.gateways import Gateways, make_gateways
from netns.lab import Namespace, Side, join_two, namespaces, plan_sides

NEEDED = ("ip", "ping", "wg", "wg-quick", "ss", "nft", "iperf3", "ethtool")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    reason = None
    if os.geteuid() != 0:
        reason = "network namespaces need root"
    elif not Path("/dev/net/tun").exists():
        reason = "there is no /dev/net/tun"
    elif missing:
        reason = f"not installed: {', '.join(missing)}"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.netns)
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def namespace() -> Iterator[Callable[..., Namespace]]:
    """Makes a namespace; all are gone after the test."""
    with namespaces() as make:
        yield make


@pytest.fixture
def hosts(namespace: Callable[..., Namespace]) -> tuple[Namespace, Namespace]:
    """Two hosts joined by a cable."""
    return join_two(namespace)


@pytest.fixture
def sides(hosts: tuple[Namespace, Namespace], tmp_path: Path) -> tuple[Side, Side]:
    """Two hosts with keys; the interfaces are for the test to make."""
    return plan_sides(hosts, tmp_path)


@pytest.fixture
def pair(sides: tuple[Side, Side], tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """Both have a daemon that logs all that it does; nothing is configured yet."""
    with daemon(sides[0], tmp_path) as left, daemon(sides[1], tmp_path) as right:
        yield left, right


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    """Two sides with daemons that the tests of a module share, linked by a tunnel."""
    with namespaces() as make:
        left, right = plan_sides(join_two(make), tmp_path_factory.mktemp("sides"))
        for side, peer in ((left, right), (right, left)):
            side.host.run("wgpy", side.interface)
            side.configure(side.settings(peer))
        yield left, right


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    """Two gateways with daemons and a host behind each, which the tests of a module share."""
    with namespaces() as make:
        yield make_gateways(make, tmp_path_factory.mktemp("gateways"))


@pytest.fixture
def tunnel(linked: tuple[Side, Side]) -> tuple[Side, Side]:
    """The shared tunnel with new keys, so that nothing is left of what was before or on its way."""
    left, right = (side.with_new_keys() for side in linked)
    left.setconf(left.settings(right))
    right.setconf(right.settings(left))
    return left, right
