# SPDX-License-Identifier: MIT
"""Handshakes as a daemon's peers see them: how many are answered, who waits beside silent ones.

For bench.config, in its namespaces.  The peers are sockets here, on loopback addresses, and their
messages are made with wgpy's Noise, before the clock starts where there are many of them.
"""

import contextlib
import secrets
import select
import socket
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from bench.lab import LabError, random_key, run, until
from wgpy.config import ZERO_KEY
from wgpy.protocol.cookie import CookieGenerator
from wgpy.protocol.messages import RESPONSE_LEN, MessageType
from wgpy.protocol.noise import (
    RemoteStatic,
    StaticKey,
    read_initiation_untrusted,
    write_initiation,
    write_response,
)
from wgpy.protocol.tai64n import tai64n

DAEMON: Final = ("127.0.0.1", 51820)
LIVE: Final = ("127.0.0.1", 51821)
SILENT_PORT: Final = 51822  # of silent peer n, at 127.1.0.0 + n
OUTER: Final = int.from_bytes(bytes([127, 1, 0, 0]), "big")
INNER: Final = int.from_bytes(bytes([10, 0, 0, 0]), "big")  # of peer n, plus n
OURS: Final = "10.255.255.254/8"
DISCARD: Final = 9

IN_FLIGHT: Final = 32
SILENT_AGAIN_S: Final = 0.2  # who has not been asked for a handshake is written to again
LIVE_AGAIN_S: Final = 0.02
PATIENCE_S: Final = 30.0
BUFFER_LEN: Final = 2048
RECEIVE_BUFFER: Final = 32 << 20  # bytes; it is not our speed that is measured
SO_RCVBUFFORCE: Final = 33  # <asm-generic/socket.h>
IP_PKTINFO: Final = 8  # <linux/in.h>; Python has no name for it
IN_PKTINFO_LEN: Final = 12  # its last four bytes are the address that a datagram went to


def _address(number: int) -> str:
    return socket.inet_ntoa(number.to_bytes(4, "big"))


def _configure(interface: str, peers: Iterable[str]) -> StaticKey:
    """Set the daemon up with these peers; -> who it is."""
    private_key = secrets.token_bytes(32)
    key = b64encode(private_key).decode()
    settings = f"[Interface]\nPrivateKey = {key}\nListenPort = {DAEMON[1]}\n{''.join(peers)}"
    run(["wg", "setconf", interface, "/dev/stdin"], settings, timeout_s=PATIENCE_S)
    run(["ip", "address", "add", OURS, "dev", interface])
    run(["ip", "link", "set", "lo", "up"])
    run(["ip", "link", "set", interface, "up"])
    until(_is_listening, "a daemon that listens", PATIENCE_S)
    return StaticKey(private_key)


def _is_listening() -> bool:
    return f":{DAEMON[1]:04X} " in Path("/proc/net/udp").read_text()


def _section(public_key: str, number: int, endpoint: str = "") -> str:
    """Write a peer's settings."""
    lines = f"[Peer]\nPublicKey = {public_key}\nAllowedIPs = {_address(INNER + number)}/32\n"
    return lines + (f"Endpoint = {endpoint}\n" if endpoint else "")


