"""The manual page: well-formed, and it says all that the command knows and nothing else."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from wgpy.daemon import cli, run

PAGE = Path(__file__).resolve().parent.parent / "man" / "wgpy.8"
# These depend on the manual pages of the host.
OF_THE_HOST = re.compile(r"referenced manual not found|outdated mandoc\.db")


def section(name: str) -> str:
    found = re.search(rf"^\.Sh {name}\n(.*?)(?=^\.Sh |\Z)", PAGE.read_text(), re.DOTALL | re.M)
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
def test_mandoc_has_nothing_to_say_about_it() -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", PAGE], capture_output=True, text=True, timeout=20, check=False
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
    assert set(re.findall(r"^\.Cm (\w+)", levels, re.MULTILINE)) == set(cli.LOG_LEVELS)
