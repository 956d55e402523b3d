# SPDX-License-Identifier: MIT
"""Measures wgpy beside its peers, alternating; writes what docs/ and the README show of it.

A topology of its own: two network namespaces, a cable, a tunnel; more beside them for what is
forwarded.  In each round each implementation is brought up, goes through all cases, and is taken
down.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench import chart, stages
from bench.cases import (
    ABLATED,
    CASES,
    Case,
    Figures,
    can_count_syscalls,
    count_syscalls,
    soak,
    tool_versions,
)
from bench.lab import (
    Implementation,
    LabError,
    NotApplicable,
    find_kernel,
    find_tailscale,
    find_wireguard_go,
    first_line,
)
from bench.report import ALL_OFF, WGPY, Report, Results, Sample, verdicts
from bench.summary import HEADLINES, summary
from bench.topology import Tunnel, cable, tunnel
from wgpy.dataplane.plane import aead_backends

SWITCHES = "WGPY_TUN_OFFLOAD", "WGPY_UDP_GSO", "WGPY_UDP_GRO", "WGPY_VNET_HDR"
END_SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    rounds: int
    seconds: int
    only: tuple[str, ...]  # cases
    peers: tuple[str, ...]  # NAME or NAME=COMMAND
    ablate: bool
    pin: bool
    soak_s: float  # 0: none
    output: Path


def parse(argv: Sequence[str]) -> Options:
    """Read the options.  Raises SystemExit after help, or one line about what is wrong."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--rounds", type=int, default=5, metavar="N", help="default 5")
    add("--seconds", type=int, default=3, metavar="S", help="per case; default 3")
    names = ", ".join(case.name for case in CASES)
    add("--only", default="", metavar="CASE,...", help=f"of {names}")
    add(
        "--peer",
        action="append",
        default=[],
        metavar="NAME[=COMMAND]",
        help="wireguard-go, tailscale or kernel: only that one of those found; or one more to "
        "measure, whose COMMAND takes the interface's name and stays in the foreground",
    )
    add("--ablate", action="store_true", help="wgpy with each offload off, and with OpenSSL, too")
    add("--pin", action="store_true", help="one daemon on core 0, the other on core 1")
    add("--soak", type=float, default=0, metavar="S", help="then watch wgpy's memory so long")
    add(
        "--output",
        type=Path,
        default=Path("build/bench"),
        metavar="DIR",
        help="default build/bench",
    )
    given = parser.parse_args(argv)
    only = tuple(filter(None, given.only.split(","))) or tuple(case.name for case in CASES)
    if unknown := set(only) - {case.name for case in CASES}:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    if given.rounds < 1 or given.seconds < 1 or given.soak < 0:
        parser.error("at least one round and one second")
    peers = tuple(given.peer)
    return Options(
        *(given.rounds, given.seconds, only, peers, given.ablate, given.pin, given.soak),
        output=given.output,
    )


# ---- who is measured ----


def find_wgpy() -> Implementation:
    """Find that of this Python's environment.  LabError: there is none."""
    command = Path(sys.executable).parent / "wgpy"
    if not command.exists():
        raise LabError("wgpy is not installed beside this python")
    return Implementation(WGPY, (str(command), "-f"), first_line([str(command), "--version"]))


def find_peers(wanted: Sequence[str]) -> list[Implementation]:
    """Find all, or those named, and add those given.  LabError: a named one isn't here."""
    found = list(filter(None, (find_wireguard_go(), find_tailscale(), find_kernel())))
    named = [name for name in wanted if "=" not in name]
    if missing := set(named) - {peer.name for peer in found}:
        raise LabError(f"not here: {', '.join(sorted(missing))}")
    kept = [peer for peer in found if not named or peer.name in named]
    return [*kept, *(given_peer(text) for text in wanted if "=" in text)]


def given_peer(text: str) -> Implementation:
    """Read NAME=COMMAND.  LabError: it isn't that."""
    name, _, command = text.partition("=")
    words = tuple(shlex.split(command))
    if not name or not words or shutil.which(words[0]) is None:
        raise LabError(f"--peer {text}: there is no such command")
    version = first_line([words[0], "--version"]) or "unknown version"
    return Implementation(name, words, f"{version}, as `{command}`")


def ablations(wgpy: Implementation) -> list[Implementation]:
    """Make variants of wgpy: with each of its offloads off, all of them, and the portable AEAD."""
    environments = {f"{WGPY}, {switch}=0": {switch: "0"} for switch in SWITCHES}
    environments[ALL_OFF] = dict.fromkeys(SWITCHES, "0")
    environments[f"{WGPY}, WGPY_AEAD=openssl"] = {"WGPY_AEAD": "openssl"}
    return [
        replace(wgpy, name=name, environment=environment)
        for name, environment in environments.items()
    ]


# ---- measuring ----


