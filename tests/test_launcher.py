# SPDX-License-Identifier: MIT
"""The commands `wgpy` and `wgpyctl`, which root runs: no code is from where the caller says."""

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).parent / "wgpy"
MODULES = "sitecustomize", "usercustomize", "wgpy", "argparse", "runpy"  # some that are imported


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A directory of modules that tell when they are run."""
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text("print('foreign')\n")
    return tmp_path


def run(
    environment: dict[str, str],
    argument: str = "--version",
    *,
    command: str | Path = COMMAND,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [command, argument],
        capture_output=True,
        text=True,
        timeout=20,
        env=os.environ | environment,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
    )


def assert_is_wgpy(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("wgpy ")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("variable", ["PYTHONPATH", "PYTHONHOME", "PYTHONPLATLIBDIR"])
def test_python_takes_no_path_from_the_environment(variable: str, foreign: Path) -> None:
    assert_is_wgpy(run({variable: str(foreign)}))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PYTHONSTARTUP", "sitecustomize.py"),
        ("PYTHONINSPECT", "1"),
        ("PYTHONVERBOSE", "1"),
        ("PYTHONWARNINGS", "error::sitecustomize.Foreign"),
        ("PYTHONIOENCODING", "rot13"),
    ],
)
def test_nor_ways_to_go(variable: str, value: str, foreign: Path) -> None:
    assert_is_wgpy(run({variable: value}, cwd=foreign))


def test_it_takes_no_module_from_the_directory_it_is_run_in(foreign: Path) -> None:
    assert_is_wgpy(run({"PYTHONSAFEPATH": ""}, cwd=foreign))


def test_it_takes_no_module_from_a_home_directory(foreign: Path) -> None:
    packages = Path(site.getusersitepackages()).relative_to(site.getuserbase())
    (foreign / packages.parent).mkdir(parents=True)
    (foreign / packages).symlink_to(foreign)
    assert_is_wgpy(run({"PYTHONUSERBASE": str(foreign), "HOME": str(foreign)}))


def test_it_may_be_linked_to(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(COMMAND)
    (tmp_path / "wgpy").symlink_to("link")
    assert_is_wgpy(run({}, command=tmp_path / "wgpy"))


def test_wgpyctl_is_as_isolated(foreign: Path) -> None:
    command, link = COMMAND.with_name("wgpyctl"), foreign / "linked"
    link.symlink_to(command)
    for name in (command, link):
        done = run({"PYTHONPATH": str(foreign), "PYTHONHOME": str(foreign)}, "--help", command=name)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: wgpyctl ")


def test_it_is_found_by_path_as_well_as_by_name() -> None:
    assert_is_wgpy(run({"PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}, command="wgpy"))
    assert_is_wgpy(run({}, command="./wgpy", cwd=COMMAND.parent))
