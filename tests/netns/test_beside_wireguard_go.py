# SPDX-License-Identifier: MIT
"""What docs/differences.md says of wgpy and wireguard-go, shown on both.

The wireguard-go is the one that is installed (Debian's).  A row in which it caught up fails,
and the table is to be corrected then.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest
from netns.lab import ENVIRONMENT, SOCKETS, Side, ask, eventually, ping, taken
from netns.test_logs import with_log

pytestmark = pytest.mark.skipif(
    shutil.which("wireguard-go") is None, reason="not installed: wireguard-go"
)

PEER = "public_key=" + "11" * 32
OTHER_PORT = 51999


@pytest.fixture
def both(sides: tuple[Side, Side]) -> Iterator[tuple[Side, Side]]:
    """wgpy on the left, wireguard-go on the right, up and strangers to each other."""
    left, right = sides
    left.host.run("wgpy", left.interface)
    other = right.host.popen("wireguard-go", "-f", right.interface)
    eventually(right.socket.exists, "wireguard-go's socket")
    for side in sides:
        side.configure(f"[Interface]\nPrivateKey = {side.private_key}\nListenPort = {side.port}\n")
    yield sides
    right.host.run("ip", "link", "delete", right.interface)
    other.communicate(timeout=10)


def test_a_bad_line_leaves_the_device_as_it_was_or_not(both: tuple[Side, Side]) -> None:
    request = f"set=1\n{PEER}\nallowed_ip=10.9.9.0/24\nallowed_ip=nonsense\n\n"
    left, right = both
    assert "errno=0" not in ask(left, request)
    assert "errno=0" not in ask(right, request)
    assert "10.9.9.0/24" not in left.show("allowed-ips")
    assert "10.9.9.0/24" in right.show("allowed-ips")


def test_a_port_in_use_keeps_the_old_one_working_or_not(both: tuple[Side, Side]) -> None:
    for side in both:
        with taken(side.host, OTHER_PORT):
            side.host.run("wg", "set", side.interface, "listen-port", str(OTHER_PORT), check=False)
    left, right = both
    assert f":{left.port} " in left.host.run("ss", "-uln")
    assert f":{right.port} " not in right.host.run("ss", "-uln")


def test_a_packet_for_nobody_is_answered_or_vanishes(both: tuple[Side, Side]) -> None:
    def answer(side: Side) -> str:
        return side.host.run("ping", "-c", "1", "-W", "1", "10.77.0.99", check=False)

    left, right = both
    assert "Destination Host Unreachable" in answer(left)
    assert "Unreachable" not in answer(right)


def test_a_route_to_the_endpoint_into_the_tunnel_makes_no_storm_or_one(
    both: tuple[Side, Side],
) -> None:
    left, right = both
    for side, peer in ((left, right), (right, left)):
        allowed = f"{peer.inner4}/32, {peer.host.outer4}/32"
        side.setconf(side.settings(peer, allowed=allowed))
    ping(left.host, right.inner4)

    def frames(side: Side, peer: Side) -> int:
        """How many packets of five pings the host sends into the tunnel."""
        route = [f"{peer.host.outer4}/32", "dev", side.interface]
        side.host.run("ip", "route", "add", *route)
        five = ["ping", "-c", "5", "-i", "0.2", "-W", "1", peer.inner4]
        said = side.host.run(*five, check=False)
        side.host.run("ip", "route", "delete", *route)
        assert ("Destination Host Unreachable" in said) == (side is left)
        return int(side.host.run("cat", f"/sys/class/net/{side.interface}/statistics/tx_packets"))

    assert frames(left, right) < 100
    assert frames(right, left) > 1000


def test_peers_are_shown_in_order_of_creation_or_in_none(both: tuple[Side, Side]) -> None:
    keys = [f"{number:02x}" * 32 for number in range(1, 65)]
    request = "set=1\n" + "".join(f"public_key={key}\n" for key in keys) + "\n"

    def order(side: Side) -> list[str]:
        ask(side, request)
        lines = ask(side, "get=1\n\n").splitlines()
        return [line.removeprefix("public_key=") for line in lines if line.startswith("public_key")]

    left, right = both
    assert order(left) == keys
    shown = order(right)
    assert shown != keys
    assert sorted(shown) == keys


def test_a_socket_directory_that_others_can_write_is_refused_or_used(
    sides: tuple[Side, Side],
) -> None:
    left, right = sides
    # In a mount namespace of its own, by `ip netns exec`.
    script = "mount -t tmpfs tmpfs /run; install -d -m 777 /run/wireguard; exec $1 $0"
    said = left.host.refusal("sh", "-ec", script, left.interface, "wgpy")
    assert "/run/wireguard is writable by others" in said
    right.host.run("sh", "-ec", script, right.interface, "wireguard-go")
    assert right.host.has_interface(right.interface)
    right.host.run("ip", "link", "delete", right.interface)


def test_a_log_that_nobody_reads_holds_up_nothing_or_the_end(sides: tuple[Side, Side]) -> None:
    def ends(side: Side, program: str) -> bool:
        """With a pipe for the log that is full."""
        reader, writer = os.pipe()
        command = side.host.argv("env", "LOG_LEVEL=verbose", program, "-f", side.interface)
        process = subprocess.Popen(command, stdout=writer, stderr=writer, env=ENVIRONMENT)
        eventually(side.socket.exists, f"{program}'s socket")
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        os.set_blocking(writer, True)
        side.host.run("ip", "link", "set", side.interface, "up")
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            return False
        finally:
            process.kill()
            process.wait()
            os.close(reader)
            os.close(writer)
        return True

    assert ends(sides[0], "wgpy")
    assert not ends(sides[1], "wireguard-go")


def test_in_the_background_without_a_syslog_it_says_what_is_wrong_or_nothing(
    sides: tuple[Side, Side],
) -> None:
    left, right = sides
    left.host.run(*with_log("", "wgpy", left.interface))
    right.host.run(*with_log("", "wireguard-go", right.interface))
    for side in sides:
        side.host.run("ip", "link", "delete", side.interface)
    text = (SOCKETS / "wgpy.log").read_text()
    assert f"{left.interface}: ready" in text
    assert right.interface not in text
