# SPDX-License-Identifier: MIT
"""The fuzz targets hold over their corpora, and what is planted for them still is in the core."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import TARGETS, Bug, bugs

RUN = Path(__file__).resolve().parent.parent / "fuzz/fuzzing.py"


@pytest.mark.parametrize("bug", bugs(), ids=lambda bug: f"{bug.file}: {bug.text}")
def test_a_bug_that_is_to_be_planted_finds_its_place(bug: Bug) -> None:
    assert bug.wrong in bug.planted()
    assert bug.target in TARGETS


def test_every_target_has_bugs_to_find() -> None:
    assert {bug.target for bug in bugs()} == set(TARGETS)


@pytest.mark.skipif(shutil.which("clang") is None, reason="not installed: clang")
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found_over_the_corpus(target: str) -> None:
    done = subprocess.run(
        [sys.executable, RUN, "--check", target], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
