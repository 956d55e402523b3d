# SPDX-License-Identifier: MIT
"""What is measured on a tunnel, and how.

A case gives figures by name; the units are in the names.  GB means 1e9 bytes of payload, without
any header.  Ends: a is the client's, b the server's.
"""

import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import cores, flood
from bench.lab import LabError, NotApplicable, Usage, pinned, run, until, usage_of
from bench.overload import held
from bench.topology import MTU, Counters, Host, Tunnel
from bench.ways import Ends, Way, direct, forwarded, masqueraded, nested

ROOT = Path(__file__).resolve().parent.parent
Figures = dict[str, float]

UDP_HEADERS = 28  # of IPv4 and UDP
TCP4_HEADERS = 52  # of IPv4, and TCP with timestamps
TCP6_HEADERS = 72
SEALED_LEN = 1408  # of flood's inner packet of 1400 bytes, padded
MESSAGE_LEN = SEALED_LEN + 32  # as a WireGuard message
FLOWING = 200  # packets that show that a load has started
SYSCALL_S = 1.0
PING_INTERVAL_S = 0.005
AFTER_S = 1.0
SETTLE_S = 1  # of a load, before it is measured beside it
GRACE_S = 15.0  # what a tool may take longer than asked to
SOAK_SAMPLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """A measurement: its name on the command line, and what does it in about so many seconds."""

    name: str
    measure: Callable[[Tunnel, float], Figures]
    options: tuple[str, ...] = ()  # of iperf3
    headers: int | None = None  # bytes per packet that are no payload, if system calls are counted


# ---- load ----


@contextlib.contextmanager
def iperf3(ends: Ends, seconds: float, options: Sequence[str]) -> Iterator[list[str]]:
    """Run a server at the one end; gives the client's command."""
    with ends.server.child("iperf3", "-s", "-1", "-i", "0", "--forceflush") as server:
        assert server.stdout is not None
        if not any("listening" in line for line in server.stdout):
            raise LabError("the iperf3 server does not start")
        target = ends.address6 if "-6" in options else ends.address4
        yield ["iperf3", "-J", "-c", target, "-t", f"{seconds:.0f}", *options]


@contextlib.contextmanager
def load(tunnel: Tunnel, seconds: float, options: Sequence[str]) -> Iterator[None]:
    """Have traffic flow when the body is entered and for so long, or until the body ends."""
    with direct(tunnel) as ends, iperf3(ends, seconds + 2, options) as command:
        before = frames(tunnel)
        with tunnel.a.child(*command, output=subprocess.DEVNULL):
            until(lambda: frames(tunnel) > before + FLOWING, "a flow of packets")
            yield


def frames(tunnel: Tunnel) -> int:
    """Count those that came out of the tunnel at both ends."""
    return sum(host.counters().frames for host in tunnel.hosts)


@dataclass(frozen=True, slots=True)
class Carried:
    """What TCP did, both ways added if it went both ways."""

    bytes: float  # that arrived
    seconds: float
    retransmits: float  # segments that were sent again

    @classmethod
    def read(cls, report: str) -> "Carried":
        """Read it from iperf3's JSON."""
        result = json.loads(report)
        end = result.get("end", {})
        ways = [way for way in ("", "_bidir_reverse") if f"sum_received{way}" in end]
        if "error" in result or not ways:
            raise LabError(f"iperf3: {result.get('error', 'no result')}")
        return cls(
            bytes=sum(end[f"sum_received{way}"]["bytes"] for way in ways),
            seconds=end["sum_received"]["seconds"],
            retransmits=sum(end[f"sum_sent{way}"]["retransmits"] for way in ways),
        )


def payload(before: Counters, after: Counters, headers: int) -> int:
    """Count the bytes that came out of the tunnel, less headers.

    A frame may be a super-packet: many packets' payload behind one header.
    """
    return after.bytes - before.bytes - headers * (after.frames - before.frames)


# ---- what a daemon takes ----


class Meter:
    """Both daemons' usage from its making on; with several tunnels, of each end's together."""

    def __init__(self, *tunnels: Tunnel) -> None:
        names = dict.fromkeys(name for tunnel in tunnels for name in tunnel.pids)
        self._pids = {name: [tunnel.pids[name] for tunnel in tunnels] for name in names}
        self._before = self._read()

    def _read(self) -> dict[str, Usage]:
        return {name: total([usage_of(pid) for pid in pids]) for name, pids in self._pids.items()}

    def figures(self, carried_bytes: float) -> Figures:
        """Tell it per GB carried since the beginning."""
        figures = {}
        for name, after in self._read().items():
            before, gb = self._before[name], max(carried_bytes, 1) / 1e9
            figures[f"cpu_{name}_s_per_gb"] = (after.cpu_s - before.cpu_s) / gb
            figures[f"switches_{name}_per_gb"] = (after.switches - before.switches) / gb
            figures[f"resident_{name}_mb"] = after.resident_mb
        return figures


