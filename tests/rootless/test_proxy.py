# SPDX-License-Identifier: MIT
"""`wgpyctl proxy` of somebody without privileges, used by curl and by hand."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rootless.lab import as_nobody, eventually, inhabitants, network_of, running, scenario

from wgpy.testing import LEFT

WGPYCTL = str(Path(sys.executable).parent / "wgpyctl")
V4, V6 = LEFT  # of the peer
PATIENCE_S = 30.0
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of the tunnel."""

    conf: str  # of a proxy that runs alone with it
    other_conf: str  # of one that runs beside that
    users: str
    process: "subprocess.Popen[str]"

    def visit(self, port: int, *, is_udp: bool = False) -> str:
        """What it gets back for "hello" from the proxy's end of the tunnel."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"port": port, "is_udp": is_udp}) + "\n")
        self.process.stdin.flush()
        return str(json.loads(self.process.stdout.readline()))


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    command = as_nobody(*scenario("serve", file="proxy_scenarios.py"))
    with running(command) as (process, said):
        home, other, users = (
            f"{said['directory']}/{name}" for name in ("home.conf", "other.conf", "users")
        )
        yield Peer(home, other, users, process)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that runs; its ports are in the order of its options."""

    process: "subprocess.Popen[str]"
    ports: list[int]


