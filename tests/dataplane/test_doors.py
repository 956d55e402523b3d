# SPDX-License-Identifier: MIT
"""What tests do to the core they do to a copy of their own (core.py)."""

import subprocess
import sys

from wgpy.dataplane._core import lib

LIST_NAMES = "from wgpy.dataplane._core import lib; print(*dir(lib))"


def test_what_is_installed_is_the_core_without_doors() -> None:
    command = [sys.executable, "-c", LIST_NAMES]
    listed = subprocess.run(command, check=True, capture_output=True, text=True)
    installed, ours = set(listed.stdout.split()), set(dir(lib))
    assert {name for name in installed if not name.startswith(("wg_", "WG_"))} == set()
    assert {name for name in ours if name.startswith(("door_", "fault_"))} != set()
    assert installed <= ours
