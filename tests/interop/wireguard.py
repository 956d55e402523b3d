# SPDX-License-Identifier: MIT
"""WireGuard interfaces by any implementation, and which implementations there are."""

import base64
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from interop.network import TIMEOUT_S, Host
from netns.lab import ENVIRONMENT, SOCKETS, eventually, key_pair

from wgpy.status import DIRECTORY as STATUS_SOCKETS
from wgpy.status import SUFFIX

PORT = 51820
DEFAULT_MTU = 1420
MAX_SEGMENTS = 65535  # of what TCP hands to an interface at once; Linux begins with it


def new_psk() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@dataclass
class Interface:
    """A WireGuard interface on a host, by whatever implementation."""

    kind: str  # "kernel" or the name of a program
    host: Host
    name: str
    inner4: str
    inner6: str
    port: int = PORT
    private_key: str = ""
    public_key: str = ""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    family: int | None = None  # outside, of the latest speak_over()

    def start(self) -> None:
        """Begins to make it; ready() waits for the end of that."""
        if self.kind == "kernel":
            self.host.ip(f"link add {self.name} type wireguard")
        else:
            self.process = self.host.start(self.kind, "-f", self.name)

    def ready(self) -> None:
        socket_file = SOCKETS / f"{self.name}.sock"
        if self.process is not None:
            eventually(socket_file.exists, f"a start of {self.kind}", 3 * TIMEOUT_S)
        self.host.ip(
            f"address add {self.inner4}/24 dev {self.name}",
            f"address replace {self.inner6}/64 dev {self.name} nodad",
            f"link set {self.name} mtu {DEFAULT_MTU} up",
        )
        self.host.wait_for_address(self.inner6)

    def vanish(self) -> None:
        """Ends without telling anybody; nothing happens if it is not there."""
        if self.process is None:
            self.host.run("ip", "link", "delete", self.name, check=False)
        else:
            self.process.kill()
            self.process.wait()
            self.process = None
            (SOCKETS / f"{self.name}.sock").unlink(missing_ok=True)
            (STATUS_SOCKETS / f"{self.name}{SUFFIX}").unlink(missing_ok=True)

    def speak_over(self, family: int) -> None:
        """Says which family is used outside from now on.

        A wireguard-go that spoke over the other begins anew, because of the first IPv6 datagrams
        after IPv4 ones the newest sends some to wrong addresses (docs/differences.md).
        """
        if self.kind == "wireguard-go" and self.family not in (None, family):
            self.vanish()
            self.start()
            self.ready()
        self.family = family

    def renew_keys(self) -> None:
        self.private_key, self.public_key = key_pair()

    def outer(self, family: int) -> str:
        return self.host.outer4 if family == 4 else self.host.outer6

    def inner(self, family: int) -> str:
        return self.inner4 if family == 4 else self.inner6

    def set(self, *arguments: str, stdin: str = "") -> None:
        """`wg set`; stdin is for keys, as /dev/stdin."""
        self.host.run("wg", "set", self.name, *arguments, stdin=stdin)

    def set_mtu(self, mtu: int, segments: int = MAX_SEGMENTS) -> None:
        """And how many segments TCP may hand to it at once."""
        self.host.ip(f"link set {self.name} mtu {mtu} gso_max_segs {segments}")

    def configure(self, *peers: "Peer") -> None:
        """Forgets all other peers."""
        head = f"[Interface]\nPrivateKey = {self.private_key}\nListenPort = {self.port}\n"
        settings = head + "".join(peer.section() for peer in peers)
        self.host.run("wg", "setconf", self.name, "/dev/stdin", stdin=settings)

    def shown(self, what: str, of: "Interface") -> str:
        """One of the fields of `wg show`."""
        for line in self.host.run("wg", "show", self.name, what).splitlines():
            key, _, value = line.partition("\t")
            if key == of.public_key:
                return value
        raise AssertionError(f"no peer {of.public_key} here")

    def has_handshake(self, of: "Interface") -> bool:
        return self.shown("latest-handshakes", of) != "0"

    def bounce(self) -> None:
        """Down and up: every session is forgotten."""
        self.host.ip(
            f"link set {self.name} down",
            f"link set {self.name} up",
            f"address replace {self.inner6}/64 dev {self.name} nodad",  # down took it away
        )


@dataclass(frozen=True)
class Peer:
    """Somebody as another's peer."""

    interface: Interface
    outside: int | None = 4  # the family of the endpoint; None: the endpoint is not known
    psk: str = ""

    def section(self) -> str:
        interface = self.interface
        text = f"[Peer]\nPublicKey = {interface.public_key}\n"
        text += f"AllowedIPs = {interface.inner4}/32, {interface.inner6}/128\n"
        if self.outside is not None:
            text += f"Endpoint = {endpoint(interface, self.outside)}\n"
        if self.psk:
            text += f"PresharedKey = {self.psk}\n"
        return text


def endpoint(interface: Interface, family: int) -> str:
    return written((interface.outer(family), interface.port))


def written(address: tuple[str, int]) -> str:
    """Address and port as wg writes them."""
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def available_peers() -> dict[str, str]:
    """The implementations and why they cannot be met here ("": they can)."""
    go = "" if _has("wireguard-go") else "not installed: wireguard-go"
    unshared = ["unshare", "--net", "ip", "link", "add", "wgpy-check", "type", "wireguard"]
    found = subprocess.run(unshared, capture_output=True, check=False).returncode == 0
    kernel = "" if found else "this kernel has no WireGuard; use scripts/kernel-vm"
    return {"kernel": kernel, "wireguard-go": go}


def _has(program: str) -> bool:
    return any(os.access(Path(part, program), os.X_OK) for part in os.get_exec_path(ENVIRONMENT))
