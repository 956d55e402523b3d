# SPDX-License-Identifier: MIT
"""What control costs: configuration, its memory, handshakes; wgpy beside wireguard-go.

`scripts/bench-config` runs this alone in new network, mount and process namespaces, so all that a
run makes is gone with it.  The two take turns, as what else the machine does comes and goes.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.handshakes import measure_answers, measure_crowd
from bench.lab import (
    END_S,
    SOCKETS,
    START_S,
    Implementation,
    LabError,
    end,
    find_wireguard_go,
    random_key,
    run,
    until,
    usage_of,
)
from bench.requests import (
    Figures,
    measure_empty,
    measure_small,
    measure_storms,
    measure_waits,
    milliseconds,
)

INTERFACE = "wgbench"
SOCKET = SOCKETS / f"{INTERFACE}.sock"
PREFIXES = 510 * 256
PEERS = 10_000
INITIATORS = 3_000
SILENT = 5_000
STORM_S = 2.0
TOOL_S = 120.0  # at most, for wg
ATTEMPT_S = 0.001  # between attempts to talk to a daemon that starts


@dataclass(frozen=True, slots=True)
class Goal:
    """What wgpy's median has to stay below, in the figure's unit or in wireguard-go's medians."""

    ratio: float | None = None
    limit: float | None = None

    def is_met(self, ours: float, theirs: float | None) -> bool:
        """Tell whether both hold; without wireguard-go there is no ratio."""
        within_ratio = self.ratio is None or theirs is None or ours <= self.ratio * theirs
        return within_ratio and (self.limit is None or ours < self.limit)

    def __str__(self) -> str:
        """Write both, in a few characters."""
        limit = f"< {self.limit:g}" if self.limit is not None else ""
        ratio = f"<= {self.ratio:g}x" if self.ratio is not None else ""
        return ", ".join(filter(None, (limit, ratio)))


