"""wgpy and wireguard-go understand each other."""

import shutil
from collections.abc import Iterator

import pytest
from netns.lab import Side, eventually, ping, run, transfer

pytestmark = pytest.mark.skipif(
    shutil.which("wireguard-go") is None, reason="not installed: wireguard-go"
)

SIZE = 8 << 20


@pytest.fixture
def unconfigured(sides: tuple[Side, Side]) -> Iterator[tuple[Side, Side]]:
    """Has wgpy on the left, wireguard-go on the right."""
    left, right = sides
    left.host.run("wgpy", left.interface)
    other = right.host.popen("wireguard-go", "-f", right.interface)
    eventually(right.socket.exists, "wireguard-go's socket")
    yield sides
    right.host.run("ip", "link", "delete", right.interface)
    other.communicate(timeout=10)


@pytest.mark.parametrize("outside", [4, 6])
@pytest.mark.parametrize("with_psk", [False, True])
@pytest.mark.parametrize("initiator", ["wgpy", "wireguard-go"])
def test_a_handshake_from_either_side_makes_a_tunnel(
    unconfigured: tuple[Side, Side], initiator: str, with_psk: bool, outside: int
) -> None:
    left, right = unconfigured
    psk = run(["wg", "genpsk"]).strip() if with_psk else ""
    left.configure(left.settings(right, outside=outside, psk=psk))
    right.configure(right.settings(left, outside=outside, psk=psk))
    first, second = (left, right) if initiator == "wgpy" else (right, left)
    ping(first.host, second.inner4)
    ping(second.host, first.inner6)
    assert left.handshake_time() > 0


def test_different_preshared_keys_make_no_tunnel(unconfigured: tuple[Side, Side]) -> None:
    left, right = unconfigured
    left.configure(left.settings(right, psk=run(["wg", "genpsk"]).strip()))
    right.configure(right.settings(left, psk=run(["wg", "genpsk"]).strip()))
    left.host.run("ping", "-c", "1", "-W", "1", right.inner4, check=False)
    assert left.handshake_time() == 0


@pytest.mark.parametrize("outside", [4, 6])
def test_data_arrives_unharmed_both_ways(unconfigured: tuple[Side, Side], outside: int) -> None:
    left, right = unconfigured
    left.configure(left.settings(right, outside=outside))
    right.configure(right.settings(left, outside=outside))
    transfer(left.host, right.host, right.inner4, SIZE)
    transfer(right.host, left.host, left.inner4, SIZE)
    transfer(left.host, right.host, right.inner6, SIZE)
    transfer(right.host, left.host, left.inner6, SIZE)