@contextlib.contextmanager
def proxy(*arguments: str, end: int = signal.SIGTERM, says: str = "") -> Iterator[Proxy]:
    process = subprocess.Popen(
        as_nobody(WGPYCTL, "proxy", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "LOG_LEVEL"},
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("listening: "), process.communicate(timeout=PATIENCE_S)
        places = line.removeprefix("listening: ").split(", ")
        ports = [re.match(r"\S+ \S+:(\d+)", place) for place in places]
        yield Proxy(process, [int(found[1]) for found in ports if found])
        process.send_signal(end)
        rest, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, rest, says in errors) == (0, "", True)
        assert says or not errors, errors
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the proxy of most tests listens."""

    socks: int
    http: int
    web: int  # a forward to the web server
    echo: int  # of datagrams
    named_echo: int  # the same by a name


@pytest.fixture(scope="module")
def ports(peer: Peer) -> Iterator[Ports]:
    forwards = [f"0={V4}:80", f"0={V4}:7/udp", "0=db.internal:7/udp"]
    options = [word for forward in forwards for word in ("-L", forward)]
    pytest.importorskip("h11", reason="not installed: h11")
    with proxy(peer.other_conf, "--socks5", "0", "--http", "0", *options) as at:
        yield Ports(*at.ports)


def curl(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["curl", "-sS", "--max-time", "30", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )


def dial(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port), timeout=PATIENCE_S)


def exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, f"it ended after {len(data)} of {count} bytes"
        data += piece
    return bytes(data)


def ask(sock: socket.socket, command: int, address: bytes) -> tuple[int, tuple[str, int]]:
    """The reply to a request of SOCKS5 without a password, and the address in it."""
    sock.sendall(b"\x05\x01\x00")
    assert exactly(sock, 2) == b"\x05\x00"
    sock.sendall(bytes((5, command, 0)) + address)
    version, reply, _, kind = exactly(sock, 4)
    assert version == 5
    host = exactly(sock, 4 if kind == 1 else 16)
    (port,) = struct.unpack("!H", exactly(sock, 2))
    return reply, (socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, host), port)


def v4(host: str, port: int) -> bytes:
    return b"\x01" + socket.inet_aton(host) + struct.pack("!H", port)


def v6(host: str, port: int) -> bytes:
    return b"\x04" + socket.inet_pton(socket.AF_INET6, host) + struct.pack("!H", port)


def name(host: str, port: int) -> bytes:
    return bytes((3, len(host))) + host.encode() + struct.pack("!H", port)


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="not installed: curl")


@needs_curl
def test_curl_gets_in_by_each_way_and_names_are_looked_up_inside(ports: Ports) -> None:
    for how in (
        ("--socks5-hostname", f"127.0.0.1:{ports.socks}", "http://db.internal/"),
        ("--socks5", f"127.0.0.1:{ports.socks}", f"http://{V4}/"),
        ("--socks5", f"127.0.0.1:{ports.socks}", f"http://[{V6}]/"),
        ("--proxytunnel", "--proxy", f"http://127.0.0.1:{ports.http}", "http://db.internal/"),
        ("--proxytunnel", "--proxy", f"http://127.0.0.1:{ports.http}", f"http://[{V6}]/"),
        (f"http://127.0.0.1:{ports.web}/",),
    ):
        done = curl(*how)
        assert (done.returncode, done.stdout, done.stderr) == (0, "hello", ""), how


@needs_curl
def test_who_has_no_password_does_not_get_in(peer: Peer) -> None:
    pytest.importorskip("h11")
    with proxy(peer.conf, "--socks5", "0", "--http", "0", "--auth", peer.users) as at:
        socks, http = (f"127.0.0.1:{port}" for port in at.ports)
        for user, status in (
            ("alice:correct horse:battery", 0),
            ("alice:correct horse", 1),
            (None, 1),
        ):
            who = () if user is None else ("--proxy-user", user)
            for way in (
                ("--socks5-hostname", socks),
                ("--proxytunnel", "--proxy", f"http://{http}"),
            ):
                done = curl(*way, *who, f"http://{V4}/")
                assert bool(done.returncode) == bool(status), (way, user, done)


def test_megabytes_pass_both_ways_and_an_end_passes_alone(ports: Ports) -> None:
    data = os.urandom(3 * MIB)
    with dial(ports.socks) as sock:
        assert ask(sock, 1, v4(V4, 7))[0] == 0
        sender = threading.Thread(target=send_and_end, args=(sock, data))
        sender.start()
        assert exactly(sock, len(data)) == data
        assert sock.recv(1) == b""
        sender.join()


def send_and_end(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def test_what_comes_with_the_request_is_not_lost(ports: Ports) -> None:
    with dial(ports.socks) as sock:
        sock.sendall(b"\x05\x01\x00\x05\x01\x00" + v4(V4, 7) + b"early")
        assert exactly(sock, 2 + 10 + 5)[-5:] == b"early"
    with dial(ports.http) as sock:
        sock.sendall(f"CONNECT {V4}:7 HTTP/1.1\r\nHost: x\r\n\r\nearly".encode())
        assert exactly(sock, 24) == b"HTTP/1.1 200 OK\r\n\r\nearly"


def test_what_cannot_be_reached_is_told_by_its_code(ports: Ports) -> None:
    for address, expected in (
        (v4(V4, 81), 5),
        (v6(V6, 81), 5),
        (v4("192.0.2.99", 7), 4),
        (v4("198.51.100.1", 7), 4),  # the default route leads to no peer
        (name("no-such.internal", 7), 4),
        (name("bad..name", 7), 4),
        (b"\x02abcdef", 8),
    ):
        with dial(ports.socks) as sock:
            sock.sendall(b"\x05\x01\x00\x05\x01\x00" + address)
            assert exactly(sock, 4)[3] == expected, address
            assert sock.recv(100)[-1:] in (b"\0", b"")
    with dial(ports.socks) as sock:
        assert ask(sock, 2, v4(V4, 7))[0] == 7  # BIND
    for target, status in ((f"{V4}:81", b"502"), ("x", b"400"), ("no-such.internal:7", b"502")):
        with dial(ports.http) as sock:
            sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert exactly(sock, 12)[9:] == status, target


def test_there_are_as_many_connections_as_may_be(peer: Peer) -> None:
    with proxy(peer.conf, "-L", f"0={V4}:7", "--max-connections", "40") as at:
        port = at.ports[0]
        with contextlib.ExitStack() as stack:
            every = [stack.enter_context(dial(port)) for _ in range(40)]
            for number, sock in enumerate(every):
                sock.sendall(struct.pack("=I", number))
            for number, sock in enumerate(every):
                assert struct.unpack("=I", exactly(sock, 4)) == (number,)
            with dial(port) as sock, contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        eventually(lambda: is_served(port), "room for another")


def is_served(port: int) -> bool:
    with dial(port) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(b"x")
        return sock.recv(1) == b"x"
    return False


# ---- datagrams ----


@contextlib.contextmanager
def association(port: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The connection, and a socket that is connected to where datagrams go."""
    with dial(port) as control:
        reply, place = ask(control, 3, v4("0.0.0.0", 0))
        assert reply == 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(PATIENCE_S)
            udp.connect(place)
            yield control, udp


def test_a_thousand_datagrams_of_an_association_come_back(ports: Ports) -> None:
    """One after the other: a tunnel on a busy machine may drop of what comes in bursts."""
    with association(ports.socks) as (_, udp):
        for number in range(1000):
            address = v6(V6, 7) if number % 2 else v4(V4, 7)
            datagram = b"\0\0\0" + address + struct.pack("=I", number) + bytes(500)
            udp.send(datagram)
            assert udp.recv(2048) == datagram


def test_datagrams_go_to_names_and_what_is_malformed_goes_nowhere(ports: Ports) -> None:
    with association(ports.socks) as (_, udp):
        for hostile in (
            b"",
            b"\0\0",
            b"\0\0\0\x01",
            b"\0\0\0\x04abc",
            b"\0\0\0\x03\xff",
            b"\0\0\x01" + v4(V4, 7) + b"fragment",
            b"\0\0\0\x07" + bytes(40),
            b"\0\0\0" + name("no-such.internal", 7) + b"lost",
        ):
            udp.send(hostile)
        for payload in (b"first", b"second"):
            udp.send(b"\0\0\0" + name("db.internal", 7) + payload)
            assert udp.recv(100) == b"\0\0\0" + v4(V4, 7) + payload


