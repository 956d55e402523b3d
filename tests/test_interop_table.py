# SPDX-License-Identifier: MIT
"""How tests/interop records what came of its cases, and the table that is made of it."""

import json
from pathlib import Path
from typing import Literal

import pytest
from interop import table
from interop.conftest import record

Phase = Literal["setup", "call", "teardown"]
SKIP = ("test_x.py", 1, "Skipped: this kernel has no netem")


def report(when: Phase, outcome: Literal["passed", "failed", "skipped"]) -> pytest.TestReport:
    longrepr = SKIP if outcome == "skipped" else None
    return pytest.TestReport("test_x", ("test_x.py", 1, "test_x"), {}, outcome, longrepr, when)


def recorded(*reports: pytest.TestReport) -> str:
    outcomes: dict[str, str] = {}
    for each in reports:
        record(outcomes, "case", each)
    return outcomes["case"]


def test_a_case_that_passed_is_recorded_so() -> None:
    passed = [report(when, "passed") for when in ("setup", "call", "teardown")]
    assert recorded(*passed) == "passed"


def test_a_case_that_skipped_itself_has_not_passed() -> None:
    reports = report("setup", "passed"), report("call", "skipped"), report("teardown", "passed")
    assert recorded(*reports) == "this kernel has no netem"


def test_a_case_that_was_skipped_from_the_start_says_why() -> None:
    assert recorded(report("setup", "skipped"), report("teardown", "passed")) == SKIP[2][9:]


@pytest.mark.parametrize("phase", ["setup", "call", "teardown"])
def test_a_case_fails_with_any_of_its_phases(phase: Phase) -> None:
    before = [report(when, "passed") for when in ("setup", "call") if when != phase]
    reports = [*before, report(phase, "failed")]
    if phase != "teardown":
        reports.append(report("teardown", "passed"))
    assert recorded(*reports) == "failed"


def test_the_table_has_a_row_for_each_case_and_a_column_for_each_peer() -> None:
    results = [
        {"peer": "kernel", "cases": {"one": "passed", "two": "failed"}},
        {"peer": "wireguard-go", "cases": {"one": SKIP[2][9:], "three": "passed"}},
    ]
    assert table.cases(results) == [
        "| case | Linux kernel | wireguard-go |",
        "| --- | --- | --- |",
        "| one | pass | not run: this kernel has no netem |",
        "| two | **FAIL** | not run: not there |",
        "| three | not run: not there | pass |",
    ]


@pytest.mark.parametrize(
    ("host", "machine", "both"),
    [
        ("no netem", "passed", "pass"),
        ("no netem", "failed", "**FAIL**"),
        ("passed", "the host will do", "pass"),
        ("failed", "passed", "**FAIL**"),
        ("passed", "failed", "**FAIL**"),
        ("no netem", "the host will do", "not run: no netem"),
    ],
)
def test_a_case_that_ran_anywhere_was_run_and_failed_if_it_failed_anywhere(
    host: str, machine: str, both: str
) -> None:
    results = [{"peer": "wireguard-go", "cases": {"one": found}} for found in (host, machine)]
    assert table.cases(results)[2:] == [f"| one | not run: not there | {both} |"]


def test_what_was_recorded_on_the_host_comes_before_the_virtual_machine(tmp_path: Path) -> None:
    for name in ("kernel-vm", "kernel"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"peer": name}))
    assert table.recorded(tmp_path, "kernel") == [{"peer": "kernel"}, {"peer": "kernel-vm"}]


def test_a_peer_without_any_record_makes_no_table(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"wireguard-go\.json"):
        table.recorded(tmp_path, "wireguard-go")
