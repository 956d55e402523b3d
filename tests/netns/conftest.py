"""Fixtures for tests with real interfaces; each test has namespaces of its own."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from netns.lab import Namespace, Side, run

NEEDED = ("ip", "ping", "wg", "wg-quick", "ss", "nft", "iperf3")
numbers = itertools.count()


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
    """Makes a namespace; all are gone after the test, with what runs in them."""
    with ExitStack() as stack:

        def make(outer4: str = "", outer6: str = "") -> Namespace:
            made = Namespace(f"wgpy-{os.getpid()}-{next(numbers)}", outer4, outer6)
            stack.callback(made.delete)
            made.create()
            return made

        yield make


@pytest.fixture
def hosts(namespace: Callable[..., Namespace]) -> tuple[Namespace, Namespace]:
    """Two hosts joined by a cable."""
    pair = namespace("192.0.2.1", "2001:db8::1"), namespace("192.0.2.2", "2001:db8::2")
    left, right = pair
    veth = ["type", "veth", "peer", "name", "cable", "netns", right.name]
    left.run("ip", "link", "add", "cable", *veth)
    for host in pair:
        host.run("ip", "address", "add", f"{host.outer4}/24", "dev", "cable")
        host.run("ip", "address", "add", f"{host.outer6}/64", "dev", "cable", "nodad")
        host.run("ip", "link", "set", "cable", "addrgenmode", "none", "up")  # no DAD later on
    return pair


@pytest.fixture
def sides(hosts: tuple[Namespace, Namespace], tmp_path: Path) -> tuple[Side, Side]:
    """Two hosts with keys; the interfaces are for the test to make."""

    def side(host: Namespace, number: int) -> Side:
        private_key = run(["wg", "genkey"]).strip()
        public_key = run(["wg", "pubkey"], stdin=private_key).strip()
        interface = f"wg{os.getpid()}-{next(numbers)}"
        inner = f"10.77.0.{number}", f"fd77::{number}"
        return Side(host, interface, private_key, public_key, *inner, tmp_path)

    return side(hosts[0], 1), side(hosts[1], 2)