def total(usages: Sequence[Usage]) -> Usage:
    """Add up several daemons'; their memory is that of the largest."""
    return Usage(
        cpu_s=sum(usage.cpu_s for usage in usages),
        switches=sum(usage.switches for usage in usages),
        resident_mb=max(usage.resident_mb for usage in usages),
    )


def perf_counts(csv: str) -> int:
    """Read the number in a line of `perf stat -x,`; nothing happened: 0."""
    value = csv.strip().splitlines()[-1].split(",")[0]
    return 0 if value == "<not counted>" else int(value)


def can_count_syscalls() -> bool:
    """Tell whether perf works here."""
    if shutil.which("perf") is None:
        return False
    probe = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def count_syscalls(tunnel: Tunnel, options: Sequence[str], headers: int) -> Figures:
    """Count them per GB, in a short run of its own."""
    with load(tunnel, SYSCALL_S + 1, options), contextlib.ExitStack() as stack:
        before, begin_s = [host.counters() for host in tunnel.hosts], time.monotonic()
        counting = {
            name: stack.enter_context(perf(tunnel.a, pid)) for name, pid in tunnel.pids.items()
        }
        logs = {name: process.communicate(timeout=GRACE_S)[0] for name, process in counting.items()}
        seconds = time.monotonic() - begin_s
        after = [host.counters() for host in tunnel.hosts]
    carried = sum(payload(x, y, headers) for x, y in zip(before, after, strict=True))
    gb_per_s = max(carried, 1) / seconds / 1e9
    return {
        f"syscalls_{name}_per_gb": perf_counts(log) / SYSCALL_S / gb_per_s
        for name, log in logs.items()
    }


def perf(host: Host, pid: int) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Count a process' system calls for SYSCALL_S."""
    event = ["-e", "raw_syscalls:sys_enter"]
    return host.child("perf", "stat", "-x,", *event, "-p", str(pid), "--", "sleep", str(SYSCALL_S))


# ---- cases ----


def tcp(*options: str, way: Way = direct) -> Callable[[Tunnel, float], Figures]:
    """Send TCP as fast as it goes."""

    def measure(tunnel: Tunnel, seconds: float) -> Figures:
        with way(tunnel) as ends, iperf3(ends, seconds, options) as command:
            meter = Meter(*ends.tunnels)
            carried = Carried.read(ends.client.run(*command, timeout_s=seconds + GRACE_S))
            return {
                "gbit_s": carried.bytes * 8 / carried.seconds / 1e9,
                "retransmits": carried.retransmits,
            } | meter.figures(carried.bytes)

    return measure


def udp(size: int) -> Callable[[Tunnel, float], Figures]:
    """Send UDP, far more than fits.  What counts is what comes out at the other end."""

    def measure(tunnel: Tunnel, seconds: float) -> Figures:
        with load(tunnel, seconds + 1, udp_options(size)):
            meter, before, begin_s = Meter(tunnel), tunnel.b.counters(), time.monotonic()
            time.sleep(seconds)
            after, took_s = tunnel.b.counters(), time.monotonic() - begin_s
            carried = udp_payload(tunnel, before, after, size)
            return {"kpps": carried / size / took_s / 1e3} | meter.figures(carried)

    return measure


def udp_options(size: int) -> tuple[str, ...]:
    """Return those of iperf3."""
    return "-u", "-b", "0", "-l", str(size)


def udp_payload(tunnel: Tunnel, before: Counters, after: Counters, size: int) -> int:
    """Count the payload: a kernel interface counts every packet, and its own headers too."""
    if tunnel.implementation.is_kernel:
        return (after.frames - before.frames) * size
    return payload(before, after, UDP_HEADERS)


def ping_times_us(output: str) -> list[float]:
    """Read those of all answers that came."""
    return [float(ms) * 1e3 for ms in re.findall(r" time=([\d.]+) ms", output)]


def round_trips(tunnel: Tunnel, seconds: float) -> Figures:
    """Ping one after the other."""
    interval = ["-i", str(PING_INTERVAL_S), "-w", f"{max(seconds, 1):.0f}"]
    output = tunnel.a.run("ping", "-n", *interval, tunnel.b.inner4, timeout_s=seconds + GRACE_S)
    times_us = ping_times_us(output)
    if len(times_us) < 2:
        raise LabError("too few pings were answered")
    percentiles = statistics.quantiles(times_us, n=100, method="inclusive")
    return {
        "rtt_mean_us": statistics.mean(times_us),
        "rtt_p50_us": percentiles[49],
        "rtt_p99_us": percentiles[98],
    }


def loaded_round_trips(tunnel: Tunnel, seconds: float) -> Figures:
    """Measure the same beside a TCP stream."""
    with load(tunnel, seconds + 1, ()):
        return round_trips(tunnel, seconds)


