# SPDX-License-Identifier: MIT
"""Holds a daemon to a part of a core, by the cgroup controller "cpu" of either version."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from bench.lab import LabError
from bench.topology import Tunnel

GROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 10_000
QUOTA_US = 1_000  # of each period: a tenth of a core


def controller() -> Path | None:
    """Find the root of the groups that hold processes back; None if there is none to be used."""
    for root, wanted in ((GROUPS, "cgroup.subtree_control"), (GROUPS / "cpu", "cpu.shares")):
        with contextlib.suppress(OSError):
            if "cpu" in (root / wanted).read_text().split() or wanted == "cpu.shares":
                return root
    return None


def group_of(pid: int, root: Path) -> Path:
    """Find the group of the process under a root.  LabError: it is in none."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(",") or (root == GROUPS and not controllers):
            return root / path.lstrip("/")
    raise LabError(f"process {pid} is in no group of {root}")


def hold(group: Path) -> None:
    """Set the quota of a group."""
    if (group / "cpu.max").exists():
        (group / "cpu.max").write_text(f"{QUOTA_US} {PERIOD_US}")
    else:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(QUOTA_US))


@contextlib.contextmanager
def held(tunnel: Tunnel) -> Iterator[None]:
    """Leave the daemon of b a tenth of a core, if it has one and is not in an emulated machine.

    That is slow enough.  LabError: there is no controller.
    """
    pid = tunnel.pids.get("b")
    if pid is None or "WGPY_KERNEL_VM" in os.environ:
        yield
        return
    root = controller()
    if root is None:
        raise LabError("there is no cgroup controller to hold a daemon back")
    before, group = group_of(pid, root), root / f"wgpy-bench-{os.getpid()}"
    group.mkdir()
    try:
        hold(group)
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with contextlib.suppress(OSError):  # it has died
            (before / "cgroup.procs").write_text(str(pid))
        group.rmdir()
