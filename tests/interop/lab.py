"""Two WireGuard hosts with a router between them, and a look at what passes there.

Where wgpy meets another implementation, wgpy is on the left.  Everything is run by one process:
sockets are opened, and tools started, by short-lived threads that have entered a namespace, for
under emulation a process costs a tenth of a second and a Python process several.
"""

import base64
import ctypes
import hashlib
import itertools
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from netns.lab import ENVIRONMENT, SOCKETS, Namespace, eventually, run

P = ParamSpec("P")
T = TypeVar("T")

# How much slower than usual everything is.
SLOWNESS = 10 if os.environ.get("WGPY_KERNEL_VM") == "tcg" else 1
TIMEOUT_S = 10.0 + 3 * SLOWNESS

INITIATION, RESPONSE, COOKIE_REPLY, DATA = 1, 2, 3, 4  # Datagram.kind

PORT = 51820
DEFAULT_MTU = 1420
CABLE_MTU = 1500
JUMBO_MTU = 65535

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
ETH_P_ALL = 3  # <linux/if_ether.h>
PACKET_OUTGOING = 4  # <linux/if_packet.h>
SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>
SO_TIMESTAMPNS = 35
BUFFER_LEN = 8 << 20

_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


# ---- hosts ---------------------------------------------------------------------------------------


def _enter(namespace: str) -> None:
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to {namespace}")
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Host(Namespace):
    """A namespace that is entered by threads."""

    def inside(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What it opens or starts belongs to this host."""
        with ThreadPoolExecutor(1, initializer=_enter, initargs=(self.name,)) as executor:
            return executor.submit(call, *args, **kwargs).result()

    def run(self, *command: str, stdin: str = "", check: bool = True) -> str:
        return self.inside(run, command, stdin, check=check)

    def ip(self, *commands: str) -> None:
        """Several commands for ip at the price of one; all have to succeed."""
        self.run("ip", "-batch", "-", stdin="\n".join(commands))

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        def popen() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
            )

        return self.inside(popen)

    def sysctl(self, name: str, value: int) -> None:
        path = Path("/proc/sys/net", name)
        self.inside(path.write_text, str(value))

    def udp(self, address: str, port: int = 0) -> socket.socket:
        """A bound socket with room for all that a test sends."""

        def opened() -> socket.socket:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            made = socket.socket(family, socket.SOCK_DGRAM)
            made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_LEN)
            made.settimeout(TIMEOUT_S)
            made.bind((address, port))
            return made

        return self.inside(opened)

    def set_outer(self, address: str, *, old: str) -> None:
        """Gives it another address on its cable."""
        length = 64 if ":" in address else 24
        nodad = " nodad" if ":" in address else ""
        self.ip(
            f"address add {address}/{length} dev cable{nodad}",
            f"address delete {old}/{length} dev cable",
        )


class Datagram(NamedTuple):
    """What the router saw of a UDP datagram."""

    time_ns: int  # Unix
    arrived: bool  # came over the cable that is watched, as opposed to leaving over it
    source: tuple[str, int]
    target: tuple[str, int]
    tos: int  # DSCP and ECN
    hops: int
    payload: bytes

    @property
    def kind(self) -> int:
        return int.from_bytes(self.payload[:4], "little")


class Capture:
    """Watches one of the router's cables from now on."""

    def __init__(self, router: Host, cable: str) -> None:
        def opened() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
            made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_LEN)
            made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            made.bind((cable, ETH_P_ALL))
            made.setblocking(False)
            return made

        self._socket = router.inside(opened)

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def datagrams(self) -> list[Datagram]:
        """All since the last call."""
        taken = []
        while True:
            try:
                packet, ancillary, _, address = self._socket.recvmsg(1 << 16, 64)
            except BlockingIOError:
                return taken
            seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2][:16])
            arrived = address[2] != PACKET_OUTGOING
            parsed = _parse(packet)
            if parsed is not None:
                taken.append(Datagram(seconds * 10**9 + nanoseconds, arrived, *parsed))


