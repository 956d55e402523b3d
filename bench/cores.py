# SPDX-License-Identifier: MIT
"""What a second core is worth for one peer, one way: two threads on two cores against one on one.

Each case brings up tunnels of its own beside the one that it is given.  On two cores there is none
left for what makes a load, so a burst is made while the daemon is stopped, and the time is taken
until the daemon has worked it off.
"""

import contextlib
import ctypes
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.flood import PAYLOAD, PORT
from bench.lab import LabError, NotApplicable, pinned, until
from bench.topology import CABLE, Host, Tunnel, tunnel

ROOT = Path(__file__).resolve().parent.parent
Figures = dict[str, float]

LANES = {"one": 1, "two": 2}  # by the end of the figures' names
# Packets of a burst: many batches, but not so many that a queue stands (RFC 8289); a multiple of
# those that go into one datagram to be segmented, 47 of them or 45 as messages.
PACKETS = 18 * 47 * 45
BURSTS_PER_S = 5
BURST_S = 1.0  # after so long, something of it is lost
SOONEST_S = PACKETS / 2.5e6  # until then no look disturbs it
LOOK_S = 0.001
MESSAGE_LEN = 1440
INNER_HEADERS = 28
SO_RCVBUFFORCE, RECEIVE_BUFFER = 33, 256 << 20  # <asm-generic/socket.h>
SYS_PIDFD_GETFD = 438  # <asm-generic/unistd.h>


@dataclass(frozen=True, slots=True)
class ApartHost(Host):
    """An end of another tunnel over the same cable."""

    @property
    def interface(self) -> str:
        """See Host."""
        return f"wgb{os.getpid()}{self.name}9"

    @property
    def port(self) -> int:
        """See Host."""
        return 51829

    @property
    def inner4(self) -> str:
        """See Host."""
        return f"10.9.9.{self.number}"

    @property
    def inner6(self) -> str:
        """See Host."""
        return f"fd77:9::{self.number}"


APART = ApartHost("a", 1), ApartHost("b", 2)


@contextlib.contextmanager
def with_lanes(up: Tunnel, lanes: int) -> Iterator[Tunnel]:
    """Have a second tunnel whose daemons have one worker, of so many lanes."""
    environment = {"WGPY_WORKERS": "1", "WGPY_PIPELINE": str(lanes)}
    with tunnel(replace(up.implementation, environment=environment), hosts=APART) as made:
        yield made


def compared(measure: Callable[[Tunnel, float], Figures]) -> Callable[[Tunnel, float], Figures]:
    """Measure with one lane and with two."""

    def both(up: Tunnel, seconds: float) -> Figures:
        if up.implementation.name != "wgpy" or (os.cpu_count() or 1) < 2:
            raise NotApplicable("it takes a pipeline and two cores")
        figures = {}
        for end, lanes in LANES.items():
            with with_lanes(up, lanes) as made:
                for name, value in measure(made, seconds).items():
                    figures[f"{name}_{end}"] = value
        return figures

    return both


# ---- bursts ----


class Source:
    """Runs bench.bursts."""

    def __init__(self, host: Host, *arguments: str, first: str = "") -> None:
        """Start it on the host, and say `first` to it."""
        self._process = subprocess.Popen(
            host.argv(sys.executable, "-m", "bench.bursts", *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ, PYTHONPATH=str(ROOT), PYTHONSAFEPATH="1"),
        )
        if first:
            self._say(first)

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def go_on(self, said: str) -> None:
        """Have it do the next thing.  LabError: it does not say that it has."""
        assert self._process.stdout is not None
        self._say("")
        if self._process.stdout.readline() != f"{said}\n":
            raise LabError("the source of bursts has ended")


class Carried:
    """Counts bytes on an interface of a daemon's network since then."""

    def __init__(self, daemon: int, interface: str, field: int, headers: int) -> None:
        """Look at a field of /proc/PID/net/dev, less so many bytes of each packet, the next one."""
        self._fd = os.open(f"/proc/{daemon}/net/dev", os.O_RDONLY)
        self._line = f"{interface}:".encode()
        self._field, self._headers = field, headers
        self._before = self._read()

    def _read(self) -> int:
        lines = (line.split() for line in os.pread(self._fd, 8192, 0).splitlines())
        fields = next(line for line in lines if line[0] == self._line)
        return int(fields[self._field]) - self._headers * int(fields[self._field + 1])

    def close(self) -> None:
        """Look no more."""
        os.close(self._fd)

    def __call__(self) -> int:
        """Count them."""
        return self._read() - self._before


