# SPDX-License-Identifier: MIT
"""Two hosts on a cable, each a network namespace, and the real tools in them."""

import base64
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

T = TypeVar("T")

BIN = Path(sys.executable).parent
SOCKETS = Path("/var/run/wireguard")
ENVIRONMENT = os.environ | {
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "WG_QUICK_USERSPACE_IMPLEMENTATION": "wgpy",
}

# Both print the SHA-256 of what went over a TCP connection; argv: address, port, bytes to send or
# for the receive buffer (0: as the kernel likes).
SEND = """
import hashlib, os, socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as s:
    data = os.urandom(int(sys.argv[3]))
    s.sendall(data)
print(hashlib.sha256(data).hexdigest())
"""
RECEIVE = """
import hashlib, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.create_server((sys.argv[1], int(sys.argv[2])), family=family) as server:
    if int(sys.argv[3]):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, int(sys.argv[3]))
    print("listening", flush=True)
    server.settimeout(20)
    digest = hashlib.sha256()
    with server.accept()[0] as s:
        s.settimeout(20)
        while data := s.recv(1 << 16):
            digest.update(data)
print(digest.hexdigest())
"""

# argv: flags of TUNSETIFF, interface, command; runs wgpy so with a TUN queue and a listening
# socket open already.
HAND_OVER = """
import fcntl, os, socket, struct, sys
flags, name, *command = sys.argv[1:]
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", name.encode(), int(flags, 0)))
os.makedirs("/var/run/wireguard", exist_ok=True)
uapi = socket.socket(socket.AF_UNIX)
uapi.bind(f"/var/run/wireguard/{name}.sock")
uapi.listen()
for fd in (tun, uapi.fileno()):
    os.set_inheritable(fd, True)
os.environ |= {"WG_TUN_FD": str(tun), "WG_UAPI_FD": str(uapi.fileno())}
os.execvp(command[0], [*command, name])
"""

numbers = itertools.count()  # so that no two names in a process are one