def _parse(
    packet: bytes,
) -> tuple[tuple[str, int], tuple[str, int], int, int, bytes] | None:
    if packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_UDP:
        length = 4 * (packet[0] & 15)
        addresses = [socket.inet_ntop(socket.AF_INET, packet[at : at + 4]) for at in (12, 16)]
        tos, hops = packet[1], packet[8]
    elif packet[0] >> 4 == 6 and packet[6] == socket.IPPROTO_UDP:
        length = 40
        addresses = [socket.inet_ntop(socket.AF_INET6, packet[at : at + 16]) for at in (8, 24)]
        tos, hops = (int.from_bytes(packet[:2], "big") >> 4) & 255, packet[7]
    else:
        return None
    ports = struct.unpack_from("!HH", packet, length)
    source, target = zip(addresses, ports, strict=True)
    return source, target, tos, hops, packet[length + 8 :]


@dataclass(frozen=True)
class Network:
    """The router's cables are called left and right, the hosts' are called cable."""

    left: Host
    router: Host
    right: Host

    @classmethod
    def named(cls, prefix: str) -> "Network":
        return cls(
            Host(f"{prefix}-left", "192.0.2.2", "2001:db8:1::2"),
            Host(f"{prefix}-router"),
            Host(f"{prefix}-right", "198.51.100.2", "2001:db8:2::2"),
        )

    def create(self) -> None:
        self.router.create()
        self.router.sysctl("ipv4/ip_forward", 1)
        self.router.sysctl("ipv6/conf/all/forwarding", 1)
        gateways = ("192.0.2.1", "2001:db8:1::1"), ("198.51.100.1", "2001:db8:2::1")
        for host, cable, (gate4, gate6) in zip(
            (self.left, self.right), ("left", "right"), gateways, strict=True
        ):
            host.create()
            host.sysctl("ipv4/conf/all/promote_secondaries", 1)  # or set_outer loses the new one
            # addrgenmode none: a link-local address would mean duplicate address detection
            self.router.ip(
                f"link add {cable} type veth peer name cable netns {host.name}",
                f"link set {cable} addrgenmode none up",
                f"address add {gate4}/24 dev {cable}",
                f"address add {gate6}/64 dev {cable} nodad",
                f"address add fe80::1/64 dev {cable} nodad",  # else it does not ask for neighbours
            )
            host.ip(
                "link set cable addrgenmode none up",
                f"address add {host.outer4}/24 dev cable",
                f"address add {host.outer6}/64 dev cable nodad",
                f"route add default via {gate4}",
                f"route add default via {gate6} dev cable",
            )

    def delete(self) -> None:
        for host in (self.left, self.right, self.router):
            host.delete()

    def set_mtu(self, mtu: int) -> None:
        for host in (self.left, self.right):
            host.ip(f"link set cable mtu {mtu}")
        self.router.ip(f"link set left mtu {mtu}", f"link set right mtu {mtu}")

    def has_netem(self) -> bool:
        """Leaves it on the router's lo, where nothing is sent."""
        self.router.run("tc", "qdisc", "replace", "dev", "lo", "root", "netem", check=False)
        return "netem" in self.router.run("tc", "qdisc", "show", "dev", "lo")

    def impair(self, how: str) -> None:
        """Has netem do so in both directions.  Segments travel alone, or a loss would be of 64."""
        for host in (self.left, self.right):
            host.ip("link set cable gso_max_segs 1")
        for cable in ("left", "right"):
            self.router.run(*f"tc qdisc add dev {cable} root netem {how}".split())

    def repair(self) -> None:
        for cable in ("left", "right"):
            self.router.run("tc", "qdisc", "delete", "dev", cable, "root")
        for host in (self.left, self.right):
            host.ip("link set cable gso_max_segs 65535")


# ---- WireGuard -----------------------------------------------------------------------------------


def new_keys() -> tuple[str, str]:
    """Private and public key, in base64."""
    private = X25519PrivateKey.generate()
    raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    pair = private.private_bytes_raw(), private.public_key().public_bytes(*raw)
    return base64.b64encode(pair[0]).decode(), base64.b64encode(pair[1]).decode()


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

    def vanish(self) -> None:
        """Ends without telling anybody; nothing happens if it is not there."""
        if self.process is None:
            self.host.run("ip", "link", "delete", self.name, check=False)
        else:
            self.process.kill()
            self.process.wait()
            self.process = None
            (SOCKETS / f"{self.name}.sock").unlink(missing_ok=True)

    def renew_keys(self) -> None:
        self.private_key, self.public_key = new_keys()

    def outer(self, family: int) -> str:
        return self.host.outer4 if family == 4 else self.host.outer6

    def inner(self, family: int) -> str:
        return self.inner4 if family == 4 else self.inner6

    def set(self, *arguments: str, stdin: str = "") -> None:
        """`wg set`; stdin is for keys, as /dev/stdin."""
        self.host.run("wg", "set", self.name, *arguments, stdin=stdin)

    def set_mtu(self, mtu: int) -> None:
        self.host.ip(f"link set {self.name} mtu {mtu}")

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


