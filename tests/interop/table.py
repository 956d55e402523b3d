"""Writes docs/interop.md: how wgpy and other implementations get on, out of recorded test runs.

usage: scripts/interop-table DIRECTORY

DIRECTORY is what WGPY_INTEROP_RESULTS was when tests/interop ran: it has one file for each peer.
"""

import json
import sys
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[2] / "docs" / "interop.md"
PEERS = {"kernel": "Linux kernel", "wireguard-go": "wireguard-go"}
HEAD = """\
# Interoperability

What the tests in `tests/interop` found, by the implementation that wgpy met.  `scripts/test` writes
this page with `scripts/interop-table`; it is not for editing.  In the details of a case, "peer" is
the other implementation.
"""


def main() -> int:
    """Returns the exit status."""
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        results = [json.loads(Path(sys.argv[1], f"{peer}.json").read_text()) for peer in PEERS]
    except OSError as error:
        print(f"interop-table: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join([HEAD, *versions(results), "", *cases(results)]) + "\n")
    return 0


def versions(results: list[dict[str, Any]]) -> list[str]:
    lines = ["| peer | versions |", "| --- | --- |"]
    for result in results:
        text = ", ".join(f"{what} {version}" for what, version in result["versions"].items())
        lines.append(f"| {PEERS[result['peer']]} | {text} |")
    return lines


def cases(results: list[dict[str, Any]]) -> list[str]:
    lines = [f"| case | {' | '.join(PEERS.values())} |", "| --- " * (len(PEERS) + 1) + "|"]
    for case in dict.fromkeys(case for result in results for case in result["cases"]):
        outcomes = [shown(result["cases"].get(case, "not there")) for result in results]
        lines.append(f"| {case} | {' | '.join(outcomes)} |")
    return lines


def shown(outcome: str) -> str:
    return {"passed": "pass", "failed": "**FAIL**"}.get(outcome, f"not run: {outcome}")


if __name__ == "__main__":
    sys.exit(main())
