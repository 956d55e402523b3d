# SPDX-License-Identifier: MIT
"""Programs without an event loop that have tunnels, which tests run as nobody."""

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

from rootless.scenarios import answer, tell
from rootless.tunnel_scenarios import KEYS, children

import wgpy
from wgpy.protocol.noise import StaticKey
from wgpy.testing import LEFT, RIGHT

PUBLIC_KEYS = tuple(StaticKey(key).public_key for key in KEYS)
SERVER, CLIENT = LEFT.v4, RIGHT.v4
THREADS = 8
PATIENCE_S = 30.0


def config(number: int, *peers: wgpy.PeerConfig, dns: str = "") -> wgpy.Config:
    """A tunnel that is the server's or the client's."""
    return wgpy.Config(
        KEYS[number],
        addresses=(ip_interface(f"{(SERVER, CLIENT)[number]}/24"),),
        peers=peers,
        dns=(ip_address(dns),) if dns else (),
    )


def peer(number: int, port: int | None = None) -> wgpy.PeerConfig:
    """The server or the client, at a port of this host."""
    return wgpy.PeerConfig(
        PUBLIC_KEYS[number],
        endpoint=None if port is None else wgpy.Host("127.0.0.1", port),
        allowed_ips=(ip_network((SERVER, CLIENT)[number]),),
    )


@contextmanager
def pair(dns: str = "") -> Iterator[tuple[wgpy.BlockingTunnel, wgpy.BlockingTunnel]]:
    """Two tunnels; the second knows where the first is."""
    with wgpy.connect(config(0, peer(1))) as first:
        port = first.status().listen_port
        with wgpy.connect(config(1, peer(0, port), dns=dns)) as second:
            yield first, second


@contextmanager
def listening(tunnel: wgpy.BlockingTunnel) -> Iterator[None]:
    """Who connects there gets back, in capitals, what it sends."""

    def serve(listener: socket.socket) -> None:
        try:
            while True:
                connected, _ = listener.accept()
                with connected:
                    connected.sendall(connected.recv(100).upper())
        except OSError:  # it is shut down
            return

    with tunnel.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((SERVER, 80))
        listener.listen(THREADS)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def shout(tunnel: wgpy.BlockingTunnel, word: str) -> str:
    with tunnel.create_connection((SERVER, 80), timeout=PATIENCE_S) as connected:
        assert connected.gettimeout() == PATIENCE_S
        connected.sendall(word.encode())
        return connected.recv(100).decode()


def exchange() -> None:
    """Several threads use a tunnel; then a peer goes."""
    with pair() as (first, second), listening(first):
        with ThreadPoolExecutor(THREADS) as pool:
            words = list(pool.map(lambda number: shout(second, f"w{number}"), range(THREADS)))
        (info,) = second.getaddrinfo(SERVER, 80, type=socket.SOCK_STREAM)
        sessions = [one.last_handshake_age_s is not None for one in second.status().peers]
        gone = wgpy.PeerChange(PUBLIC_KEYS[0], remove=True)
        second.configure(wgpy.DeviceChange(peers=(gone,)))
        try:
            shout(second, "word")
        except OSError as error:
            failure = errno.errorcode[error.errno or 0]
    tell({"words": words, "address": info[-1], "sessions": sessions, "then": failure})


def commands() -> None:
    """Commands are run as subprocess does it."""
    with wgpy.connect(config(0)) as tunnel:
        script = "cat; ls /sys/class/net; pwd; echo $WORD; echo oops >&2; exit 3"
        environment = {**os.environ, "WORD": "word"}
        said = tunnel.run(
            ["sh", "-c", script], input="typed\r\n", capture_output=True, text=True,
            cwd="/", env=environment,
        )  # fmt: skip
        raw = tunnel.run(["cat"], input=b"\xff\r\n", stdout=subprocess.PIPE)
        failures: list[object] = []
        try:
            tunnel.run(["false"], check=True)
        except subprocess.CalledProcessError as error:
            failures.append(error.returncode)
        try:
            tunnel.run(["/no/such/command"])
        except OSError as error:
            failures.append(errno.errorcode[error.errno or 0])
        try:
            tunnel.run(["sleep", "1000"], capture_output=True, timeout=0.2)
        except subprocess.TimeoutExpired as expired:
            failures.append(expired.timeout)
        left = tunnel.run(["ps", "-eo", "comm="], capture_output=True, text=True).stdout.split()
    tell({
        "said": [said.returncode, said.stdout, said.stderr],
        "raw": raw.stdout.hex(),
        "failures": failures,
        "left": "sleep" in left,
    })  # fmt: skip


def interrupted() -> None:
    """Ctrl-C while a command is waited for: everything ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    try:
        with wgpy.connect(config(0)) as tunnel:
            reading, writing = os.pipe()
            threading.Thread(target=interrupt_when, args=(reading,)).start()
            tunnel.run(["sh", "-c", "echo; exec sleep 1000"], stdout=writing)
    except KeyboardInterrupt:
        os.close(writing)
        tell({"children": children(), "threads": threads()})


def interrupt_when(fd: int) -> None:
    """Send this process SIGINT as soon as the command has said something."""
    with open(fd) as pipe:
        pipe.readline()
        os.kill(os.getpid(), signal.SIGINT)
        pipe.read()


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("wg")]


@contextmanager
def name_server(tunnel: wgpy.BlockingTunnel) -> Iterator[socket.socket]:
    """The socket of one that answers nothing by itself."""
    with tunnel.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((SERVER, 53))
        yield server


def ended() -> None:
    """It ends by an exception, while another thread waits for a name that nobody tells."""
    waiting: Future[str] = Future()

    def look_up() -> None:
        try:
            second.getaddrinfo("db.internal", 80)
        except OSError as error:
            waiting.set_result(type(error).__name__)

    try:
        with pair(dns=SERVER) as (first, second), name_server(first) as server:
            thread = threading.Thread(target=look_up)
            thread.start()
            server.recv(1000)
            raise ValueError("an error of the program")
    except ValueError:
        thread.join()
    late = []
    for ask in (second.status, second.socket, lambda: second.create_connection((SERVER, 80))):
        try:
            ask()
        except OSError as error:
            late.append(type(error).__name__)
    tell({
        "waiting": waiting.result(),
        "late": late,
        "children": children(),
        "threads": threads(),
    })  # fmt: skip


def names() -> None:
    """Names are looked up in the tunnel."""
    with pair(dns=SERVER) as (first, second), name_server(first) as server:

        def serve() -> None:
            data, sender = server.recvfrom(1000)
            server.sendto(answer(data, CLIENT), sender)

        thread = threading.Thread(target=serve)
        thread.start()
        hints = {"family": socket.AF_INET, "type": socket.SOCK_STREAM}
        (info,) = second.getaddrinfo("db.internal", 5432, **hints)
        thread.join()
    tell(info[-1])


def refused() -> None:
    """Say why there is no tunnel."""
    try:
        with wgpy.connect(config(0)):
            pass
    except wgpy.StartError as error:
        tell({"said": str(error), "children": children(), "threads": threads()})


def with_file(file: str, program: str) -> None:
    """Run a program where there is such a file, home.conf."""
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        Path("home.conf").write_text(file)
        exec(compile(program, "<example>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
