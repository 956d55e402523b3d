# SPDX-License-Identifier: MIT
"""Floods of handshake messages: what they cost a tunnel, and whether a new peer still gets in.

Two network namespaces and a tunnel between them, as in scripts/bench.  From 250 addresses beside a,
siege.c sends initiations to b: garbage with a wrong mac1, which costs a receiver least, and
initiations with a right one, which would cost a handshake each.  In each round and for each
implementation TCP goes through the tunnel while the flood goes to the tunnel's port and to one that
nobody uses in turn: the ratio is the implementation's own, for all of them share the cores with the
flood.  Then, under the same flood, a newcomer asks b for a handshake.

A ratio of medians has to stay above, a time and the memory below the goals; they are wgpy's.
"""

import argparse
import contextlib
import json
import os
import secrets
import shlex
import signal
import statistics
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2s
from pathlib import Path
from subprocess import Popen

from bench.__main__ import END_SIGNALS, find_wgpy, raise_exit, say
from bench.cases import load
from bench.lab import Implementation, LabError, find_wireguard_go, run, status_number
from bench.report import WGPY
from bench.topology import CABLE, PORT, Host, Tunnel, cable, tunnel
from wgpy.protocol.cookie import mac1_key

SOURCE = Path(__file__).with_name("siege.c")
UNUSED_PORT = PORT + 1
SOURCES = 250
SOURCE_NET = "198.18.0"  # RFC 2544
MESSAGES = 4096  # different ones
NEWCOMER_INNER = "10.9.0.99/32"
WARM_UP_S = 0.4
REST_S = 1.5  # longer than load is held
FLOOD_MAX_S = 60  # at most; it is ended when what is measured beside it is done
WINDOWS = 16  # per attack, the flood going to the unused port and to the tunnel's in turn


@dataclass(frozen=True, slots=True)
class Attack:
    """A flood, and what wgpy must do under it."""

    name: str
    valid_mac1: bool
    rate: int  # messages a second
    ratio: float  # at least, of TCP
    newcomer_s: float  # at most


ATTACKS = (
    Attack("garbage", valid_mac1=False, rate=50_000, ratio=0.85, newcomer_s=1),
    Attack("valid mac1", valid_mac1=True, rate=20_000, ratio=0.90, newcomer_s=6),
)
MEMORY_MB = 64


@dataclass(frozen=True, slots=True)
class Sample:
    """What one attack did in one round."""

    round: int
    implementation: str
    attack: str
    unused_gbit_s: list[float]  # TCP beside the flood to the unused port
    attacked_gbit_s: list[float]  # and to the tunnel's
    rate: float  # of the flood at the tunnel's port
    newcomer_s: float | None  # None: it never got in
    peak_mb: float  # resident memory of b's daemon, 1e6 bytes, since its start


# ---- the flood ----


def initiations(responder_key: bytes, *, valid_mac1: bool) -> bytes:
    """Make messages of the right size and type that no two are the same."""
    out = []
    for _ in range(MESSAGES):
        body = b"\x01\0\0\0" + secrets.token_bytes(112)
        mac1 = blake2s(body, key=mac1_key(responder_key), digest_size=16).digest()
        out.append(body + (mac1 if valid_mac1 else mac1[::-1]) + bytes(16))
    return b"".join(out)


@contextlib.contextmanager
def program() -> Iterator[Path]:
    """Compile the flooder; it is there as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="wgpy-siege-") as directory:
        path = Path(directory, "siege")
        compiler = shlex.split(os.environ.get("CC", "cc"))
        run([*compiler, "-std=gnu11", "-O2", "-D_GNU_SOURCE", str(SOURCE), "-o", str(path)])
        yield path


def add_sources(a: Host, b: Host) -> None:
    """Add the flood's addresses, at a's end of the cable."""
    lines = (f"address add {SOURCE_NET}.{i}/32 dev {CABLE}\n" for i in range(1, SOURCES + 1))
    a.run("ip", "-batch", "-", stdin="".join(lines))
    b.ip("route", "add", f"{SOURCE_NET}.0/24", "dev", CABLE)


class Flood:
    """One of an attack's messages, running."""

    def __init__(self, process: Popen[str]) -> None:
        assert process.stdout is not None, "it is a pipe"
        self._process = process
        self._said = process.stdout
        if self._said.readline() != "flooding\n":
            raise LabError("the flood does not start")
        time.sleep(WARM_UP_S)

    def end(self) -> float:
        """End it; gives how many messages a second it sent.  LabError: it had ended by itself."""
        if self._process.poll() is not None:
            raise LabError(f"the flood ended by itself: {self._said.read()}")
        self._process.terminate()
        sent, taken_ms = self._said.read().split()
        return int(sent) / int(taken_ms) * 1e3


