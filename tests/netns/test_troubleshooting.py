"""Tunnels broken in one way each show what docs/troubleshooting.md says, and where it says."""

import base64
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from netns.lab import ENVIRONMENT, Side, eventually, ping

PSK = base64.b64encode(bytes(range(32))).decode()
REFUSED = "handshake message refused: "


@dataclass(frozen=True)
class Host:
    """A side, and the log of its daemon."""

    side: Side
    log: Path

    def says(self, line: str) -> bool:
        return line in self.log.read_text()

    def transfer(self) -> tuple[int, int]:
        """Bytes received and sent."""
        received, sent = map(int, self.side.show("transfer").split()[1:])
        return received, sent

    def speak(self, to: str) -> str:
        """A ping that is not to wait for long."""
        return self.side.host.run("ping", "-c", "1", "-W", "1", to, check=False)


@pytest.fixture
def pair(sides: tuple[Side, Side], tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """Both log all that they do; nothing is configured yet."""
    with ExitStack() as stack:
        made = []
        for side in sides:
            host = Host(side, tmp_path / f"{side.interface}.log")
            file = stack.enter_context(host.log.open("w"))
            command = side.host.argv("env", "LOG_LEVEL=debug", "wgpy", "-f", side.interface)
            process = subprocess.Popen(command, stdout=file, stderr=file, env=ENVIRONMENT)
            stack.callback(process.wait, 10)
            stack.callback(process.terminate)
            eventually(side.socket.exists, f"the socket of {side.interface}")
            made.append(host)
        yield made[0], made[1]


def configure(here: Host, there: Host, change: Callable[[str], str] = str) -> None:
    """Both as they should be, but for what is changed of the settings here."""
    here.side.configure(change(here.side.settings(there.side)))
    there.side.configure(there.side.settings(here.side))


def without(name: str) -> Callable[[str], str]:
    return lambda settings: re.sub(rf"^{name} = .*\n", "", settings, flags=re.MULTILINE)


def test_a_healthy_tunnel_refuses_nothing(pair: tuple[Host, Host]) -> None:
    here, there = pair
    configure(here, there)
    ping(here.side.host, there.side.inner4)
    assert here.says("session established")
    for host in pair:
        assert not host.says(REFUSED)
        assert min(host.transfer()) > 0


def test_a_destination_of_nobody_is_unreachable(pair: tuple[Host, Host]) -> None:
    here, there = pair
    configure(here, there, without("AllowedIPs"))
    assert "Destination Host Unreachable" in here.speak(there.side.inner4)
    assert here.transfer() == (0, 0)


def test_so_is_a_peer_without_an_endpoint(pair: tuple[Host, Host]) -> None:
    here, there = pair
    configure(here, there, without("Endpoint"))
    assert "Destination Host Unreachable" in here.speak(there.side.inner4)
    assert here.transfer() == (0, 0)


def test_a_missing_private_key_is_told_at_debug(pair: tuple[Host, Host]) -> None:
    here, there = pair
    configure(here, there, without("PrivateKey"))
    assert "Unreachable" not in here.speak(there.side.inner4)
    eventually(lambda: here.says("no handshake: no private key is set"), "the line")
    assert here.transfer() == (0, 0)


def test_a_network_that_is_not_there_is_told_at_debug(pair: tuple[Host, Host]) -> None:
    here, there = pair
    endpoint = f"Endpoint = {there.side.host.outer4}:"
    configure(here, there, lambda settings: settings.replace(endpoint, "Endpoint = 203.0.113.9:"))
    here.speak(there.side.inner4)
    line = "handshake message not sent: [Errno 101] Network is unreachable"
    eventually(lambda: here.says(line), "the line")


def test_who_is_not_known_there_is_told_of_there(pair: tuple[Host, Host]) -> None:
    here, there = pair
    configure(here, there)
    there.side.set("peer", here.side.public_key, "remove")
    here.speak(there.side.inner4)
    eventually(lambda: there.says(f"{REFUSED}initiation from an unknown peer"), "the line")
    received, sent = here.transfer()
    assert (received, sent % 148) == (0, 0)


def test_a_wrong_public_key_is_told_of_nowhere(pair: tuple[Host, Host]) -> None:
    here, there = pair
    key, other = there.side.public_key, there.side.with_new_keys().public_key
    configure(here, there, lambda settings: settings.replace(key, other))
    here.speak(there.side.inner4)
    eventually(lambda: here.transfer()[1] >= 148, "an initiation")
    assert here.transfer()[0] == 0
    there.speak(here.side.inner4)  # its log is behind what it has heard
    eventually(lambda: there.says("sending an initiation"), "one of its own")
    assert "refused" not in there.log.read_text()


def test_preshared_keys_that_differ_are_told_of_here(pair: tuple[Host, Host]) -> None:
    here, there = pair
    configure(here, there, lambda settings: f"{settings}PresharedKey = {PSK}\n")
    here.speak(there.side.inner4)
    line = f"{REFUSED}handshake message that does not authenticate"
    eventually(lambda: here.says(line), "the line")
    assert not there.says(REFUSED)


def test_who_gets_packets_from_a_wrong_source_drops_them(pair: tuple[Host, Host]) -> None:
    here, there = pair
    configure(here, there)
    there.side.set("peer", here.side.public_key, "allowed-ips", "10.77.0.99/32")
    assert "0 received" in here.speak(there.side.inner4)
    eventually(here.side.handshake_time, "a handshake")
    eventually(lambda: there.transfer()[0] > 148, "a packet after it")
    received = there.side.host.run(
        "cat", f"/sys/class/net/{there.side.interface}/statistics/rx_packets"
    )
    assert int(received) == 0