class Bench:
    """The rounds."""

    def __init__(self, options: Options, measured: Sequence[Implementation]) -> None:
        """Measure these; the first is wgpy."""
        self._options = options
        self._measured = measured
        self._counts_syscalls = can_count_syscalls()
        self.samples: list[Sample] = []

    def run(self) -> None:
        """Run all of them; failures are samples with an error."""
        for number in range(1, self._options.rounds + 1):
            for implementation in self._measured:
                self._measure_all(number, implementation)

    def _cases(self, implementation: Implementation) -> list[Case]:
        is_ablation = bool(implementation.environment)
        return [
            case
            for case in CASES
            if case.name in self._options.only and (case.name in ABLATED or not is_ablation)
        ]

    def _measure_all(self, number: int, implementation: Implementation) -> None:
        cases = self._cases(implementation)
        try:
            with tunnel(implementation, self._options.pin) as up:
                while cases:
                    self._measure(number, up, cases[0])
                    cases.pop(0)
        except LabError as error:  # it does not come up, or it broke: the rest cannot be measured
            for case in cases:
                self._keep(Sample(number, implementation.name, case.name, {}, str(error)))

    def _measure(self, number: int, up: Tunnel, case: Case) -> None:
        name, seconds = up.implementation.name, self._options.seconds
        try:
            figures = case.measure(up, seconds)
            if number == 1 and self._counts_syscalls and up.pids and case.headers is not None:
                figures = figures | count_syscalls(up, case.options, case.headers)
        except NotApplicable as error:
            say(f"{name} {case.name}: left out, {error}")
        except LabError as error:
            self._keep(Sample(number, name, case.name, {}, str(error)))
            up.check()
        else:
            self._keep(Sample(number, name, case.name, figures))

    def _keep(self, sample: Sample) -> None:
        self.samples.append(sample)
        figures = " ".join(f"{name}={value:.4g}" for name, value in sample.figures.items())
        say(f"round {sample.round} {sample.implementation} {sample.case}: {sample.error}{figures}")


def measure_soak(options: Options, wgpy: Implementation) -> list[Figures]:
    """Measure wgpy's memory over time, [] if that is not asked for."""
    if options.soak_s == 0:
        return []
    say(f"soak: {options.soak_s:.0f} s")
    with tunnel(wgpy, options.pin) as up:
        return soak(up, options.soak_s)


def measure_seal() -> float:
    """Measure the nanoseconds to seal a packet of `transmit`, and nothing else."""
    with stages.program() as path:
        return stages.measure(path, names=["seal"])[0].median_ns


def say(text: str) -> None:
    """Tell of progress, for those who wait."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


# ---- telling ----


def cpu_model() -> str:
    """Tell how the kernel names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


def header(argv: Sequence[str]) -> dict[str, str]:
    """Tell what one has to know to judge the figures."""
    switches = [f"{name}={value}" for name, value in os.environ.items() if name[:5] == "WGPY_"]
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": f"`{shlex.join([*switches, 'scripts/bench', *argv])}`",
        "kernel": f"Linux {platform.release()} {platform.machine()}",
        "processor": f"{cpu_model()}, {os.cpu_count()} cores",
        "AEAD of wgpy": os.environ.get("WGPY_AEAD") or aead_backends()[0],
        **tool_versions(),
    }


def write(report: Report, measured: Sequence[Implementation], directory: Path) -> None:
    """Write the five files."""
    directory.mkdir(parents=True, exist_ok=True)
    results = report.results
    document = {
        "header": report.header,
        "implementations": [asdict(implementation) for implementation in measured],
        "samples": [asdict(sample) for sample in results.samples],
        "seal_ns": results.seal_ns,
        "soak": results.soak,
        "targets": verdicts(results),
    }
    (directory / "bench.json").write_text(json.dumps(document, indent=1) + "\n")
    (directory / "bench.md").write_text(report.markdown())
    (directory / "summary.md").write_text(summary(results, report.peers))
    (directory / "headlines.md").write_text(summary(results, report.peers, HEADLINES))
    if not chart.draw(results, [WGPY, *report.peers], directory / "bench.svg"):
        say("no chart: matplotlib is not installed")


def raise_exit(number: int, _frame: FrameType | None) -> NoReturn:
    """Unwind everything; a second signal does not disturb that."""
    for each in END_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main(argv: Sequence[str]) -> int:
    """Run the command `scripts/bench`; 1 if something could not be measured."""
    options = parse(argv)
    if os.geteuid() != 0:
        raise SystemExit("bench: network namespaces need root")
    for number in END_SIGNALS:
        signal.signal(number, raise_exit)
    try:
        report, measured = measure(options, argv)
    except LabError as error:
        raise SystemExit(f"bench: {error}") from error
    write(report, measured, options.output)
    print(report.markdown())
    return 1 if any(sample.error for sample in report.results.samples) else 0


def measure(options: Options, argv: Sequence[str]) -> tuple[Report, list[Implementation]]:
    """Measure everything that was asked for.  LabError: it cannot even begin."""
    wgpy = find_wgpy()
    compared = [wgpy, *find_peers(options.peers)]
    for each in compared:
        say(f"{each.name}: {each.version}")
    ablated = ablations(wgpy) if options.ablate else []
    seal_ns = measure_seal() if "transmit" in options.only else None
    with cable():
        bench = Bench(options, [*compared, *ablated])
        bench.run()
        memory = measure_soak(options, wgpy)
    errors = (f"{s.implementation} {s.case}: {s.error}" for s in bench.samples if s.error)
    report = Report(
        header=header(argv),
        versions={each.name: each.version for each in compared},
        ablations=[each.name for each in ablated],
        results=Results(bench.samples, memory, seal_ns),
        notes=list(dict.fromkeys(errors)),
    )
    return report, [*compared, *ablated]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