@contextlib.contextmanager
def _bound(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        udp.bind(address)
        yield udp


# ---- as responder ----


def measure_answers(interface: str, count: int) -> float:
    """Count first initiations answered a second, of so many peers, IN_FLIGHT at a time."""
    private_keys = [secrets.token_bytes(32) for _ in range(count)]
    locals_ = [StaticKey(private_key) for private_key in private_keys]
    keys = (b64encode(local.public_key).decode() for local in locals_)
    daemon = _configure(interface, (_section(key, n) for n, key in enumerate(keys)))
    macs = CookieGenerator(daemon.public_key)
    messages = []
    for number, local in enumerate(locals_):
        remote = RemoteStatic(daemon.public_key, local.exchange(daemon.public_key))
        message, _ = write_initiation(local, remote, number, tai64n(time.time_ns()))
        messages.append(macs.add_macs(message, time.monotonic_ns()))
    with _bound(("127.0.0.1", 0)) as udp:
        udp.connect(DAEMON)
        udp.settimeout(PATIENCE_S)
        return count / _exchange(udp, messages)


def _exchange(udp: socket.socket, messages: list[bytes]) -> float:
    """Send all, each when another is answered; -> the seconds that it took."""
    waiting = iter(messages)
    begin_s = time.perf_counter()
    for message in islice(waiting, IN_FLIGHT):
        udp.send(message)
    for _ in messages:
        try:
            response = udp.recv(BUFFER_LEN)
        except TimeoutError:
            raise LabError("an initiation was not answered") from None
        if response[0] != MessageType.RESPONSE or len(response) != RESPONSE_LEN:
            raise LabError("an initiation got another answer than a response")
        for message in islice(waiting, 1):
            udp.send(message)
    return time.perf_counter() - begin_s


# ---- as initiator ----


class Crowd:
    """Silent peers and a live one, and a host that writes to all of them through the tunnel."""

    def __init__(
        self, live: socket.socket, silent: socket.socket, local: StaticKey, remote: RemoteStatic
    ) -> None:
        """Receive for the peers at `live` and `silent`; `local` and `remote` are of the live."""
        self._live = live
        self._silent = silent
        self._local = local
        self._remote = remote
        self._macs = CookieGenerator(remote.public_key)

    def write(self, count: int) -> tuple[float, float]:
        """Write to all silent peers, then to the live one.

        -> the seconds until payload comes out at the live one, and until it and every silent one
        was asked for a handshake.
        """
        missing = set(range(count))
        begin_s = time.perf_counter()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
            self._write(host, missing)
            live_begin_s = live_next_s = time.perf_counter()
            silent_next_s = live_begin_s + SILENT_AGAIN_S
            live_s = 0.0
            while missing or not live_s:
                now_s = time.perf_counter()
                if now_s > begin_s + PATIENCE_S:
                    raise LabError(f"{len(missing)} peers were not asked for a handshake")
                if not live_s and now_s >= live_next_s:
                    self._write(host, [count])
                    live_next_s = now_s + LIVE_AGAIN_S
                if now_s >= silent_next_s:
                    self._write(host, missing)
                    silent_next_s = now_s + SILENT_AGAIN_S
                select.select([self._live, self._silent], [], [], LIVE_AGAIN_S)
                if self._serve_live() and not live_s:
                    live_s = time.perf_counter() - live_begin_s
                missing -= self._take_silent()
        return live_s, time.perf_counter() - begin_s

    @staticmethod
    def _write(host: socket.socket, numbers: Iterable[int]) -> None:
        for number in numbers:
            host.sendto(b"anybody there?", (_address(INNER + number), DISCARD))

    def _serve_live(self) -> bool:
        """Answer as the live peer; -> whether payload has come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                message, source = self._live.recvfrom(BUFFER_LEN)
                if message[0] != MessageType.INITIATION:
                    return True
                self._live.sendto(self._respond(message), source)
        return False

    def _respond(self, message: bytes) -> bytes:
        initiation = read_initiation_untrusted(self._local, message, lambda key: self._remote)
        response, _ = write_response(initiation, secrets.randbits(32), ZERO_KEY)
        return self._macs.add_macs(response, time.monotonic_ns())

    def _take_silent(self) -> set[int]:
        """Find which silent peers were sent something."""
        numbers = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                ancillary = self._silent.recvmsg(BUFFER_LEN, socket.CMSG_SPACE(IN_PKTINFO_LEN))[1]
                numbers.add(int.from_bytes(ancillary[0][2][-4:], "big") - OUTER)
        return numbers


def measure_crowd(interface: str, count: int) -> tuple[float, float]:
    """Measure Crowd.write, with so many silent peers; in milliseconds."""
    local = StaticKey(secrets.token_bytes(32))
    silent_at = (f"{_address(OUTER + n)}:{SILENT_PORT}" for n in range(count))
    sections = [_section(random_key(), n, endpoint) for n, endpoint in enumerate(silent_at)]
    live_key = b64encode(local.public_key).decode()
    sections.append(_section(live_key, count, f"{LIVE[0]}:{LIVE[1]}"))
    daemon = _configure(interface, sections)
    remote = RemoteStatic(daemon.public_key, local.exchange(daemon.public_key))
    with _bound(LIVE) as live, _bound(("0.0.0.0", SILENT_PORT)) as silent:  # noqa: S104 # 127/8
        silent.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        for udp in (live, silent):
            udp.setblocking(False)
        live_s, all_s = Crowd(live, silent, local, remote).write(count)
    return live_s * 1e3, all_s * 1e3