def test_an_association_is_its_clients_own_and_ends_with_its_connection(ports: Ports) -> None:
    with association(ports.socks) as (control, udp):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.2", 0))
            stranger.sendto(b"\0\0\0" + v4(V4, 7) + b"stranger", udp.getpeername())
            udp.send(b"\0\0\0" + v4(V4, 7) + b"own")
            assert udp.recv(100).endswith(b"own")
            stranger.sendto(b"\0\0\0" + v4(V4, 7) + b"stranger", udp.getpeername())
            udp.send(b"\0\0\0" + v4(V4, 7) + b"again")
            assert udp.recv(100).endswith(b"again")
        control.close()
        eventually(lambda: is_deaf(udp), "nobody takes datagrams any more")


def is_deaf(udp: socket.socket) -> bool:
    try:
        udp.send(b"x")
        udp.send(b"x")  # the first one is told by the second that it met nobody
    except ConnectionRefusedError:
        return True
    return False


def test_forwards_of_datagrams_keep_clients_apart(ports: Ports) -> None:
    for port in (ports.echo, ports.named_echo):
        with contextlib.ExitStack() as stack:
            every = [
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                for _ in range(10)
            ]
            for sock in every:
                sock.settimeout(PATIENCE_S)
                sock.connect(("127.0.0.1", port))
            for _ in range(3):
                for number, sock in enumerate(every):
                    sock.send(bytes((number,)))
                    assert sock.recv(10) == bytes((number,))


# ---- from the tunnel ----


def test_the_other_side_reaches_a_server_of_this_host(peer: Peer) -> None:
    tcp = socket.create_server(("127.0.0.1", 0))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with tcp, udp:
        udp.bind(("127.0.0.1", 0))
        servers = [
            threading.Thread(target=greet_stream, args=(tcp,)),
            threading.Thread(target=greet_datagram, args=(udp,)),
        ]
        for server in servers:
            server.start()
        to = [sock.getsockname()[1] for sock in (tcp, udp)]
        remote = ("-R", f"80=127.0.0.1:{to[0]}", "-R", f"7=localhost:{to[1]}/udp")
        with proxy(peer.conf, *remote) as at:
            assert at.ports == [80, 7]
            assert peer.visit(80) == "hello yourself"
            assert peer.visit(7, is_udp=True) == "hello yourself"
        for server in servers:
            server.join()


def greet_stream(listener: socket.socket) -> None:
    sock, _ = listener.accept()
    with sock:
        while data := sock.recv(100):
            sock.sendall(data)
        sock.sendall(b" yourself")


def greet_datagram(sock: socket.socket) -> None:
    data, source = sock.recvfrom(100)
    sock.sendto(data + b" yourself", source)


# ---- the process ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_all_connections_and_leaves_nothing(peer: Peer, number: int) -> None:
    with proxy(peer.conf, "-L", f"0={V4}:7", end=number) as at:
        children = Path(f"/proc/{at.process.pid}/task/{at.process.pid}/children").read_text()
        networks = [network_of(int(child)) for child in children.split()]
        sock = dial(at.ports[0])
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    with sock, contextlib.suppress(ConnectionResetError):
        assert sock.recv(1) == b""
    assert len(networks) == 1
    assert inhabitants(networks[0]) == []


def test_a_port_that_is_taken_is_told_in_one_line(peer: Peer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = refused(peer.conf, "--socks5", str(port))
    assert done == (1, f"wgpyctl: cannot listen on 127.0.0.1:{port}: Address already in use\n")


def test_a_port_of_wireguard_that_is_taken_is_told_in_one_line(peer: Peer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        conf = Path(peer.conf).with_name(f"taken-{port}.conf")
        text = Path(peer.conf).read_text()
        conf.write_text(text.replace("[Interface]\n", f"[Interface]\nListenPort = {port}\n"))
        status, said = refused(str(conf), "--socks5", "0")
    assert (status, said.count("\n")) == (1, 1)
    assert said.startswith("wgpyctl: ")


def test_the_end_of_the_tunnel_is_its_end(peer: Peer) -> None:
    process = subprocess.Popen(
        as_nobody(WGPYCTL, "proxy", peer.conf, "--socks5", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for keeper in children:
        os.kill(int(keeper), signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "wgpyctl: the tunnel has ended: the keeper ended"


def refused(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        as_nobody(WGPYCTL, "proxy", *arguments), capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr
