# SPDX-License-Identifier: MIT
"""What small requests cost among many peers, and who waits while something big goes on.

For bench.config, in its namespaces.  A wait is what one more client sees that asks for nothing (an
empty set) over and over: it has its answer when control has come round to it, as a handshake has.
"""

import contextlib
import os
import socket
import statistics
import tempfile
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from bench.lab import SOCKETS, LabError, random_key, run

PATIENCE_S: Final = 120.0
PIECE: Final = 1 << 16  # bytes
SMALL_REQUESTS: Final = 200  # of which the median counts
AFTERWARDS_S: Final = 0.3  # a change of the link is acted upon some time after it was made
PAUSE_S: Final = 0.0005  # from an answer to the next question
STORM_CHANGES: Final = 500  # in one run of ip
ELSEWHERE: Final = "wgelsewhere"
NOTHING: Final = b"set=1\n\n"

Figures = dict[str, float]


class Client:
    """A connection to the configuration socket."""

    def __init__(self, interface: str) -> None:
        """Connect.  Raises OSError."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(os.fspath(SOCKETS / f"{interface}.sock"))

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    def set(self, request: bytes) -> None:
        """Have a request carried out.  LabError: it was refused."""
        self._socket.sendall(request)
        reply = b""
        while not reply.endswith(b"\n\n"):
            piece = self._socket.recv(PIECE)
            if not piece:
                raise LabError("the daemon hung up")
            reply += piece
        if reply != b"errno=0\n\n":
            raise LabError(f"a request was refused: {reply!r}")


@contextlib.contextmanager
def client(interface: str) -> Iterator[Client]:
    """Be connected while the context lasts."""
    one = Client(interface)
    try:
        yield one
    finally:
        one.close()


def milliseconds(action: Callable[[], object]) -> float:
    """Measure how long it takes."""
    start_s = time.perf_counter()
    action()
    return (time.perf_counter() - start_s) * 1e3


def median_ms(action: Callable[[], object]) -> float:
    """Measure how long it takes mostly."""
    return statistics.median(milliseconds(action) for _ in range(SMALL_REQUESTS))


def section(key: str, *lines: str) -> bytes:
    """Write a set request for one peer."""
    text = "".join(f"{line}\n" for line in (f"public_key={b64decode(key).hex()}", *lines))
    return f"set=1\n{text}\n".encode()


# ---- small requests ----


def measure_small(interface: str, keys: list[str]) -> Figures:
    """Measure an empty set, and ones that concern one peer, of the peers that have these keys.

    At last the first half of them is removed, one by one.
    """
    new = random_key()
    with client(interface) as control:

        def come_and_go() -> None:
            control.set(section(new, "allowed_ip=172.16.0.1/32"))
            control.set(section(new, "remove=true"))

        def remove_half() -> None:
            for key in keys[: len(keys) // 2]:
                control.set(section(key, "remove=true"))

        change = section(keys[-1], "persistent_keepalive_interval=0", "allowed_ip=172.16.0.2/32")
        return {
            "empty set among peers, ms": median_ms(lambda: control.set(NOTHING)),
            "change of one peer, ms": median_ms(lambda: control.set(change)),
            "one peer added, removed, ms": median_ms(come_and_go),
            "half removed one by one, ms": milliseconds(remove_half),
        }


def measure_empty(interface: str) -> float:
    """Measure milliseconds of an empty set."""
    with client(interface) as control:
        return median_ms(lambda: control.set(NOTHING))


# ---- waits ----


class Bystander:
    """A client that asks for nothing, in a thread of its own, and keeps its longest wait."""

    def __init__(self, interface: str) -> None:
        """Begin.  Raises OSError."""
        self._client = Client(interface)
        self._done = threading.Event()
        self.longest_ms = 0.0
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        while not self._done.wait(PAUSE_S):
            taken_ms = milliseconds(lambda: self._client.set(NOTHING))
            self.longest_ms = max(self.longest_ms, taken_ms)

    def stop(self) -> None:
        """Ask no more."""
        self._done.set()
        self._thread.join()
        self._client.close()


def longest_wait_ms(interface: str, action: Callable[[], object]) -> float:
    """Measure how long a bystander waited at most while the action went on."""
    bystander = Bystander(interface)
    try:
        action()
    finally:
        bystander.stop()
    return bystander.longest_ms


def measure_waits(interface: str, settings: Path) -> Figures:
    """Measure them while the daemon, which has no peers yet, gets and shows those of the file."""

    def wg(*words: str) -> Callable[[], object]:
        return lambda: run(["wg", *words], timeout_s=PATIENCE_S)

    def link(state: str) -> Callable[[], object]:
        def change() -> None:
            run(["ip", "link", "set", interface, state])
            time.sleep(AFTERWARDS_S)

        return change

    actions = {
        "setconf": wg("setconf", interface, os.fspath(settings)),
        "show": wg("show", interface),
        "up": link("up"),
        "syncconf": wg("syncconf", interface, os.fspath(settings)),
        "down": link("down"),
    }
    waits = {name: longest_wait_ms(interface, action) for name, action in actions.items()}
    return {f"longest wait in {name}, ms": wait_ms for name, wait_ms in waits.items()}


# ---- storms ----


def _cpu_ns(pid: int) -> int:
    """Read what the threads of a process took so far, finely."""
    tasks = Path("/proc", str(pid), "task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def _storm(lines: list[str], seconds: float) -> None:
    """Have ip make these changes over and over."""
    with tempfile.NamedTemporaryFile("w") as batch:
        batch.write("".join(f"{line}\n" for line in lines))
        batch.flush()
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            run(["ip", "-batch", batch.name])


def measure_storms(interface: str, pid: int, seconds: float) -> Figures:
    """Measure what changes elsewhere take of a core, and how long a bystander waits at most.

    The bystander's questions are among what is taken, for either implementation.
    """
    run(["ip", "link", "add", ELSEWHERE, "type", "veth", "peer", "name", f"{ELSEWHERE}2"])
    run(["ip", "link", "set", ELSEWHERE, "up"])
    try:
        mtus = [f"link set {ELSEWHERE} mtu {1400 + n % 2}" for n in range(STORM_CHANGES)]
        routes = [
            f"route {word} 198.18.{n >> 8}.{n & 255}/32 dev {ELSEWHERE}"
            for word in ("add", "del")
            for n in range(STORM_CHANGES // 2)
        ]
        run(["ip", "link", "set", f"{ELSEWHERE}2", "up"])
        figures: Figures = {}
        for name, lines in (("MTUs", mtus), ("routes", routes)):
            before_ns, start_s = _cpu_ns(pid), time.perf_counter()
            wait_ms = longest_wait_ms(interface, partial(_storm, lines, seconds))
            taken_s = time.perf_counter() - start_s
            share = (_cpu_ns(pid) - before_ns) / 1e9 / taken_s
            figures[f"storm of {name}, % of a core"] = 100 * share
            figures[f"longest wait in {name}, ms"] = wait_ms
        return figures
    finally:
        run(["ip", "link", "delete", ELSEWHERE])
