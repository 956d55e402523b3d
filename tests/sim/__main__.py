# SPDX-License-Identifier: MIT
"""Run seeds of the simulation: `PYTHONPATH=tests python -m sim --help`."""

import argparse
import os
import sys
import time
from multiprocessing import Pool

from sim.monitor import Broken
from sim.storm import Outcome, replay, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sim", description=__doc__)
    parser.add_argument("seed", type=int, help="the only seed, or the first")
    parser.add_argument("--count", type=int, default=0, help="run so many seeds from there on")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes to run them")
    options = parser.parse_args()
    if not options.count:
        print(run(options.seed, print))
        return 0
    return run_many(range(options.seed, options.seed + options.count), options.jobs)


def run_many(seeds: range, jobs: int) -> int:
    """Run seeds and sum up; -> 1 when there was one that broke a rule."""
    begin = time.monotonic()
    done, broken = [], 0
    with Pool(jobs) as pool:
        for result in pool.imap_unordered(attempt, seeds, chunksize=4):
            if isinstance(result, Outcome):
                done.append(result)
            else:
                broken += 1
                print(result, flush=True)
    minutes = (time.monotonic() - begin) / 60
    print(
        f"{len(seeds)} seeds, {broken} broke a rule; {len(seeds) / minutes:.0f} a minute; "
        f"{sum(o.simulated_s for o in done) / 3600:.0f} hours simulated, "
        f"{sum(o.handshakes for o in done)} sessions, {sum(o.datagrams for o in done)} datagrams, "
        f"{sum(o.payloads for o in done)} payloads delivered"
    )
    return 1 if broken else 0


def attempt(seed: int) -> Outcome | str:
    try:
        return run(seed)
    except Exception as error:  # whatever it is, the seed is worth a look
        kind = "" if isinstance(error, Broken) else f"{type(error).__name__}: "
        return f"seed {seed}: {kind}{error}; replay: {replay(seed)}"


if __name__ == "__main__":
    sys.exit(main())
