# SPDX-License-Identifier: MIT
"""The manual pages: well-formed, and they say all that the commands know and nothing else."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from wgpy.ctl import cli as ctl_cli
from wgpy.ctl import keeping, named, outcome
from wgpy.ctl import proxy as ctl_proxy
from wgpy.daemon import cli, run
from wgpy.diagnosis import Code
from wgpy.log import LEVELS

MAN = Path(__file__).resolve().parent.parent / "man"
PAGE, CTL_PAGE = PAGES = MAN / "wgpy.8", MAN / "wgpyctl.8"
# These depend on the manual pages of the host.
OF_THE_HOST = re.compile(r"referenced manual not found|outdated mandoc\.db")


def section(name: str, page: Path = PAGE) -> str:
    found = re.search(rf"^\.Sh {name}\n(.*?)(?=^\.Sh |\Z)", page.read_text(), re.DOTALL | re.M)
    assert found is not None, f"no section {name}"
    return found[1]


def items(text: str, macro: str) -> set[str]:
    """The names with a paragraph of their own: `.It Ev NAME`, `.It Fl f , Fl -foreground`."""
    lines = re.findall(r"^\.It (.*)$", text, re.MULTILINE)
    return {name for line in lines for name in re.findall(rf"\b{macro} (\S+)", line)}


def variables_of(module: object) -> set[str]:
    """String constants that look like names of environment variables."""
    path = getattr(module, "__file__", None)
    assert isinstance(path, str)
    nodes = ast.walk(ast.parse(Path(path).read_text()))
    values = (node.value for node in nodes if isinstance(node, ast.Constant))
    texts = (value for value in values if isinstance(value, str))
    return {text for text in texts if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", text)}


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="not installed: mandoc")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_has_nothing_to_say_about_it(page: Path) -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", page], capture_output=True, text=True, timeout=20, check=False
    )
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if not OF_THE_HOST.search(line)] == []


def test_it_has_every_section_that_an_administrator_looks_for() -> None:
    for name in ("NAME", "SYNOPSIS", "FILES", "SIGNALS", "EXIT STATUS", "EXAMPLES", "SECURITY"):
        assert section(name)


def test_it_has_every_variable_and_no_other() -> None:
    known = {str(name) for name in variables_of(cli) | variables_of(run)}
    assert "LOG_LEVEL" in known
    assert items(section("ENVIRONMENT"), "Ev") == known


def test_it_has_every_option_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse(["--help"], {})
    options = capsys.readouterr().out.partition("options:")[2].partition("environment:")[0]
    known = set(re.findall(r"^  (-\w)", options, re.M)) | set(re.findall(r" (--[\w-]+)", options))
    assert {"-f", "--version"} <= known
    assert {f"-{name}" for name in items(section("DESCRIPTION"), "Fl")} == known


def test_it_names_every_log_level() -> None:
    levels = section("ENVIRONMENT").partition(".It Ev LOG_LEVEL")[2].partition(".It")[0]
    assert set(re.findall(r"^\.Cm (\w+)", levels, re.MULTILINE)) == set(LEVELS)


# ---- of wgpyctl ----


def test_that_of_wgpyctl_has_every_section_that_an_administrator_looks_for() -> None:
    common = ("NAME", "SYNOPSIS", "FILES", "SIGNALS", "EXIT STATUS", "EXAMPLES", "SECURITY")
    for name in (*common, "METRICS"):
        assert section(name, CTL_PAGE)


def test_it_has_every_command_and_option_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    commands = items(section("DESCRIPTION", CTL_PAGE), "Cm")
    assert commands == {"status", "watch", "metrics", "doctor", "proxy", "exec"}
    known: set[str] = set()
    for command in commands:
        with pytest.raises(SystemExit):
            ctl_cli.main([command, "--help"])
        known |= set(re.findall(r"(?<=[ \[])--?\w[\w-]*", capsys.readouterr().out))
    assert {f"-{name}" for name in items(section("DESCRIPTION", CTL_PAGE), "Fl")} == known


def test_it_has_every_exit_status_and_no_other() -> None:
    known = {str(value) for name, value in vars(outcome).items() if name.startswith("EXIT_")}
    assert set(re.findall(r"^\.It (\d+)$", section("EXIT STATUS", CTL_PAGE), re.M)) == known
    assert set(re.findall(r"^  (\d+)  ", ctl_cli.EXIT_STATUS, re.M)) == known


def test_it_has_every_code_with_its_severity_and_no_other() -> None:
    rows = re.findall(r"^\.It Sy (\S+) Pq (\w+)$", section("DIAGNOSTICS", CTL_PAGE), re.M)
    assert rows == [(str(code), str(code.severity)) for code in Code]


def test_it_has_every_metric_and_no_other() -> None:
    metrics = (Path(ctl_cli.__file__).parent / "metrics.py").read_text()
    known = set(re.findall(r'"((?:wireguard|wgpy)_\w+)"', metrics))
    assert len(known) > 5
    assert set(re.findall(r"\b(?:wireguard|wgpy)_\w+", section("METRICS", CTL_PAGE))) == known


def test_it_has_every_variable_that_wgpyctl_reads_and_no_other() -> None:
    readers = (outcome, ctl_proxy, named, keeping)
    known = {str(name) for one in readers for name in variables_of(one)}
    known |= {"TERM", "JOURNAL_STREAM"}
    assert items(section("ENVIRONMENT", CTL_PAGE), "Ev") == known