@dataclass(frozen=True)
class Tunnel:
    """wgpy and its peer."""

    network: Network
    wgpy: Interface
    peer: Interface

    @property
    def ends(self) -> tuple[Interface, Interface]:
        return self.wgpy, self.peer

    def pair(self, first: str) -> tuple[Interface, Interface]:
        """The two, with wgpy or its peer first."""
        return self.ends if first == "wgpy" else (self.peer, self.wgpy)

    def connect(self, outside: int = 4, psk: str = "") -> None:
        """New keys, no sessions, each knows the other."""
        for end in self.ends:
            end.renew_keys()
        self.wgpy.configure(Peer(self.peer, outside, psk))
        self.peer.configure(Peer(self.wgpy, outside, psk))

    def capture(self, cable: str = "left") -> Capture:
        """On the left, what wgpy sends arrives and what its peer sends leaves."""
        return Capture(self.network.router, cable)


def available_peers() -> dict[str, str]:
    """The implementations and why they cannot be met here ("": they can)."""
    go = "" if _has("wireguard-go") else "not installed: wireguard-go"
    if "WGPY_KERNEL_VM" in os.environ:
        go = "wireguard-go is met on the host, not in the virtual machine"
    unshared = ["unshare", "--net", "ip", "link", "add", "wgpy-check", "type", "wireguard"]
    found = subprocess.run(unshared, capture_output=True, check=False).returncode == 0
    kernel = "" if found else "this kernel has no WireGuard; use scripts/kernel-vm"
    return {"kernel": kernel, "wireguard-go": go}


def _has(program: str) -> bool:
    return any(os.access(Path(part, program), os.X_OK) for part in os.get_exec_path(ENVIRONMENT))


# ---- traffic -------------------------------------------------------------------------------------


class Stream:
    """Random bytes both ways over one TCP connection, until finish()."""

    CHUNK_LEN = 16384
    # Small: finish() has to wait for what is in them.
    BUFFER_LEN = 128 << 10

    def __init__(self, client: Interface, server: Interface, inside: int) -> None:
        self._ending = threading.Event()
        self._sent = [hashlib.sha256(), hashlib.sha256()]
        self._received = [hashlib.sha256(), hashlib.sha256()]
        self._counts = [0, 0]
        self._sockets = self._connect(client, server, inside)
        self._executor = ThreadPoolExecutor(4)
        self._futures = [
            self._executor.submit(work, number)
            for work in (self._send, self._receive)
            for number in (0, 1)
        ]

    def _connect(self, client: Interface, server: Interface, inside: int) -> list[socket.socket]:
        family = socket.AF_INET if inside == 4 else socket.AF_INET6

        def opened() -> socket.socket:
            made = socket.socket(family)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.BUFFER_LEN)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.BUFFER_LEN)
            made.settimeout(3 * TIMEOUT_S)
            return made

        with server.host.inside(opened) as listener:
            listener.bind((server.inner(inside), 0))
            listener.listen()
            calling = client.host.inside(opened)
            try:
                calling.connect(listener.getsockname()[:2])
                called = listener.accept()[0]
            except BaseException:
                calling.close()
                raise
        called.settimeout(3 * TIMEOUT_S)
        return [calling, called]

    def _send(self, number: int) -> None:
        while not self._ending.is_set():
            data = os.urandom(self.CHUNK_LEN)
            self._sent[number].update(data)
            self._sockets[number].sendall(data)
        self._sockets[number].shutdown(socket.SHUT_WR)

    def _receive(self, number: int) -> None:
        while data := self._sockets[number].recv(self.CHUNK_LEN):
            self._received[number].update(data)
            self._counts[number] += len(data)

    def wait_for(self, length: int) -> None:
        """Until each end has received that much more."""
        goals = [count + length for count in self._counts]

        def done() -> bool:
            failed = any(future.done() for future in self._futures)
            return failed or all(c >= g for c, g in zip(self._counts, goals, strict=True))

        eventually(done, f"{length} bytes each way", 6 * TIMEOUT_S)
        for future in self._futures:
            assert not future.done(), future.exception()

    def finish(self) -> None:
        """Each end has to have received what the other sent."""
        self._ending.set()
        try:
            for future in self._futures:
                future.result(6 * TIMEOUT_S)
        finally:
            self.close()
        first, second = (digest.digest() for digest in self._sent)
        assert [digest.digest() for digest in self._received] == [second, first]

    def close(self) -> None:
        self._ending.set()
        for end in self._sockets:
            end.close()
        self._executor.shutdown()