GOALS = {
    "start, ms": Goal(limit=300),
    "idle, MB": Goal(),
    "setconf, one peer's prefixes, ms": Goal(ratio=1.2),
    "show, one peer's prefixes, ms": Goal(ratio=1.2),
    "setconf, peers, ms": Goal(ratio=0.15),
    "show, peers, ms": Goal(ratio=1.2, limit=1000),
    "up with peers, MB": Goal(),
    "handshakes answered, 1/s": Goal(),
    "live among silent peers, ms": Goal(ratio=1),
    "all of them asked, ms": Goal(),
    "empty set without peers, ms": Goal(),
    "empty set among peers, ms": Goal(ratio=2),
    "change of one peer, ms": Goal(ratio=2),
    "one peer added, removed, ms": Goal(ratio=2),
    "half removed one by one, ms": Goal(ratio=1),
    "longest wait in setconf, ms": Goal(limit=20),
    "longest wait in syncconf, ms": Goal(limit=20),
    "longest wait in show, ms": Goal(limit=20),
    "longest wait in up, ms": Goal(limit=20),
    "longest wait in down, ms": Goal(limit=20),
    "storm of MTUs, % of a core": Goal(ratio=1),
    "longest wait in MTUs, ms": Goal(limit=20),
    "storm of routes, % of a core": Goal(ratio=1),
    "longest wait in routes, ms": Goal(limit=20),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Files for `wg setconf`, how many allowed IPs each of them has, and how many handshakes."""

    one_peer: Path
    prefixes: int
    many_peers: Path
    keys: list[str]  # of the peers in there
    initiators: int
    silent: int
    storm_s: float  # how long something changes elsewhere


def address(number: int) -> str:
    """Make a different one for each number."""
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32"


def write_settings(
    directory: Path, prefixes: int, peers: int, initiators: int, silent: int, storm_s: float
) -> Settings:
    """Write the two files."""
    interface = f"[Interface]\nPrivateKey = {run(['wg', 'genkey']).strip()}\n"
    one_peer, many_peers = directory / "one-peer", directory / "many-peers"
    lines = (f"AllowedIPs = {address(number)}\n" for number in range(prefixes))
    one_peer.write_text(f"{interface}[Peer]\nPublicKey = {random_key()}\n{''.join(lines)}")
    keys = [random_key() for _ in range(peers)]
    sections = (
        f"[Peer]\nPublicKey = {key}\nAllowedIPs = {address(number)}\n"
        for number, key in enumerate(keys)
    )
    many_peers.write_text(interface + "".join(sections))
    return Settings(one_peer, prefixes, many_peers, keys, initiators, silent, storm_s)


# ---- a daemon ----


def answers() -> bool:
    """Tell whether the daemon answers a get."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(os.fspath(SOCKET))
            client.sendall(b"get=1\n\n")
            return b"errno=0\n\n" in client.recv(4096)
        except OSError:
            return False


def wait_until_it_answers() -> None:
    """Wait for the daemon.  LabError: it does not answer."""
    deadline = time.monotonic() + START_S
    while not answers():
        if time.monotonic() > deadline:
            raise LabError("no answer from the daemon")
        time.sleep(ATTEMPT_S)


def no_process_is_left() -> bool:
    """Reap whatever ran in the background: as first process of our namespace we get it."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return True
    return False


def measure_start(implementation: Implementation) -> float:
    """Measure milliseconds from the command (to the background) until the daemon talks."""
    command = [word for word in implementation.command if word != "-f"]

    def start() -> None:
        subprocess.run(
            [*command, INTERFACE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=START_S,
            check=True,
        )
        wait_until_it_answers()

    taken_ms = milliseconds(start)
    run(["ip", "link", "delete", INTERFACE])
    until(no_process_is_left, "the end of the daemon", END_S)
    return taken_ms


@contextlib.contextmanager
def daemon(implementation: Implementation) -> Iterator[int]:
    """Run a daemon; gives its pid once it can be talked to."""
    process = subprocess.Popen(
        [*implementation.command, INTERFACE],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        wait_until_it_answers()
        yield process.pid
    finally:
        end(process)
        SOCKET.unlink(missing_ok=True)


def set_link(state: str) -> None:
    """Set it up or down."""
    run(["ip", "link", "set", INTERFACE, state])


# ---- measurements ----


def measure_setconf(settings: Path) -> float:
    """Measure milliseconds."""
    command = ["wg", "setconf", INTERFACE, os.fspath(settings)]
    return milliseconds(lambda: run(command, timeout_s=TOOL_S))


def measure_show(allowed_ips: int) -> float:
    """Measure milliseconds.  LabError: the daemon does not know so many allowed IPs."""
    shown = ""

    def show() -> None:
        nonlocal shown
        shown = run(["wg", "show", INTERFACE], timeout_s=TOOL_S)

    taken_ms = milliseconds(show)
    found = len(re.findall(r"\.\d+/32\b", shown))
    if found != allowed_ips:
        raise LabError(f"{found} allowed IPs are shown, not {allowed_ips}")
    return taken_ms


def measure(implementation: Implementation, settings: Settings) -> Figures:
    """Measure all figures, once; each part with a daemon of its own."""
    figures = {"start, ms": measure_start(implementation)}
    with daemon(implementation) as pid:
        set_link("up")
        figures["idle, MB"] = usage_of(pid).resident_mb
        set_link("down")
        figures["setconf, one peer's prefixes, ms"] = measure_setconf(settings.one_peer)
        figures["show, one peer's prefixes, ms"] = measure_show(settings.prefixes)
    with daemon(implementation) as pid:
        figures["setconf, peers, ms"] = measure_setconf(settings.many_peers)
        set_link("up")
        figures["show, peers, ms"] = measure_show(len(settings.keys))
        figures["up with peers, MB"] = usage_of(pid).resident_mb
        figures |= measure_small(INTERFACE, settings.keys)
    with daemon(implementation) as pid:
        figures["empty set without peers, ms"] = measure_empty(INTERFACE)
        figures |= measure_waits(INTERFACE, settings.many_peers)
        figures |= measure_storms(INTERFACE, pid, settings.storm_s)
    with daemon(implementation):
        figures["handshakes answered, 1/s"] = measure_answers(INTERFACE, settings.initiators)
    with daemon(implementation):
        live_ms, all_ms = measure_crowd(INTERFACE, settings.silent)
        figures |= {"live among silent peers, ms": live_ms, "all of them asked, ms": all_ms}
    return figures


def measure_in_turns(
    implementations: list[Implementation], settings: Settings, runs: int
) -> dict[str, list[Figures]]:
    """Measure by implementation.  Who begins changes with each run."""
    results: dict[str, list[Figures]] = {each.name: [] for each in implementations}
    for number in range(runs):
        for each in implementations[:: -1 if number % 2 else 1]:
            print(f"run {number + 1} of {runs}: {each.name}", file=sys.stderr)
            results[each.name].append(measure(each, settings))
    return results


def report(results: dict[str, list[Figures]]) -> bool:
    """Print a table; -> whether wgpy meets all goals."""
    print(f"{'median (least .. most)':34}" + "".join(f"{name:>28}" for name in results), end="")
    print(f"{'ratio':>8}  goal for wgpy")
    all_met = True
    for name, goal in GOALS.items():
        medians = []
        print(f"{name:34}", end="")
        for runs in results.values():
            values = [figures[name] for figures in runs]
            medians.append(statistics.median(values))
            spread = f"{medians[-1]:.1f} ({min(values):.1f} .. {max(values):.1f})"
            print(f"{spread:>28}", end="")
        ours, theirs = medians[0], medians[1] if len(medians) > 1 else None
        met = goal.is_met(ours, theirs)
        all_met = all_met and met
        ratio = "" if theirs is None else f"{ours / theirs:.2f}"
        print(f"{ratio:>8}  {goal}{'' if met else '  MISSED'}".rstrip())
    return all_met


def main() -> int:
    """Run the command; -> 0, or 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="bench-config", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of everything (default: 5)")
    parser.add_argument("--prefixes", type=int, default=PREFIXES, help="allowed IPs of one peer")
    parser.add_argument("--peers", type=int, default=PEERS, help="with an allowed IP each")
    parser.add_argument("--initiators", type=int, default=INITIATORS, help="peers that initiate")
    parser.add_argument("--silent", type=int, default=SILENT, help="peers that never answer")
    parser.add_argument("--storm", type=float, default=STORM_S, help="seconds of each (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    options = parser.parse_args()

    ours = shutil.which("wgpy", path=os.fspath(Path(sys.executable).parent))
    if ours is None:
        parser.error("wgpy is not installed beside this Python")
    implementations = [Implementation("wgpy", (ours, "-f"), run([ours, "--version"]).strip())]
    if (other := find_wireguard_go()) is not None:
        implementations.append(other)
    for each in implementations:
        print(f"{each.name}: {each.version}")
    try:
        with tempfile.TemporaryDirectory() as directory:
            numbers = options.prefixes, options.peers, options.initiators, options.silent
            settings = write_settings(Path(directory), *numbers, options.storm)
            results = measure_in_turns(implementations, settings, options.runs)
    except LabError as error:
        sys.exit(f"bench-config: {error}")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))
    print(
        f"{options.prefixes} prefixes, {options.peers} peers, {options.initiators} initiators, "
        f"{options.silent} silent peers, {options.runs} runs in turns"
    )
    return 0 if report(results) else 1


if __name__ == "__main__":
    sys.exit(main())