def worked_off(daemon: int, source: Source, carried: Carried, length: int) -> float:
    """Stop the daemon while a burst comes; -> the seconds until so many bytes of it are carried."""
    source.go_on("ready")
    os.kill(daemon, signal.SIGSTOP)
    try:
        until(lambda: " T " in Path(f"/proc/{daemon}/stat").read_text(), "a daemon that stops")
        source.go_on("sent")
    finally:
        begin_s = time.monotonic()
        os.kill(daemon, signal.SIGCONT)
    time.sleep(SOONEST_S)
    while carried() < length:
        if time.monotonic() > begin_s + BURST_S:
            raise LabError("a burst was lost in part")
        time.sleep(LOOK_S)
    return time.monotonic() - begin_s


def rate(
    daemon: int,
    source: Source,
    count: Callable[[], Carried],
    length: int,
    seconds: float,
) -> Figures:
    """Work bursts off; -> packets a second, the median of all.  A length is that of a packet."""
    took_s = []
    for _ in range(max(1, round(seconds * BURSTS_PER_S))):
        with contextlib.closing(count()) as carried:
            took_s.append(worked_off(daemon, source, carried, PACKETS * length))
    return {"kpps": PACKETS / statistics.median(took_s) / 1e3}


@contextlib.contextmanager
def on_one_core(up: Tunnel, name: str) -> Iterator[int]:
    """Keep a daemon of one lane there.  Gives its pid."""
    pid = up.pids[name]
    if up.implementation.environment["WGPY_PIPELINE"] != "1":
        yield pid
        return
    with pinned(pid, 0):
        yield pid


def gained(measure: Callable[[Tunnel, float], Figures]) -> Callable[[Tunnel, float], Figures]:
    """Measure with one lane and with two, and tell how many times as much these do."""

    def both(up: Tunnel, seconds: float) -> Figures:
        figures = compared(measure)(up, seconds)
        return figures | {"gain": figures["kpps_two"] / max(figures["kpps_one"], 1e-9)}

    return both


# ---- out and in ----


@gained
def send(up: Tunnel, seconds: float) -> Figures:
    """Seal and send UDP that comes in super-packets and is lost before it is received."""
    a = up.a
    a.ip("link", "set", a.interface, "txqueuelen", str(PACKETS))
    with (
        on_one_core(up, "a") as pid,
        up.one_way(),
        contextlib.closing(Source(a, up.b.inner4, str(PORT), str(PACKETS))) as source,
    ):
        count = partial(Carried, pid, CABLE, 9, 0)
        return rate(pid, source, count, MESSAGE_LEN, seconds)


@gained
def receive(up: Tunnel, seconds: float) -> Figures:
    """Open UDP that was sealed before and is lost as soon as it is written to the TUN."""
    a, b = up.a, up.b
    private, public = (_setting(up, name) for name in ("PrivateKey", "PublicKey"))
    a.ip("link", "set", a.interface, "down")  # the source is b's peer from now on
    arguments = [b.outer, str(b.port), str(PACKETS), public]
    chain = f"type filter hook prerouting priority raw; iifname {b.interface} drop;"
    with (
        on_one_core(up, "b") as pid,
        b.with_chain(chain),
        contextlib.closing(Source(a, *arguments, first=private)) as source,
    ):

        def count() -> Carried:
            widen(pid, b.port)  # again and again: the daemon sees to its buffer, too
            return Carried(pid, b.interface, 1, INNER_HEADERS)

        return rate(pid, source, count, PAYLOAD, seconds)


def _setting(up: Tunnel, name: str) -> str:
    return up.settings["a"].partition(f"{name} = ")[2].splitlines()[0]


def widen(daemon: int, port: int) -> None:
    """Let a whole burst wait in the daemon's socket of that port.  LabError: it has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(daemon)
    try:
        for entry in Path(f"/proc/{daemon}/fd").iterdir():
            fd = libc.syscall(SYS_PIDFD_GETFD, pidfd, int(entry.name), 0)
            if fd < 0:
                continue
            with contextlib.suppress(OSError), socket.socket(fileno=fd) as ours:
                if ours.family == socket.AF_INET and ours.getsockname()[1] == port:
                    ours.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
                    return
    finally:
        os.close(pidfd)
    raise LabError("the daemon has no such socket")
