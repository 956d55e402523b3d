# SPDX-License-Identifier: MIT
"""Tests of tunnels without privileges; root makes what they need around them."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from rootless.lab import as_nobody

NEEDED = ("setpriv", "unshare", "ip", "ping")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = what_is_missing() if ours else None
    for item in ours:
        item.add_marker(pytest.mark.netns)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@functools.cache
def what_is_missing() -> str | None:
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    if os.geteuid() != 0:
        return "to become nobody takes root"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    if missing:
        return f"not installed: {', '.join(missing)}"
    command = as_nobody("unshare", "--user", "--map-root-user", "--net", "true")
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return None if done.returncode == 0 else f"no user namespaces: {done.stderr.strip()}"
