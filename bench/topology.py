# SPDX-License-Identifier: MIT
"""Two hosts on a cable, each a network namespace, and a tunnel between them.

Everything is a context manager that leaves nothing behind, whatever happens inside.  Daemons stay
in the foreground as our children, so that their pids are known, in a session of their own, so that
Ctrl-C ends them in order and not all at once; they die with us even if we are killed.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.lab import SOCKETS, Implementation, LabError, end, pin, random_key, run, until
from wgpy.status import DIRECTORY as STATUS_SOCKETS

NAMESPACES = Path("/run/netns")
PREFIX = "wgpy-bench"
CABLE = "cable"
PORT = 51820
MTU = 1420
TUNNEL_HEADERS = 80  # of a data message, UDP and IPv6: by so much the inner MTU is smaller
IDLE_PEERS = 999


@dataclass(frozen=True, slots=True)
class Counters:
    """Of an interface: what came in (for a tunnel: out of it, towards the host)."""

    frames: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Namespace:
    """A machine."""

    name: str

    @property
    def namespace(self) -> str:
        """Unique to this process."""
        return f"{PREFIX}-{os.getpid()}-{self.name}"

    def argv(self, *command: str) -> list[str]:
        """Tell what runs a command here, under its own pid, and not longer than we live."""
        inside = ["ip", "netns", "exec", self.namespace, *command]
        return ["setpriv", "--pdeathsig", "KILL", *inside]

    def run(self, *command: str, stdin: str = "", timeout_s: float = 30.0) -> str:
        """Run a command here; see run()."""
        return run(self.argv(*command), stdin, timeout_s)

    def ip(self, *arguments: str) -> str:
        """Run ip here."""
        return run(["ip", "-n", self.namespace, *arguments])

    @contextlib.contextmanager
    def child(
        self,
        *command: str,
        output: IO[str] | int = subprocess.PIPE,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[subprocess.Popen[str]]:
        """Run a process here that ends with the context.  Its pid is the command's."""
        process = subprocess.Popen(
            self.argv(*command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(os.environ) | dict(environment or {}),
            start_new_session=True,
        )
        try:
            yield process
        finally:
            end(process)
            if process.stdout is not None:
                process.stdout.close()

    @contextlib.contextmanager
    def with_chain(self, chain: str) -> Iterator[None]:
        """Have a chain of nftables, in a table of its own, while the context lasts."""
        table = f"table inet bench {{ chain bench {{ {chain}\n}}\n}}\n"
        self.run("nft", "-f", "-", stdin=table)
        try:
            yield
        finally:
            self.run("nft", "delete table inet bench")

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Make it, with a loopback, for as long as the context lasts."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._delete)
            run(["ip", "netns", "add", self.namespace])
            self.ip("link", "set", "lo", "up")
            yield

    def _delete(self) -> None:
        if Path(NAMESPACES, self.namespace).exists():
            run(["ip", "netns", "delete", self.namespace])

    @contextlib.contextmanager
    def joined(self, other: "Namespace", link: str) -> Iterator[None]:
        """Give both an end of a cable, down and of this name, while the context lasts."""
        veth = ["type", "veth", "peer", "name", link, "netns", other.namespace]
        self.ip("link", "add", "name", link, *veth)
        try:
            yield
        finally:
            self.ip("link", "delete", link)  # at once, but with a namespace some time later


@dataclass(frozen=True, slots=True)
class Host(Namespace):
    """One end of a tunnel: a machine, its addresses outside and inside."""

    name: str  # "a" or "b"
    number: int  # 1 or 2: the last part of its addresses
    depth: int = 0  # of the tunnel: how many others it goes through

    @property
    def interface(self) -> str:
        """The tunnel; unique because all namespaces share one directory of UAPI sockets."""
        return f"wgb{os.getpid()}{self.name}{self.depth or ''}"

    @property
    def outer(self) -> str:
        """On the cable, or in the tunnel around this one."""
        return f"10.9.{self.depth - 1}.{self.number}" if self.depth else f"192.0.2.{self.number}"

    @property
    def port(self) -> int:
        """Where the tunnel's messages go to."""
        return PORT + self.depth

    @property
    def mtu(self) -> int:
        """The tunnel's."""
        return MTU - TUNNEL_HEADERS * self.depth

    @property
    def inner4(self) -> str:
        """In the tunnel."""
        return f"10.9.{self.depth}.{self.number}"

    @property
    def inner6(self) -> str:
        """In the tunnel."""
        return f"fd77:{self.depth}::{self.number}" if self.depth else f"fd77::{self.number}"

    @property
    def socket(self) -> Path:
        """Where the daemon listens for wg."""
        return SOCKETS / f"{self.interface}.sock"

    def counters(self) -> Counters:
        """Read the tunnel's."""
        link = json.loads(self.ip("-j", "-s", "link", "show", "dev", self.interface))[0]
        received = link["stats64"]["rx"]
        return Counters(received["packets"], received["bytes"])


HOSTS = Host("a", 1), Host("b", 2)
NESTED = Host("a", 1, depth=1), Host("b", 2, depth=1)  # a tunnel through the tunnel of HOSTS


def remove_stale() -> None:
    """Remove what killed runs left: namespaces and sockets named after a pid that is no more."""
    files = *SOCKETS.glob("wgb*.sock"), *STATUS_SOCKETS.glob("wgb*.status")
    for path in (*NAMESPACES.glob(f"{PREFIX}-*"), *files):
        name = rf"{PREFIX}-(\d+)-[a-z-]+|wgb(\d+)[ab]\d?\.(?:sock|status)"
        match = re.fullmatch(name, path.name)
        if match is None or Path("/proc", match[1] or match[2]).exists():
            continue
        if path.parent == NAMESPACES:
            run(["ip", "netns", "delete", path.name])
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def cable() -> Iterator[tuple[Host, Host]]:
    """Make the two hosts and join them."""
    remove_stale()
    a, b = HOSTS
    with contextlib.ExitStack() as stack:
        for host in HOSTS:
            stack.enter_context(host.made())
        stack.enter_context(a.joined(b, CABLE))
        for host in HOSTS:
            host.ip("address", "add", f"{host.outer}/24", "dev", CABLE)
            host.ip("link", "set", CABLE, "up")
        yield a, b


@dataclass(slots=True)
class Tunnel:
    """An implementation at both ends, configured and up; pids by the host's name, none: kernel."""

    implementation: Implementation
    a: Host
    b: Host
    pids: dict[str, int]
    settings: dict[str, str]
    has_pins: bool  # each daemon on a core of its own

    @property
    def hosts(self) -> tuple[Host, Host]:
        """Both ends."""
        return self.a, self.b

    def check(self) -> None:
        """Ping.  LabError: a packet doesn't come through."""
        self.a.run("ping", "-n", "-q", "-c", "3", "-i", "0.2", "-w", "10", self.b.inner4)

    @contextlib.contextmanager
    def idle_peers(self, count: int = IDLE_PEERS) -> Iterator[None]:
        """Let both ends know so many peers more, without endpoints, while the context lasts."""
        with self.with_more({host.name: idle_peers(count) for host in self.hosts}):
            yield

    @contextlib.contextmanager
    def with_more(self, settings: Mapping[str, str]) -> Iterator[None]:
        """Give each host, by its name, these besides its own, while the context lasts.

        They may begin with more lines about the peer.
        """
        try:
            for host in self.hosts:
                self._sync(host, self.settings[host.name] + settings[host.name])
            yield
        finally:
            for host in self.hosts:
                self._sync(host, self.settings[host.name])

    @staticmethod
    def _sync(host: Host, settings: str) -> None:
        host.run("wg", "syncconf", host.interface, "/dev/stdin", stdin=settings)

    def sent_bytes(self) -> int:
        """Count the UDP payload of all WireGuard messages that a sent to b."""
        return int(self.a.run("wg", "show", self.a.interface, "transfer").split()[2])

    @contextlib.contextmanager
    def one_way(self) -> Iterator[None]:
        """Lose whatever a sends, before it reaches the daemon of b."""
        chain = f"type filter hook prerouting priority raw; udp dport {self.b.port} drop;"
        with self.b.with_chain(chain):
            yield


def idle_peers(count: int) -> str:
    """Write settings of so many peers with random keys and an address each."""
    sections = []
    for i in range(count):
        key = random_key()
        sections.append(f"[Peer]\nPublicKey = {key}\nAllowedIPs = 10.200.{i >> 8}.{i & 255}/32\n")
    return "".join(sections)


def settings_of(private_key: str, peer: Host, peer_public_key: str) -> str:
    """Write them for `wg setconf`."""
    return (
        f"[Interface]\nPrivateKey = {private_key}\nListenPort = {peer.port}\n"
        f"[Peer]\nPublicKey = {peer_public_key}\nEndpoint = {peer.outer}:{peer.port}\n"
        f"AllowedIPs = {peer.inner4}/32, {peer.inner6}/128\n"
    )


@contextlib.contextmanager
def tunnel(
    implementation: Implementation, pin_daemons: bool = False, hosts: tuple[Host, Host] = HOSTS
) -> Iterator[Tunnel]:
    """Start both ends, and end them.  pin_daemons: that of a on core 0, that of b on core 1."""
    a, b = hosts
    private = {host.name: run(["wg", "genkey"]).strip() for host in hosts}
    public = {name: run(["wg", "pubkey"], key).strip() for name, key in private.items()}
    with contextlib.ExitStack() as stack:
        made = Tunnel(implementation, a, b, {}, {}, pin_daemons)
        for host, peer in ((a, b), (b, a)):
            if implementation.is_kernel:
                stack.callback(_delete_interface, host)
                host.ip("link", "add", host.interface, "type", "wireguard")
            else:
                made.pids[host.name] = stack.enter_context(_daemon(host, implementation))
            made.settings[host.name] = settings_of(private[host.name], peer, public[peer.name])
            _configure(host, made.settings[host.name])
            if pin_daemons and host.name in made.pids:
                pin(made.pids[host.name], {host.number - 1})
        made.check()
        yield made


def _listens(path: Path) -> bool:
    """Tell whether wg can talk to it; the file is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(os.fspath(path)) == 0


@contextlib.contextmanager
def _daemon(host: Host, implementation: Implementation) -> Iterator[int]:
    """Run it; gives its pid as soon as wg can talk to it."""
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        stack.callback(host.socket.unlink, missing_ok=True)
        stack.callback(_delete_interface, host)
        command = [*implementation.command, host.interface]
        environment = implementation.environment
        process = stack.enter_context(host.child(*command, output=log, environment=environment))

        def is_ready() -> bool:
            if process.poll() is not None:
                log.seek(0)
                tail = " ".join("".join(log.readlines()[-5:]).split())
                raise LabError(f"{implementation.name} ended by itself: {tail}")
            return _listens(host.socket)

        until(is_ready, f"the socket of {implementation.name}")
        yield process.pid


def _configure(host: Host, settings: str) -> None:
    """Do what wg-quick does."""
    interface = host.interface
    host.run("wg", "setconf", interface, "/dev/stdin", stdin=settings)
    host.ip("address", "add", f"{host.inner4}/24", "dev", interface)
    host.ip("address", "add", f"{host.inner6}/64", "dev", interface, "nodad")
    host.ip("link", "set", interface, "mtu", str(host.mtu), "up")


def _delete_interface(host: Host) -> None:
    """Delete it if it is there: a daemon's goes away with the daemon."""
    with contextlib.suppress(LabError):
        host.ip("link", "delete", host.interface)