def overloaded_round_trips(tunnel: Tunnel, seconds: float) -> Figures:
    """Measure beside far more UDP than b, which is held to a tenth of a core, can take.

    Beside a load that goes on: how long it takes until a queue is known to stand is not in it.
    """
    with held(tunnel), load(tunnel, SETTLE_S + seconds + 1, udp_options(1372)):
        time.sleep(SETTLE_S)
        return round_trips(tunnel, seconds)


def relieved_round_trips(tunnel: Tunnel, seconds: float) -> Figures:
    """Measure in the second right after that, b still being held."""
    with held(tunnel):
        with load(tunnel, seconds + 1, udp_options(1372)):
            time.sleep(seconds)
        return round_trips(tunnel, AFTER_S)


def many_peers(tunnel: Tunnel, seconds: float) -> Figures:
    """Send one TCP stream with 999 idle peers more, between two without."""
    stream = tcp()
    before = stream(tunnel, seconds)
    with tunnel.idle_peers():
        many = stream(tunnel, seconds)
    after = stream(tunnel, seconds)
    alone = (before["gbit_s"] + after["gbit_s"]) / 2
    return many | {"of_one_peer": many["gbit_s"] / max(alone, 1e-9)}


def transmit(tunnel: Tunnel, seconds: float) -> Figures:
    """Have the daemon of a alone on one core send what another core floods it with."""
    if tunnel.implementation.is_kernel or (os.cpu_count() or 1) < 2:
        raise NotApplicable("transmit takes a daemon and two cores")
    flooding = [sys.executable, "-m", "bench.flood", tunnel.b.inner4, str(seconds + 2)]
    environment = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    with (
        pinned(tunnel.pids["a"], 0),
        tunnel.one_way(),
        tunnel.a.child("taskset", "-c", "1", *flooding, environment=environment),
    ):
        begin = tunnel.sent_bytes()
        until(lambda: tunnel.sent_bytes() > begin + FLOWING * MESSAGE_LEN, "a flood")
        before, busy, begin_s = tunnel.sent_bytes(), usage_of(tunnel.pids["a"]), time.monotonic()
        time.sleep(seconds)
        after, took_s = tunnel.sent_bytes(), time.monotonic() - begin_s
        busy_s = usage_of(tunnel.pids["a"]).cpu_s - busy.cpu_s
    kpps = (after - before) / MESSAGE_LEN / took_s / 1e3
    return {"kpps": kpps, "daemon_busy": busy_s / took_s}


assert flood.PAYLOAD + UDP_HEADERS <= MTU, "a flood's datagram must not be fragmented"

CASES = (
    Case("tcp4", tcp(), (), TCP4_HEADERS),
    Case("tcp6", tcp("-6"), ("-6",), TCP6_HEADERS),
    Case("tcp4-p4", tcp("-P", "4"), ("-P", "4"), TCP4_HEADERS),
    Case("tcp4-reverse", tcp("-R"), ("-R",), TCP4_HEADERS),
    Case("tcp4-bidir", tcp("--bidir"), ("--bidir",), TCP4_HEADERS),
    Case("forward4", tcp(way=forwarded)),
    Case("forward4-p4", tcp("-P", "4", way=forwarded)),
    Case("forward6", tcp("-6", way=forwarded)),
    Case("forward-nat", tcp(way=masqueraded)),
    Case("nested", tcp(way=nested)),
    Case("udp64", udp(64), udp_options(64), UDP_HEADERS),
    Case("udp1372", udp(1372), udp_options(1372), UDP_HEADERS),
    Case("rtt-idle", round_trips),
    Case("rtt-loaded", loaded_round_trips),
    Case("rtt-overload", overloaded_round_trips),
    Case("rtt-after", relieved_round_trips),
    Case("peers1000", many_peers),
    Case("transmit", transmit),
    Case("cores-send", cores.send),
    Case("cores-receive", cores.receive),
    Case("cores-tcp", cores.compared(tcp())),
)
ABLATED = "tcp4", "udp64", "udp1372"  # the cases that ablations are measured with


# ---- memory over time ----


def soak(tunnel: Tunnel, seconds: float) -> list[Figures]:
    """Measure both daemons' memory, once a second under load."""
    samples = []
    with load(tunnel, seconds, ()):
        begin_s = time.monotonic()
        while (at_s := time.monotonic() - begin_s) < seconds:
            sample: Figures = {"at_s": at_s}
            for name, pid in tunnel.pids.items():
                sample[f"resident_{name}_mb"] = usage_of(pid).resident_mb
            samples.append(sample)
            time.sleep(SOAK_SAMPLE_S)
    return samples


def tool_versions() -> dict[str, str]:
    """Tell those of what makes the load."""
    return {tool: run([tool, "--version"]).splitlines()[0] for tool in ("iperf3", "wg")}
