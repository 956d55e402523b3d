# SPDX-License-Identifier: MIT
"""scripts/kernel-vm, as far as it goes without starting a machine."""

import subprocess
from pathlib import Path

import pytest

KERNEL_VM = Path(__file__).parent.parent / "scripts" / "kernel-vm"
FAILED = 125


def kernel_vm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [KERNEL_VM, *arguments], capture_output=True, text=True, check=False, timeout=30
    )


def test_help_names_every_option() -> None:
    shown = kernel_vm("--help")
    assert shown.returncode == 0
    for option in ("--check", "--force-vm", "--kernel PACKAGE[/SUITE]", "--in-memory FILE"):
        assert option in shown.stdout
    for option in ("--timeout SECONDS", "-- COMMAND"):
        assert option in shown.stdout


def test_check_says_where_a_command_would_run() -> None:
    assert kernel_vm("--check").stdout in ("host\n", "vm\n")


def test_check_obeys_force_vm() -> None:
    assert kernel_vm("--check", "--force-vm").stdout == "vm\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--",),
        ("--nonsense", "true"),
        ("--timeout", "soon", "true"),
        ("--timeout",),
        ("--in-memory", "/nonexistent", "true"),
        ("--kernel", "../../etc", "true"),
        ("--kernel",),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_starts(arguments: tuple[str, ...]) -> None:
    refused = kernel_vm(*arguments)
    assert refused.returncode == FAILED
    assert refused.stderr.startswith("kernel-vm: ")
