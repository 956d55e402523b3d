# SPDX-License-Identifier: MIT
"""What a release consists of, as far as that goes without building it: scripts/wheel does."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SDIST = "import setuptools.build_meta as build, sys; build.build_sdist(sys.argv[1])"
MADE = re.compile(r"PKG-INFO|setup\.cfg|wgpy\.egg-info/.*")  # in an sdist besides


def tracked() -> list[str]:
    """What git knows.  Skips the test where it knows nothing."""
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this is no checkout: {done.stderr}")
    return [name for name in done.stdout.split("\0") if (ROOT / name).is_file()]


@pytest.mark.skipif(shutil.which("git") is None, reason="not installed: git")
def test_the_sdist_has_all_that_git_knows_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    names = tracked()
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    (source / "wgpy/dataplane/_core.abi3.so").touch()
    (source / "tests/__pycache__").mkdir()
    (source / "tests/__pycache__/core.pyc").touch()
    subprocess.run(
        [sys.executable, "-c", SDIST, tmp_path],
        cwd=source,
        env={**os.environ, "CC": "true"},  # nothing is compiled
        capture_output=True,
        check=True,
    )
    (sdist,) = tmp_path.glob("wgpy-*.tar.gz")
    with tarfile.open(sdist) as archive:
        found = {file.name.partition("/")[2] for file in archive if not file.isdir()}
    assert {name for name in found if not MADE.fullmatch(name)} == set(names)


def test_the_debian_package_is_of_the_version_that_is_here() -> None:
    (version,) = re.findall('^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    packaged, *_ = re.findall(r"^wgpy \((.+)-", (ROOT / "debian/changelog").read_text(), re.M)
    assert packaged == version


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        (("wheel", "m68k"), "no wheels are made for 'm68k'"),
        (("wheel", "x86_64", "--help"), "no wheels are made for '--help'"),
        (("emulated", "m68k", "true"), "nothing is known of how to emulate 'm68k'"),
    ],
)
def test_a_machine_that_is_not_known_is_refused_before_anything_is_fetched(
    command: tuple[str, ...], refusal: str
) -> None:
    name, *arguments = command
    call = [str(ROOT / "scripts" / name), *arguments]
    refused = subprocess.run(call, capture_output=True, text=True, check=False, timeout=30)
    assert (refused.returncode, refused.stderr) == (1, f"{name}: {refusal}\n")


def test_the_version_has_one_home() -> None:
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None
    code = [*ROOT.glob("wgpy/**/*.py"), ROOT / "setup.py", *ROOT.glob("scripts/*")]
    assert [path for path in code if f'"{version[1]}"' in path.read_text()] == []
