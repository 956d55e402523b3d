# SPDX-License-Identifier: MIT
"""The completions that are checked in: current, and taken by each shell that is here."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from wgpy.ctl.cli import make_parser

DIRECTORY = Path(__file__).resolve().parent.parent.parent / "completions"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """The module that writes them."""
    spec = importlib.util.spec_from_file_location("make_completions", DIRECTORY / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["wgpyctl", "_wgpyctl", "wgpyctl.fish"])
def test_it_is_what_the_command_line_makes_of_it(maker: ModuleType, name: str) -> None:
    assert set(maker.FILES) == {path.name for path in DIRECTORY.glob("*wgpyctl*")}
    assert (DIRECTORY / name).read_text() == maker.make(maker.FILES[name]), (
        "run completions/make.py"
    )


@pytest.mark.parametrize(
    ("shell", "name"), [("bash", "wgpyctl"), ("zsh", "_wgpyctl"), ("fish", "wgpyctl.fish")]
)
def test_its_shell_can_read_it(shell: str, name: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"not installed: {shell}")
    done = subprocess.run(
        [shell, "-n", DIRECTORY / name], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# argv: the file, then the words so far, the last of which is to be completed.
COMPLETE = """
compopt() { :; }
. "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
$(complete -p wgpyctl | sed 's/.*-F \\([^ ]*\\).*/\\1/') wgpyctl "${COMP_WORDS[-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["wgpyctl", ""], {"status", "watch", "metrics", "doctor", "proxy"}),
        (["wgpyctl", "status", "--j"], {"--json"}),
        (["wgpyctl", "status", "w"], {"wg0", "wg1"}),
    ],
)
def test_bash_completes(words: list[str], expected: set[str], tmp_path: Path) -> None:
    wg = tmp_path / "wg"
    wg.write_text("#!/bin/sh\necho 'wg0 wg1 $(touch$IFS./x)'\n")
    wg.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", DIRECTORY / "wgpyctl", *words],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    assert expected <= set(done.stdout.split())
    assert not (tmp_path / "x").exists()


def test_every_command_is_in_each() -> None:
    usage = re.search(r"^  COMMAND\n(.*?)\n\n", make_parser().format_help(), re.DOTALL | re.M)
    assert usage is not None
    for command in re.findall(r"^    (\w+)", usage[1], re.MULTILINE):
        for path in DIRECTORY.glob("*wgpyctl*"):
            assert command in path.read_text(), path