# ---- what suffers ----


def throughput(host: Host, seconds: float) -> float:
    """Measure that of what comes out of the tunnel at the host, headers included, Gbit/s."""
    before, begin_s = host.counters().bytes, time.monotonic()
    time.sleep(seconds)
    after, end_s = host.counters().bytes, time.monotonic()
    return 8e-9 * (after - before) / (end_s - begin_s)


class Newcomer:
    """A peer that b knows and has not heard from."""

    def __init__(self, up: Tunnel) -> None:
        """Make b know it."""
        self._up = up
        self._private = run(["wg", "genkey"]).strip()
        public = run(["wg", "pubkey"], self._private).strip()
        set_peer = ["wg", "set", up.b.interface, "peer", public, "allowed-ips", NEWCOMER_INNER]
        up.b.run(*set_peer)

    def handshake_s(self, responder_key: str) -> float | None:
        """Measure how long it takes from a; None: too long."""
        command = [sys.executable, "-m", "bench.newcomer", self._up.b.outer, str(PORT)]
        said = self._up.a.run(*command, responder_key, stdin=self._private, timeout_s=60).strip()
        return None if said == "none" else float(said)


def peak_mb(pid: int) -> float:
    """Read the most resident memory that a process ever had."""
    return status_number(Path(f"/proc/{pid}/status").read_text(), "VmHWM") * 1024 / 1e6


class Siege:
    """All attacks on one tunnel."""

    def __init__(self, siege: Path, up: Tunnel, seconds: float) -> None:
        """Besiege a tunnel that is up and at rest."""
        self._siege = siege
        self._up = up
        self._seconds = seconds
        self._newcomer = Newcomer(up)
        self._responder_key = up.b.run("wg", "show", up.b.interface, "public-key").strip()

    def measure(self, number: int, attack: Attack) -> Sample:
        """Measure one attack; TCP goes on while the flood changes its port."""
        ports = UNUSED_PORT, PORT
        gbit_s: dict[int, list[float]] = {port: [] for port in ports}
        with self._messages(attack) as messages:
            with load(self._up, WINDOWS * (self._seconds + 2 * WARM_UP_S), []):
                for window in range(WINDOWS):
                    port = ports[window % 2]
                    with self._flood(attack, port, messages) as flood:
                        gbit_s[port].append(throughput(self._up.b, self._seconds))
                        flood.end()
            with self._flood(attack, PORT, messages) as flood:
                newcomer_s = self._newcomer.handshake_s(self._responder_key)
                rate = flood.end()
        time.sleep(REST_S)
        name, peak = self._up.implementation.name, peak_mb(self._up.pids["b"])
        figures = gbit_s[UNUSED_PORT], gbit_s[PORT], rate, newcomer_s, peak
        return Sample(number, name, attack.name, *figures)

    @contextlib.contextmanager
    def _messages(self, attack: Attack) -> Iterator[str]:
        """Write them to a file; gives its name."""
        key = b64decode(self._responder_key)
        with tempfile.NamedTemporaryFile(prefix="wgpy-siege-") as file:
            file.write(initiations(key, valid_mac1=attack.valid_mac1))
            file.flush()
            yield file.name

    @contextlib.contextmanager
    def _flood(self, attack: Attack, port: int, messages: str) -> Iterator[Flood]:
        numbers = (port, f"{SOURCE_NET}.1", SOURCES, attack.rate, FLOOD_MAX_S)
        command = " ".join(map(str, (self._siege, self._up.b.outer, *numbers)))
        with self._up.a.child("sh", "-c", f"exec {command} < {messages}") as process:
            yield Flood(process)


