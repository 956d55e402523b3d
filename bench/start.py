# SPDX-License-Identifier: MIT
"""What it takes to start, and what is resident then: installations of wgpy, one beside the other.

`scripts/bench-start` runs this alone in new network, mount and process namespaces.  The
installations take turns, as what else the machine does comes and goes.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.config import INTERFACE, daemon, set_link
from bench.lab import Implementation, LabError, random_key, run, usage_of
from bench.requests import milliseconds

Figures = dict[str, float]

# A private network, and a connection in it: what a program waits for before its first byte.
TUNNEL = """
import asyncio, ipaddress
from wgpy import Config, Tunnel

async def main():
    config = Config(bytes(range(32)), addresses=(ipaddress.ip_interface("10.9.0.1/24"),))
    async with Tunnel(config) as tunnel:
        listener = tunnel.socket()
        listener.bind(("10.9.0.1", 7))
        listener.listen()
        _, writer = await tunnel.open_connection("10.9.0.1", 7)
        writer.close()

asyncio.run(main())
"""


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="bench-start", description=__doc__)
    parser.add_argument("--runs", type=int, default=11, help="of everything (default: 11)")
    parser.add_argument(
        "commands",
        nargs="*",
        default=[os.fspath(Path(sys.executable).parent / "wgpy")],
        metavar="WGPY",
        help="bin/wgpy of an installation (default: the checkout's)",
    )
    options = parser.parse_args()
    try:
        results = measure_in_turns(options.commands, options.runs)
    except LabError as error:
        sys.exit(f"bench-start: {error}")
    report(results)
    return 0


def measure_in_turns(commands: Sequence[str], runs: int) -> dict[str, list[Figures]]:
    """Measure by command.  The first run of each warms caches and does not count."""
    results: dict[str, list[Figures]] = {command: [] for command in commands}
    for number in range(runs + 1):
        for command in commands[:: -1 if number % 2 else 1]:
            figures = measure(command)
            if number:
                results[command].append(figures)
    return results


def measure(command: str) -> Figures:
    """Measure each figure once."""
    directory = Path(command).parent
    python, ctl = (os.fspath(directory / name) for name in ("python3", "wgpyctl"))
    figures: Figures = {}
    start = time.perf_counter()
    with daemon(Implementation("wgpy", (command, "-f"), "")) as pid:
        figures["until get=1 is answered, ms"] = (time.perf_counter() - start) * 1e3
        figures["processor time of it, ms"] = usage_of(pid).cpu_s * 1e3
        set_link("up")
        figures |= memory_of(pid, "idle")
        run(["wg", "set", INTERFACE, "private-key", "/dev/stdin"], stdin=random_key())
        figures["wgpyctl status, ms"] = milliseconds(quietly(ctl, "status", INTERFACE))
        figures |= memory_of(pid, "with a key")
    figures["tunnel of a program, ms"] = milliseconds(quietly(python, "-I", "-c", TUNNEL))
    return figures


def quietly(*argv: str) -> Callable[[], object]:
    """Return what runs it."""
    return lambda: run(argv)


def memory_of(pid: int, state: str) -> Figures:
    """Read what is resident, and how much of that is its part of what it shares with others."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    resident_mb, share_mb = (kib[name] * 1.024e-3 for name in ("Rss", "Pss"))
    return {f"{state}: resident, MB": resident_mb, f"{state}: of that shared out (PSS)": share_mb}


def report(results: dict[str, list[Figures]]) -> None:
    """Print a table; ratios are to the first one."""
    for command in results:
        print(command)
    (first, *_) = results.values()
    for name in first[0]:
        medians = [statistics.median(run[name] for run in runs) for runs in results.values()]
        least = [min(run[name] for run in runs) for runs in results.values()]
        cells = (f"{a:10.1f} ({b:.1f})" for a, b in zip(medians, least, strict=True))
        ratios = "".join(f"{median / medians[0]:8.2f}" for median in medians[1:])
        print(f"{name:28}{''.join(cells)}{ratios}")


if __name__ == "__main__":
    sys.exit(main())
