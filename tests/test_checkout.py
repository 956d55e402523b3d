# SPDX-License-Identifier: MIT
"""A checkout: whatever its path, nothing in it is changed by its use, and it says what it lacks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "wgpy")


def test_a_checkout_that_is_not_built_says_what_to_do(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "wgpy", tmp_path / "wgpy", ignore=shutil.ignore_patterns("*.so"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, "-c", "import wgpy.daemon.cli"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        f"ImportError: {tmp_path} is a checkout of wgpy in which nothing is built"
    )
    assert "`pip install -e`" in last


@pytest.mark.parametrize("tests", ["dataplane/test_checksum.py", "hostile"])
def test_without_a_compiler_the_tests_of_the_core_are_skipped_and_say_why(tests: str) -> None:
    collect = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only")
    done = subprocess.run(
        [*collect, "-rs", ROOT / "tests" / tests],
        env={**os.environ, "CC": "/nowhere/cc"},
        capture_output=True,
        text=True,
        check=False,
    )
    skips = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert len(skips) == 1
    assert "there is no C compiler '/nowhere/cc' (Debian: install gcc and libc6-dev)" in skips[0]
    assert " error" not in done.stdout + done.stderr


def test_running_the_tests_writes_no_page() -> None:
    tox = (ROOT / "pyproject.toml").read_text().partition("[tool.tox]")[2]
    assert "docs/" not in tox
    assert "interop-table" not in tox


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="not installed: qemu")
@pytest.mark.skipif(
    not any(CACHE.glob("kernel-*")), reason="scripts/kernel-vm never fetched a kernel"
)
def test_the_virtual_machine_sees_a_checkout_under_tmp_with_blanks_in_its_name(
    tmp_path: Path,
) -> None:
    checkout = tmp_path / "it's a checkout, here"
    (checkout / "scripts").mkdir(parents=True)
    for name in ("kernel-vm", "lib.sh"):
        shutil.copy(ROOT / "scripts" / name, checkout / "scripts")
    (checkout / "said").write_text("from the host")
    command = "cat said; echo from the machine >said; pwd"
    done = subprocess.run(
        [
            checkout / "scripts" / "kernel-vm",
            "--force-vm",
            "--timeout",
            "300",
            "--",
            "sh",
            "-c",
            command,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"from the host{checkout}\n"), done.stderr
    assert (checkout / "said").read_text() == "from the machine\n"