@contextmanager
def streaming(client: Interface, server: Interface, inside: int) -> Iterator[Stream]:
    """A stream that is compared at the end."""
    stream = Stream(client, server, inside)
    try:
        yield stream
    except BaseException:
        stream.close()
        raise
    stream.finish()


def exchange_udp(ends: Sequence[Interface], inside: int, sizes: Sequence[int]) -> None:
    """Datagrams of these sizes each way, compared; few at a time, so that none is lost."""
    first, second = (end.host.udp(end.inner(inside)) for end in ends)
    with first, second:
        for source, target in ((first, second), (second, first)):
            for window in windows(sizes):
                sent = [os.urandom(size) for size in window]
                for data in sent:
                    source.sendto(data, target.getsockname())
                assert sorted(target.recv(1 << 16) for _ in sent) == sorted(sent)
        for end in (first, second):
            end.setblocking(False)
            with pytest.raises(BlockingIOError):  # nothing came twice
                end.recv(1)


def windows(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Each fits what sockets buffer by default."""
    window: list[int] = []
    for size in sizes:
        if len(window) == 16 or sum(window) + size > 1 << 16:
            yield window
            window = []
        window.append(size)
    yield window


def ping(host: Host, address: str, size: int = 56) -> None:
    """Has to be answered, however slow the machine is.

    One packet: of several, ping waits for the last answer no longer than twice the round trip.
    """
    flags = ["-c", "1", "-W", str(int(TIMEOUT_S)), "-s", str(size)]
    answer = host.run("ping", *flags, address, check=False)
    assert "1 received" in answer, answer


def is_answered(host: Host, address: str) -> bool:
    """Tries it once."""
    return "1 received" in host.run("ping", "-c", "1", "-W", "1", address, check=False)


class Flood:
    """Initiations with a valid mac1 and nothing else right, in bursts that fill a queue."""

    BURST = 3000
    PAUSE_S = 0.4

    def __init__(self, source: Host, target: Interface) -> None:
        key = hashlib.blake2s(b"mac1----" + base64.b64decode(target.public_key)).digest()
        self._messages = [self._message(key) for _ in range(256)]
        self._address = target.host.outer4, target.port
        self._socket = source.inside(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @staticmethod
    def _message(mac1_key: bytes) -> bytes:
        start = b"\x01\0\0\0" + os.urandom(112)
        return start + hashlib.blake2s(start, key=mac1_key, digest_size=16).digest() + bytes(16)

    def __enter__(self) -> "Flood":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._socket.close()

    def is_answered(self) -> bool:
        """Whether a cookie reply has come since the last call."""
        answered = False
        while True:
            try:
                answered |= self._socket.recv(1 << 16)[:4] == b"\x03\0\0\0"
            except BlockingIOError:
                return answered

    def _run(self) -> None:
        while not self._ending.is_set():
            for number in range(self.BURST):
                try:
                    self._socket.sendto(self._messages[number % len(self._messages)], self._address)
                except BlockingIOError:
                    select.select([], [self._socket], [], 0.1)
            self._ending.wait(self.PAUSE_S)


class Ticker:
    """Sends a numbered datagram a second, and knows which arrived."""

    PERIOD_S = 1.0

    def __init__(self, source: Interface, target: Interface) -> None:
        self._in = target.host.udp(target.inner4)
        self._out = source.host.udp(source.inner4)
        self._sent = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._out.sendto(self._sent.to_bytes(4, "big"), self._in.getsockname())
            self._sent += 1
            self._ending.wait(self.PERIOD_S)

    def missing(self) -> list[int]:
        """Ends it.  The last one may still be on its way for a moment."""
        self._ending.set()
        self._thread.join()
        arrived = {int.from_bytes(self._in.recv(4), "big")}
        while self._sent - 1 not in arrived:
            arrived.add(int.from_bytes(self._in.recv(4), "big"))
        return sorted(set(range(self._sent)) - arrived)

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self._in.close()
        self._out.close()


# ---- what tests share ----------------------------------------------------------------------------


class Ageing:
    """Four sessions of one wgpy: by who began them, two that are in use and two that are not."""

    AGE_S = 185  # a little more than REJECT_AFTER_TIME

    def __init__(self, network: Network, peers: Sequence[Interface], ends: Sequence[Interface]):
        """`ends` are what wgpy's only interface is to each of the peers."""
        self._capture = Capture(network.router, "left")
        self._seen: list[Datagram] = []
        self._peers = peers
        self._ends = ends
        self._tickers: list[Ticker] = []
        self._until = 0.0

    def begin(self) -> None:
        for peer in self._peers:
            peer.renew_keys()
        private_key, public_key = new_keys()
        for end, peer in zip(self._ends, self._peers, strict=True):
            end.private_key, end.public_key = private_key, public_key
            peer.configure(Peer(end))
        self._ends[0].configure(*map(Peer, self._peers))
        for first in ("wgpy", "peer"):
            self._tickers.append(Ticker(*self.busy(first)))
            source, target = self.silent(first)
            ping(source.host, target.inner4)
        self._until = time.monotonic() + self.AGE_S

    def busy(self, first: str) -> tuple[Interface, Interface]:
        """The sender, who began, and the receiver of a datagram a second."""
        return self._pair(0, first)

    def silent(self, first: str) -> tuple[Interface, Interface]:
        return self._pair(2, first)

    def ticker(self, first: str) -> "Ticker":
        return self._tickers[0 if first == "wgpy" else 1]

    def _pair(self, offset: int, first: str) -> tuple[Interface, Interface]:
        if first == "wgpy":
            return self._ends[offset], self._peers[offset]
        return self._peers[offset + 1], self._ends[offset + 1]

    def wait(self) -> None:
        """Until all are old."""
        time.sleep(max(0.0, self._until - time.monotonic()))

    def seen(self, pair: tuple[Interface, Interface]) -> list[Datagram]:
        """What went between the two so far."""
        self._seen += self._capture.datagrams()
        (peer,) = (end for end in pair if end in self._peers)
        address = peer.outer(4), peer.port
        return [one for one in self._seen if address in (one.source, one.target)]

    def close(self) -> None:
        for ticker in self._tickers:
            ticker.close()
        self._capture.close()


class Laboratory:
    """For one implementation: a tunnel that every test configures anew, and ageing sessions."""

    def __init__(self, kind: str, stack: ExitStack) -> None:
        """The stack undoes it."""
        self._stack = stack
        near, far = self._network(), self._network()
        wgpy = self._interface("wgpy", near.left, 0, 1)
        self.tunnel = Tunnel(near, wgpy, self._interface(kind, near.right, 0, 2))
        device = self._interface("wgpy", far.left, 1, 1)
        views = [replace(device, inner4=f"10.77.{n}.1", inner6=f"fd77:{n}::1") for n in range(1, 5)]
        peers = [self._interface(kind, far.right, n, 2) for n in range(1, 5)]
        for interface in (*self.tunnel.ends, *views, *peers):
            interface.ready()
        self.ageing = Ageing(far, peers, views)
        stack.callback(self.ageing.close)
        self.ageing.begin()

    def _network(self) -> Network:
        network = Network.named(f"wgpy-i{os.getpid()}-{next(_numbers)}")
        self._stack.callback(network.delete)
        network.create()
        return network

    def _interface(self, kind: str, host: Host, net: int, number: int) -> Interface:
        inner = f"10.77.{net}.{number}", f"fd77:{net}::{number}"
        name = f"wgi{os.getpid()}-{next(_numbers)}"
        interface = Interface(kind, host, name, *inner, port=PORT + net)
        self._stack.callback(interface.vanish)
        interface.start()
        return interface
