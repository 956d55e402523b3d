# SPDX-License-Identifier: MIT
"""Writes docs/interop.md: how wgpy and other implementations get on, out of recorded test runs.

usage: scripts/interop-table [DIRECTORY]

DIRECTORY is what WGPY_INTEROP_RESULTS was when tests/interop ran, by default that of scripts/test:
it has one or two files for each peer, of what was done on the host and in the virtual machine.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "interop"
TABLE = ROOT / "docs" / "interop.md"
PEERS = {"kernel": "Linux kernel", "wireguard-go": "wireguard-go"}
WEIGHT = {"failed": 2, "passed": 1}  # any other outcome is the reason of a skip
HEAD = """\
# Interoperability

What the tests in `tests/interop` found, by the implementation that wgpy met.  Not for editing:
`scripts/interop-table` writes this page after `scripts/test`.  In the details of a case, "peer" is
the other implementation.  What the host's kernel lacks is done in a virtual machine.
"""


def main() -> int:
    """Returns the exit status."""
    if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    directory = Path(sys.argv[1]) if sys.argv[1:] else RESULTS
    try:
        results = [result for peer in PEERS for result in recorded(directory, peer)]
    except FileNotFoundError as error:
        print(f"interop-table: {error}", file=sys.stderr)
        return 1
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join([HEAD, *versions(results), "", *cases(results)]) + "\n")
    return 0


def recorded(directory: Path, peer: str) -> list[dict[str, Any]]:
    """Raises FileNotFoundError if the peer was met nowhere."""
    files = [directory / f"{peer}.json", directory / f"{peer}-vm.json"]
    found = [json.loads(file.read_text()) for file in files if file.exists()]
    if not found:
        raise FileNotFoundError(f"neither {files[0]} nor {files[1]} is there")
    return found


def versions(results: list[dict[str, Any]]) -> list[str]:
    lines = ["| peer | versions |", "| --- | --- |"]
    for result in results:
        text = ", ".join(f"{what} {version}" for what, version in result["versions"].items())
        lines.append(f"| {PEERS[result['peer']]} | {text} |")
    return lines


def cases(results: list[dict[str, Any]]) -> list[str]:
    lines = [f"| case | {' | '.join(PEERS.values())} |", "| --- " * (len(PEERS) + 1) + "|"]
    for case in dict.fromkeys(case for result in results for case in result["cases"]):
        outcomes = [shown(outcome(results, peer, case)) for peer in PEERS]
        lines.append(f"| {case} | {' | '.join(outcomes)} |")
    return lines


def outcome(results: list[dict[str, Any]], peer: str, case: str) -> str:
    """A failure anywhere is one, and a pass counts more than a skip; of skips, the first."""
    runs = [result["cases"] for result in results if result["peer"] == peer]
    outcomes = [run[case] for run in runs if case in run]
    return max(outcomes, key=lambda one: WEIGHT.get(one, 0), default="not there")


def shown(outcome: str) -> str:
    return {"passed": "pass", "failed": "**FAIL**"}.get(outcome, f"not run: {outcome}")


if __name__ == "__main__":
    sys.exit(main())
