# SPDX-License-Identifier: MIT
"""A wall clock that somebody sets while the tunnel is in use, seen by the daemon and by wg."""

import shutil
from pathlib import Path

import pytest
from netns.clock import YEAR_S, Clock
from netns.lab import Side, eventually, ping

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="not installed: gcc")


def test_wg_show_and_handshakes_work_whatever_it_shows(
    sides: tuple[Side, Side], tmp_path: Path
) -> None:
    left, right = sides
    clock = Clock(tmp_path)
    left.host.run(*clock.wrapper, "wgpy", left.interface)
    right.host.run("wgpy", right.interface)
    left.configure(left.settings(right))
    right.configure(right.settings(left))
    for years in [56.9, 0, 68.05, 136.1, -1, 53]:
        clock.set(years)
        for change in ("down", "up"):  # no session is left
            left.host.run("ip", "link", "set", left.interface, change)
        eventually(lambda: ":51820 " in left.host.run("ss", "-uln"), "an open port")
        ping(left.host, right.inner4)
        assert abs(left.handshake_time() - max(1, years * YEAR_S)) < 3600
        shown = left.host.run(*clock.wrapper, "wg", "show", left.interface)
        assert "transfer: " in shown
        assert "latest handshake: " in shown
