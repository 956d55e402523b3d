# SPDX-License-Identifier: MIT
"""scripts/suite and who calls it, as far as that goes without fetching a system."""

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
FAILED = 125


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("trixie",),
        ("", "true"),
        ("../trixie", "true"),
        ("Trixie", "true"),
        ("--bare", "trixie"),
        ("--bare", "../trixie", "true"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_fetched(
    arguments: tuple[str, ...],
) -> None:
    command = [str(SCRIPTS / "suite"), *arguments]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert refused.returncode == FAILED
    assert refused.stderr.startswith("suite: ")


@pytest.mark.parametrize(
    ("version", "codename", "expected"),
    [
        ("3.14", "bookworm", "forky\n"),
        ("3.13", "bookworm", "trixie\n"),
        ("3.11", "trixie", "bookworm\n"),
        ("3.14", "forky", ""),
        ("3.12", "bookworm", ""),
    ],
)
def test_a_python_that_is_not_here_is_that_of_another_suite(
    version: str, codename: str, expected: str
) -> None:
    script = f'. "$0/lib.sh"; wgpy_suite_with_python {version} {codename}'
    done = subprocess.run(
        ["bash", "-c", script, SCRIPTS], capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0, done.stdout) == (expected != "", expected)
