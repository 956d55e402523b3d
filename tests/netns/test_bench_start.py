# SPDX-License-Identifier: MIT
"""scripts/bench-start, of two installations: each figure is there, and nothing of it stays."""

import subprocess
import sys
from pathlib import Path

from netns.lab import BIN, ENVIRONMENT, SOCKETS, run

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = (ROOT / "scripts" / "bench-start").read_text()
# What the script does once all is installed: from `exec unshare` to its end.
MEASURE = SCRIPT[SCRIPT.index("exec unshare") :].replace('"$VENV/bin/python"', sys.executable)
FIGURES = 8


def test_it_measures_installations_in_turns_and_leaves_nothing(tmp_path: Path) -> None:
    before = run(["ip", "-o", "link"]), sorted(SOCKETS.glob("wgbench*"))
    bench = tmp_path / "bench"  # alone: the wgpy beside it is not the one that is installed
    bench.symlink_to(ROOT / "bench")
    commands = BIN / "wgpy", BIN / ".." / BIN.name / "wgpy"
    done = subprocess.run(
        ["bash", "-euc", MEASURE, "bench-start", "--runs", "1", *commands],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT | {"PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line for line in done.stdout.splitlines() if not line.startswith("/")]
    assert len(rows) == FIGURES
    assert all(float(row.split()[-1]) > 0 for row in rows)  # of the second, of the first's
    assert (run(["ip", "-o", "link"]), sorted(SOCKETS.glob("wgbench*"))) == before