# ---- telling ----


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of an attack on an implementation; the peak is the greatest."""

    implementation: str
    attack: Attack
    samples: tuple[Sample, ...]

    @property
    def unused_gbit_s(self) -> float:
        """TCP beside the flood to the unused port."""
        return statistics.median(one for sample in self.samples for one in sample.unused_gbit_s)

    @property
    def attacked_gbit_s(self) -> float:
        """TCP beside the flood to the tunnel."""
        return statistics.median(one for sample in self.samples for one in sample.attacked_gbit_s)

    @property
    def ratio(self) -> float:
        """Of turns that follow each other: what else the machine does comes and goes."""
        pairs = (zip(s.unused_gbit_s, s.attacked_gbit_s, strict=True) for s in self.samples)
        return statistics.median(attacked / unused for each in pairs for unused, attacked in each)

    @property
    def newcomer_s(self) -> float:
        """Infinite if half of the newcomers never got in."""
        times = (sample.newcomer_s for sample in self.samples)
        return statistics.median(float("inf") if s is None else s for s in times)

    @property
    def peak_mb(self) -> float:
        """Resident memory."""
        return max(sample.peak_mb for sample in self.samples)

    @property
    def misses(self) -> list[str]:
        """Which goals it does not reach."""
        reached = {
            "TCP": self.ratio >= self.attack.ratio,
            "newcomer": self.newcomer_s <= self.attack.newcomer_s,
            "memory": self.peak_mb < MEMORY_MB,
        }
        return [name for name, is_reached in reached.items() if not is_reached]

    def markdown(self) -> str:
        """Write one line of the table."""
        ratio = f"{self.ratio:.0%} (goal {self.attack.ratio:.0%})"
        newcomer = f"{self.newcomer_s:.2f} (goal {self.attack.newcomer_s:g})"
        peak = f"{self.peak_mb:.0f} (goal {MEMORY_MB})"
        rate = statistics.median(sample.rate for sample in self.samples)
        tcp = f"{self.unused_gbit_s:.2f} | {self.attacked_gbit_s:.2f} | {ratio}"
        name = f"{self.attack.name}, {rate:.0f}/s"
        return f"| {name} | {self.implementation} | {tcp} | {newcomer} | {peak} |"


HEADER = (
    "| flood | implementation | TCP, flood elsewhere, Gbit/s | TCP, flooded, Gbit/s | ratio "
    "| new peer in, s | peak memory, MB |\n|---|---|---|---|---|---|---|"
)


def rows(samples: Sequence[Sample]) -> list[Row]:
    """Make them by attack, then by implementation."""
    names = list(dict.fromkeys(sample.implementation for sample in samples))
    found = (
        Row(name, attack, tuple(s for s in samples if (s.implementation, s.attack) == key))
        for attack in ATTACKS
        for name in names
        for key in [(name, attack.name)]
    )
    return [row for row in found if row.samples]


def measure(rounds: int, seconds: float, measured: Sequence[Implementation]) -> list[Sample]:
    """Measure everything.  LabError: something did not work."""
    samples = []
    with program() as siege, cable() as (a, b):
        add_sources(a, b)
        for number in range(1, rounds + 1):
            for implementation in measured:
                with tunnel(implementation) as up:
                    besieged = Siege(siege, up, seconds)
                    for attack in ATTACKS:
                        samples.append(besieged.measure(number, attack))
                        say(f"{samples[-1]}")
    return samples


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `scripts/flood`; 1 if wgpy misses a goal."""
    parser = argparse.ArgumentParser(prog="scripts/flood", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument(
        "--seconds", type=float, default=0.8, metavar="S", help="per turn; default 0.8"
    )
    parser.add_argument("--wgpy-only", action="store_true", help="not wireguard-go beside it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the samples there too")
    options = parser.parse_args(argv)
    if os.geteuid() != 0:
        raise SystemExit("flood: network namespaces need root")
    for number in END_SIGNALS:
        signal.signal(number, raise_exit)
    try:
        reference = None if options.wgpy_only else find_wireguard_go()
        measured = [find_wgpy(), *([reference] if reference else [])]
        samples = measure(options.rounds, options.seconds, measured)
    except LabError as error:
        raise SystemExit(f"flood: {error}") from error
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(sample) for sample in samples], indent=1) + "\n")
    print(*(f"{each.name}: {each.version}" for each in measured), "", HEADER, sep="\n")
    results = rows(samples)
    print(*(row.markdown() for row in results), sep="\n")
    missed = [(row.attack.name, row.misses) for row in results if row.implementation == WGPY]
    for name, misses in missed:
        if misses:
            print(f"\nmissed under {name}: {', '.join(misses)}")
    return 1 if any(misses for _, misses in missed) else 0


if __name__ == "__main__":
    sys.exit(main())
