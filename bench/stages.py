# SPDX-License-Identifier: MIT
"""Builds and runs stages.c: what each stage of the packet path costs per packet.

Nanoseconds need a quiet machine.  Instructions, counted by callgrind, repeat exactly for one
compiler and one set of libraries, so a change of the code shows; callgrind's processor has AVX2 at
most, so the AEAD that it counts may not be the one that runs elsewhere.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGES = (
    *("seal", "seal_small", "open", "open_small", "segment", "coalesce", "checksum", "replay"),
    *("lookup_one", "lookup4", "lookup6"),
)
SEALED_LEN = 1408  # bytes of the packet that `seal` seals: 1400, padded
FASTEST = "-"  # of the AEADs
ROUNDS = 4000
COUNTED_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage's cost per packet: the least and the median of all rounds, in nanoseconds."""

    name: str
    least_ns: float
    median_ns: float
    instructions: float | None = None


@contextmanager
def program() -> Iterator[Path]:
    """Compile the benchmark, while the context lasts.  CalledProcessError: it won't build."""
    from wgpy.dataplane.build import link  # works in a checkout only

    with tempfile.TemporaryDirectory(prefix="wgpy-stages-") as directory:
        path = Path(directory, "stages")
        link(path, str(ROOT / "bench/stages.c"))
        yield path


def measure(path: Path, aead: str = FASTEST, names: Sequence[str] = STAGES) -> list[Stage]:
    """Measure what the stages take.  CalledProcessError: no such AEAD here."""
    done = subprocess.run(
        [path, aead, str(ROUNDS), *names],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    return [parse(line) for line in done.stdout.splitlines()]


def parse(line: str) -> Stage:
    """Read one line that stages.c printed."""
    name, _packets, least, median = line.split()
    return Stage(name, float(least), float(median))


def count(path: Path, aead: str, name: str) -> float:
    """Count instructions per packet, by callgrind."""
    done = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
            *(f"--toggle-collect=run_{name}", path, aead, str(COUNTED_ROUNDS), name),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return collected(done.stderr) / (COUNTED_ROUNDS * int(done.stdout.split()[1]))


def collected(log: str) -> int:
    """Read the number of instructions in callgrind's closing words.  ValueError: there is none."""
    match = re.search(r"Collected : (\d+)", log)
    if match is None or match[1] == "0":
        raise ValueError("callgrind counted nothing")
    return int(match[1])


def table(stages: Sequence[Stage]) -> str:
    """Write it for the terminal."""
    lines = [f"{'stage':12}{'ns least':>10}{'median':>10}{'instructions':>14}  per packet"]
    for stage in stages:
        instructions = "" if stage.instructions is None else f"{stage.instructions:.1f}"
        lines.append(
            f"{stage.name:12}{stage.least_ns:10.1f}{stage.median_ns:10.1f}{instructions:>14}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `scripts/bench-stages`."""
    parser = argparse.ArgumentParser(prog="scripts/bench-stages", description=__doc__)
    parser.add_argument("--instructions", action="store_true", help="count them, with callgrind")
    parser.add_argument("--aead", default=FASTEST, help="a backend's name (default: the fastest)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    options = parser.parse_args(argv)
    names = options.stages or STAGES
    if unknown := set(names) - set(STAGES):
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    with program() as path:
        stages = measure(path, options.aead, names)
        if options.instructions:
            stages = [
                Stage(s.name, s.least_ns, s.median_ns, count(path, options.aead, s.name))
                for s in stages
            ]
    print(table(stages))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(s) for s in stages], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
