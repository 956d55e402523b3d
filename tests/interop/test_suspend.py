# SPDX-License-Identifier: MIT
"""A machine that was suspended does at once what fell due meanwhile.

No machine is suspended but one that was made for that: scripts/kernel-vm --in-memory.  The host's
test starts it, with the files that it takes to run the other test inside.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterator, Set
from contextlib import ExitStack
from pathlib import Path

import pytest
from interop.capture import DATA, Capture
from interop.network import TIMEOUT_S, Network
from interop.traffic import ping
from interop.wireguard import Interface, Peer
from netns.lab import eventually

ROOT = Path(__file__).resolve().parents[2]
STATE = Path("/sys/power/state")
WAKE_ALARM = Path("/sys/class/rtc/rtc0/wakealarm")

KEEPALIVE_S = 15
ASLEEP_S = 20
AT_ONCE_S = 5  # waiting for the interval to pass once more takes thrice as long

# What scripts/kernel-vm and the test inside start.
TOOLS = (
    *("bash", "cat", "chmod", "hostname", "ip", "ln", "mkdir", "mkfifo", "modprobe", "mount"),
    *("ping", "readlink", "setsid", "sh", "sleep", "sync", "timeout", "wg"),
)
SETTINGS = ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/ld.so.cache")
DIRECTORY_LINKS = ("/bin", "/lib", "/lib64", "/sbin", "/var/run")
NEEDLESS = {"test", "idlelib", "tkinter", "ensurepip"}  # of the standard library


# ---- inside ----


def unfit() -> str:
    """Why this machine is not to be suspended ("": it may be)."""
    if "WGPY_KERNEL_VM" not in os.environ or not Path("/run/kernel-vm/main").exists():
        return "only a machine of scripts/kernel-vm is suspended"
    if " / tmpfs " not in Path("/proc/mounts").read_text():
        return "the host's files do not survive it: scripts/kernel-vm --in-memory"
    if not STATE.exists() or "mem" not in STATE.read_text().split():
        return "this machine cannot suspend to memory"
    if not WAKE_ALARM.exists():
        return "this machine has no clock that wakes it"
    return ""


def suspend(seconds: int) -> float:
    """Returns for how long the machine really slept."""
    before_s = asleep_s()
    WAKE_ALARM.write_text("0")
    WAKE_ALARM.write_text(f"+{seconds}")
    STATE.write_text("mem")
    return asleep_s() - before_s


def asleep_s() -> float:
    """How much of the time since its boot the machine has slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


@pytest.fixture
def network() -> Iterator[Network]:
    made = Network.named(f"wgpy-s{os.getpid()}")
    try:
        made.create()
        yield made
    finally:
        made.delete()


@pytest.mark.slow
@pytest.mark.skipif(unfit() != "", reason=unfit())
def test_a_keepalive_that_fell_due_during_a_suspend_is_sent_at_once(network: Network) -> None:
    with ExitStack() as stack:
        ends = (
            Interface("wgpy", network.left, f"wgs{os.getpid()}-1", "10.77.0.1", "fd77::1"),
            Interface("wgpy", network.right, f"wgs{os.getpid()}-2", "10.77.0.2", "fd77::2"),
        )
        for end in ends:
            stack.callback(end.vanish)
            end.start()
        left, right = ends
        for end in ends:
            end.ready()
            end.renew_keys()
        left.configure(Peer(right))
        right.configure(Peer(left, outside=None))
        capture = stack.enter_context(Capture(network.router, "left"))

        def sent() -> bool:
            return any(one.arrived and one.kind == DATA for one in capture.datagrams())

        left.set("peer", right.public_key, "persistent-keepalive", str(KEEPALIVE_S))
        eventually(sent, "the first keepalive", TIMEOUT_S)
        assert suspend(ASLEEP_S) > KEEPALIVE_S
        eventually(sent, "the keepalive that is due", AT_ONCE_S)
        ping(left.host, right.inner4)


# ---- outside ----


def missing() -> str:
    """What it takes to start such a machine ("": it is all there)."""
    if "WGPY_KERNEL_VM" in os.environ:
        return "a machine that can be suspended is started by the host"
    needed = ("qemu-system-x86_64", "ldd", *TOOLS)
    absent = [tool for tool in needed if shutil.which(tool) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def machine_files() -> set[Path]:
    """Files and links, for this Python with what it has installed, the tests and the tools."""
    library = Path(sysconfig.get_path("stdlib"))
    files = {ROOT / "pyproject.toml", Path(sys.executable)}
    files |= {Path(name) for name in (*SETTINGS, *DIRECTORY_LINKS)}
    files |= {Path(found) for tool in TOOLS if (found := shutil.which(tool))}
    for tree in (ROOT / "wgpy", ROOT / "tests", Path(sys.prefix)):
        files |= set(files_below(tree))
    files |= set(files_below(library, NEEDLESS | {"site-packages", "dist-packages"}))
    for file in [*files]:
        if file.is_file() and (file.suffix == ".so" or os.access(file, os.X_OK)):
            files |= libraries(file)
    return {link for file in files for link in with_targets(file)}


def files_below(tree: Path, without: Set[str] = frozenset()) -> Iterator[Path]:
    for directory, subdirectories, names in os.walk(tree):
        subdirectories[:] = set(subdirectories) - without
        yield from (Path(directory, name) for name in names)


def libraries(file: Path) -> set[Path]:
    """What the file, if it is a program or library, is linked with, and the loader."""
    said = subprocess.run(["ldd", file], capture_output=True, text=True, check=False).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", said)}


def with_targets(path: Path) -> Iterator[Path]:
    """The path, without symbolic links on the way, and all that it points to."""
    while path.exists():
        path = path.parent.resolve() / path.name
        yield path
        if not path.is_symlink():
            return
        path = path.parent / path.readlink()


@pytest.mark.slow
@pytest.mark.skipif(missing() != "", reason=missing())
def test_in_a_machine_of_its_own_the_other_test_passes(tmp_path: Path) -> None:
    archive = tmp_path / "files.tar"
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for file in sorted(machine_files()):
            tar.add(file, recursive=False)
    inside = "test_a_keepalive_that_fell_due_during_a_suspend_is_sent_at_once"
    done = subprocess.run(
        [
            *(ROOT / "scripts" / "kernel-vm", "--in-memory", archive, "--timeout", "240", "--"),
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"{__file__}::{inside}"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert " 1 passed " in done.stdout, done.stdout + done.stderr
