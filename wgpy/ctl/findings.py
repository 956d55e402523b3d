# SPDX-License-Identifier: MIT
"""What the doctor found: one line each."""

from dataclasses import dataclass
from typing import Final

from wgpy.ctl.report import Paint
from wgpy.text import printable

OK: Final = "ok"
NOTE: Final = "note"
WARNING: Final = "warning"
ERROR: Final = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, and how it is: OK, or the severity of a diagnosis."""

    severity: str
    text: str


def format_finding(finding: Finding, paint: Paint) -> str:
    """Return its line."""
    return f"{paint(finding.severity, finding.severity)}: {printable(finding.text)}"
