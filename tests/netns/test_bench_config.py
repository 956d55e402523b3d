# SPDX-License-Identifier: MIT
"""scripts/bench-config, small: all figures are there, and nothing of it stays."""

import json
import subprocess
import sys
from pathlib import Path

from netns.lab import ENVIRONMENT, SOCKETS, run

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = (ROOT / "scripts" / "bench-config").read_text()
# What the script does once all is installed: from `exec unshare` to its end.
MEASURE = SCRIPT[SCRIPT.index("exec unshare") :]


def test_it_measures_every_figure_and_leaves_nothing(tmp_path: Path) -> None:
    before = run(["ip", "-o", "link"]), sorted(SOCKETS.glob("wgbench*"))
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    bench = tmp_path / "bench"  # alone: the wgpy beside it is not the one that is installed
    bench.symlink_to(ROOT / "bench")
    results = tmp_path / "results.json"
    small = ["--runs", "1", "--prefixes", "300", "--peers", "20", "--initiators", "40"]
    small += ["--silent", "30", "--storm", "0.1", "--json", str(results)]
    done = subprocess.run(
        ["bash", "-euc", MEASURE, "bench-config", *small],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT | {"VENV": str(venv), "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr  # 1: a goal is missed, as on a busy machine
    figures = json.loads(results.read_text())["wgpy"][0]
    assert all(value > 0 for value in figures.values())
    assert all(name in done.stdout for name in figures)
    assert (run(["ip", "-o", "link"]), sorted(SOCKETS.glob("wgbench*"))) == before
