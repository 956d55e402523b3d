# SPDX-License-Identifier: MIT
"""Two daemons that log all that they do, and tunnels between them broken in one way each.

A way to break one is a function of both hosts: here it is seen or caused, there is the other.
"""

import base64
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from netns.lab import ENVIRONMENT, Side, eventually

PSK = base64.b64encode(bytes(range(32))).decode()
NOWHERE = "203.0.113.9"  # an address to which no host has a route


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


@contextmanager
def daemon(side: Side, directory: Path, *wrapper: str) -> Iterator[Host]:
    """A daemon in the foreground; nothing is configured yet."""
    host = Host(side, directory / f"{side.interface}.log")
    with host.log.open("a") as file, ExitStack() as stack:
        command = side.host.argv("env", "LOG_LEVEL=debug", *wrapper, "wgpy", "-f", side.interface)
        process = subprocess.Popen(command, stdout=file, stderr=file, env=ENVIRONMENT)
        stack.callback(process.wait, 10)
        stack.callback(process.terminate)
        eventually(side.socket.exists, f"the socket of {side.interface}")
        yield host


def configure(here: Host, there: Host, change: Callable[[str], str] = str) -> None:
    """Both as they should be, but for what is changed of the settings here."""
    here.side.configure(change(here.side.settings(there.side)))
    there.side.configure(there.side.settings(here.side))


def without(name: str) -> Callable[[str], str]:
    return lambda settings: re.sub(rf"^{name} = .*\n", "", settings, flags=re.MULTILINE)


def by_no_allowed_ips(here: Host, there: Host) -> None:
    configure(here, there, without("AllowedIPs"))


def by_no_endpoint(here: Host, there: Host) -> None:
    configure(here, there, without("Endpoint"))


def by_no_private_key(here: Host, there: Host) -> None:
    configure(here, there, without("PrivateKey"))


def by_an_endpoint_without_a_route(here: Host, there: Host) -> None:
    endpoint = f"Endpoint = {there.side.host.outer4}:"
    configure(here, there, lambda text: text.replace(endpoint, f"Endpoint = {NOWHERE}:"))


def by_a_route_into_the_tunnel(here: Host, there: Host) -> None:
    """The way to the peer's endpoint leads to the peer, and it may be sent that."""
    outer = f"{there.side.host.outer4}/32"
    configure(here, there, lambda text: text.replace("AllowedIPs = ", f"AllowedIPs = {outer}, "))
    here.side.host.run("ip", "route", "add", outer, "dev", here.side.interface)


def by_nobody_listening_there(here: Host, there: Host) -> None:
    configure(here, there)
    there.side.host.run("ip", "link", "set", there.side.interface, "down")


def by_being_unknown_there(here: Host, there: Host) -> None:
    configure(here, there)
    there.side.set("peer", here.side.public_key, "remove")


def by_a_wrong_public_key(here: Host, there: Host) -> None:
    key, other = there.side.public_key, there.side.with_new_keys().public_key
    configure(here, there, lambda settings: settings.replace(key, other))


def by_another_preshared_key(here: Host, there: Host) -> None:
    configure(here, there, lambda settings: f"{settings}PresharedKey = {PSK}\n")


def by_a_source_that_is_not_allowed_there(here: Host, there: Host) -> None:
    configure(here, there)
    there.side.set("peer", here.side.public_key, "allowed-ips", "10.77.0.99/32")