def eventually(condition: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
    """Waits until the condition is truthy and returns its value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
    return value


def run(argv: Sequence[str], stdin: str = "", timeout_s: float = 30.0, check: bool = True) -> str:
    """What the command prints; it has to succeed, unless check is off."""
    done = subprocess.run(
        argv,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=ENVIRONMENT,
        check=False,
    )
    assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def key_pair() -> tuple[str, str]:
    """A new private key and its public key, as wg writes them."""
    private = X25519PrivateKey.generate()
    pair = private.private_bytes_raw(), private.public_key().public_bytes_raw()
    return base64.b64encode(pair[0]).decode(), base64.b64encode(pair[1]).decode()


@dataclass(frozen=True)
class Namespace:
    """A host: the name of its namespace, and its addresses on the cable."""

    name: str
    outer4: str = ""
    outer6: str = ""

    def argv(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str, stdin: str = "", check: bool = True) -> str:
        return run(self.argv(*command), stdin, check=check)

    def attempt(
        self, *command: str, stdin: str = "", environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command that may fail; environment: what it has besides ours."""
        return subprocess.run(
            self.argv(*command),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=20,
            env=ENVIRONMENT | dict(environment or {}),
            check=False,
        )

    def refusal(self, *command: str, stdin: str = "") -> str:
        """What a command says as it fails."""
        done = self.attempt(*command, stdin=stdin)
        assert done.returncode != 0
        return done.stderr

    def popen(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(*command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )

    def pids(self) -> list[int]:
        return [int(pid) for pid in run(["ip", "netns", "pids", self.name]).split()]

    def has_interface(self, name: str) -> bool:
        return name in self.run("ip", "-o", "link", "show")

    def create(self) -> None:
        run(["ip", "netns", "add", self.name])
        self.run("ip", "link", "set", "lo", "up")

    def delete(self) -> None:
        """Ends what still runs inside, and removes the namespace if it is there."""
        if not Path("/run/netns", self.name).exists():
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.pids():
                with suppress(ProcessLookupError):  # it ended meanwhile
                    os.kill(pid, number)
            try:
                eventually(lambda: not self.pids(), "the end of all processes", 3)
                break
            except AssertionError:
                continue
        run(["ip", "netns", "delete", self.name])


@dataclass(frozen=True)
class Side:
    """A host with its WireGuard interface to be."""

    host: Namespace
    interface: str
    private_key: str
    public_key: str
    inner4: str
    inner6: str
    directory: Path
    port: int = 51820

    def with_new_keys(self) -> "Side":
        private_key, public_key = key_pair()
        return replace(self, private_key=private_key, public_key=public_key)

    @property
    def socket(self) -> Path:
        return SOCKETS / f"{self.interface}.sock"

    @property
    def config(self) -> Path:
        return self.directory / f"{self.interface}.conf"

    def settings(self, peer: "Side", *, outside: int = 4, psk: str = "", allowed: str = "") -> str:
        """For `wg setconf`: the peer is reached over IPv4 or IPv6."""
        address = peer.host.outer4 if outside == 4 else f"[{peer.host.outer6}]"
        return (
            f"[Interface]\nPrivateKey = {self.private_key}\nListenPort = {self.port}\n"
            f"[Peer]\nPublicKey = {peer.public_key}\nEndpoint = {address}:{peer.port}\n"
            f"AllowedIPs = {allowed or f'{peer.inner4}/32, {peer.inner6}/128'}\n"
            + (f"PresharedKey = {psk}\n" if psk else "")
        )

    def write_config(self, peer: "Side", *, outside: int = 4, allowed: str = "") -> None:
        """For wg-quick."""
        settings = self.settings(peer, outside=outside, allowed=allowed)
        addresses = f"[Interface]\nAddress = {self.inner4}/32, {self.inner6}/128\n"
        self.config.write_text(settings.replace("[Interface]\n", addresses))
        self.config.chmod(0o600)

    def quick(self, action: str) -> None:
        self.host.run("wg-quick", action, str(self.config))

    def setconf(self, settings: str, inside: Namespace | None = None) -> None:
        (inside or self.host).run("wg", "setconf", self.interface, "/dev/stdin", stdin=settings)

    def configure(self, settings: str, inside: Namespace | None = None) -> None:
        """What wg-quick does, by hand, with the interface in whatever namespace."""
        host = inside or self.host
        self.host.run("wg", "setconf", self.interface, "/dev/stdin", stdin=settings)
        host.run("ip", "address", "add", f"{self.inner4}/24", "dev", self.interface)
        host.run("ip", "address", "add", f"{self.inner6}/64", "dev", self.interface, "nodad")
        host.run("ip", "link", "set", self.interface, "up")
        port = f":{self.port} "
        eventually(lambda: port in self.host.run("ss", "-uln"), "an open UDP port")

    def show(self, *field: str) -> str:
        """What `wg show` tells of all, or of one field."""
        return self.host.run("wg", "show", self.interface, *field).removesuffix("\n")

    def set(self, *arguments: str, stdin: str = "") -> None:
        self.host.run("wg", "set", self.interface, *arguments, stdin=stdin)

    def handshake_time(self) -> int:
        """Unix time of the last handshake with the only peer, 0 for never."""
        return int(self.show("latest-handshakes").split()[1])


@contextmanager
def namespaces() -> Iterator[Callable[..., Namespace]]:
    """Makes namespaces; all are gone at the end, with what runs in them."""
    with ExitStack() as stack:

        def make(outer4: str = "", outer6: str = "") -> Namespace:
            made = Namespace(f"wgpy-{os.getpid()}-{next(numbers)}", outer4, outer6)
            stack.callback(made.delete)
            made.create()
            return made

        yield make


def join_two(make: Callable[..., Namespace]) -> tuple[Namespace, Namespace]:
    """Two hosts joined by a cable."""
    pair = make("192.0.2.1", "2001:db8::1"), make("192.0.2.2", "2001:db8::2")
    left, right = pair
    veth = ["type", "veth", "peer", "name", "cable", "netns", right.name]
    left.run("ip", "link", "add", "cable", *veth)
    for host in pair:
        host.run("ip", "address", "add", f"{host.outer4}/24", "dev", "cable")
        host.run("ip", "address", "add", f"{host.outer6}/64", "dev", "cable", "nodad")
        host.run("ip", "link", "set", "cable", "addrgenmode", "none", "up")  # no DAD later on
    return pair


def plan_side(host: Namespace, number: int, directory: Path) -> Side:
    """An interface that is yet to be made."""
    interface = f"wg{os.getpid()}-{next(numbers)}"
    inner = f"10.77.0.{number}", f"fd77::{number}"
    return Side(host, interface, *key_pair(), *inner, directory)


def plan_sides(hosts: tuple[Namespace, Namespace], directory: Path) -> tuple[Side, Side]:
    """Two interfaces that are yet to be made."""
    return plan_side(hosts[0], 1, directory), plan_side(hosts[1], 2, directory)


def connect(side: Side) -> socket.socket:
    """To the daemon."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(os.fspath(side.socket))
    return client


def read_reply(client: socket.socket) -> str:
    reply = bytearray()
    while not reply.endswith(b"\n\n"):
        piece = client.recv(1 << 16)
        assert piece, f"the connection ended after {bytes(reply[-80:])!r}"
        reply += piece
    return reply.decode()


@contextmanager
def taken(host: Namespace, port: int) -> Iterator[None]:
    """Somebody else has the UDP port."""
    bind = f"import socket; s = socket.socket(type=2); s.bind(('', {port})); print(); input()"
    holder = subprocess.Popen(
        host.argv(sys.executable, "-uc", bind),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        yield
    finally:
        holder.communicate("\n", timeout=30)


@contextmanager
def chain(host: Namespace, rules: str, *, family: str = "ip", table: str = "lab") -> Iterator[None]:
    """The host has this chain in a table of its own: type, hook and rules."""
    ruleset = f"table {family} {table} {{ chain lab {{ {rules}\n}}\n}}\n"
    host.run("nft", "-f", "-", stdin=ruleset)
    try:
        yield
    finally:
        host.run("nft", f"delete table {family} {table}")


def ask(side: Side, request: str) -> str:
    """The whole answer to one request of the configuration protocol."""
    with connect(side) as client:
        client.sendall(request.encode())
        return read_reply(client)


def ping(host: Namespace, address: str, size: int = 56, count: int = 3) -> None:
    """So many have to be answered.

    With -w ping waits for the last answer too, and sends more meanwhile; else it does so for only
    two round trips.
    """
    flags = ["-c", str(count), "-i", "0.05", "-w", "5", "-s", str(size)]
    answers = host.run("ping", *flags, address)
    (received,) = re.findall(r"(\d+) received", answers)
    assert int(received) >= count, answers


def statistic(host: Namespace, name: str) -> int:
    """A counter of the host's network stack, by nstat's name for it."""
    (value,) = re.findall(rf"^{name}\s+(\d+)", host.run("nstat", "-asz", name), re.MULTILINE)
    return int(value)


def transfer(
    source: Namespace,
    target: Namespace,
    address: str,
    size: int,
    *,
    listen: str = "",
    window: int = 0,
) -> None:
    """Sends random bytes to an address over TCP, and compares what came out at the target.

    listen: the target's own address, where it is another.  window: bytes that are on the way at
    most.
    """
    port = "5201"
    receiver = target.popen(sys.executable, "-c", RECEIVE, listen or address, port, str(window))
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "listening\n", receiver.communicate(timeout=30)
    sent = source.run(sys.executable, "-c", SEND, address, port, str(size))
    received, errors = receiver.communicate(timeout=30)
    assert received == sent, errors
