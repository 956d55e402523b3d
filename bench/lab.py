# SPDX-License-Identifier: MIT
"""Implementations of WireGuard, and the processes that they run as."""

import base64
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SOCKETS = Path("/var/run/wireguard")
START_S = 10.0
END_S = 5.0
TAILSCALE_PROGRAM = "wireguard-go-tailscale"  # its own name is that of what it is a fork of


class LabError(Exception):
    """Why something could not be measured, in one line."""


class NotApplicable(LabError):
    """The case makes no sense for this implementation or on this machine."""


@dataclass(frozen=True, slots=True)
class Implementation:
    """A WireGuard to measure."""

    name: str
    command: tuple[str, ...]  # takes the interface's name too, stays in the foreground; (): kernel
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_kernel(self) -> bool:
        """Whether it is a kernel interface, without a daemon."""
        return not self.command


def run(argv: Sequence[str], stdin: str = "", timeout_s: float = 30.0) -> str:
    """Run the command and give what it prints.  LabError: it failed or took too long."""
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(argv)}: not done after {timeout_s:.0f} s") from error
    if done.returncode != 0:
        raise LabError(" ".join(f"{' '.join(argv)}: {done.stdout}{done.stderr}".split()))
    return done.stdout


def until(condition: Callable[[], bool], what: str, timeout_s: float = START_S) -> None:
    """Wait for the condition.  LabError: in vain."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.02)


def end(process: subprocess.Popen[str]) -> None:
    """End a child, kindly at first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
            return


def random_key() -> str:
    """Make what is as good as a public key; nobody uses it."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


# ---- processes ----


def _tasks(pid: int) -> list[Path]:
    return list(Path("/proc", str(pid), "task").iterdir())


def pin(pid: int, cores: set[int]) -> None:
    """Move all threads of a process to these cores."""
    for task in _tasks(pid):
        os.sched_setaffinity(int(task.name), cores)


@contextlib.contextmanager
def pinned(pid: int, core: int) -> Iterator[None]:
    """Keep a process on one core while the context lasts."""
    before = os.sched_getaffinity(pid)
    pin(pid, {core})
    try:
        yield
    finally:
        pin(pid, before)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process took so far, and the memory that it has now."""

    cpu_s: float
    switches: int  # of contexts, wanted or not, by the threads that still run
    resident_mb: float  # 1e6 bytes


def status_number(status: str, name: str) -> int:
    """Read a number of /proc/PID/status."""
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def usage_of(pid: int) -> Usage:
    """Read it from /proc.  LabError: there is no such process any more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        statuses = [(task / "status").read_text() for task in _tasks(pid)]
        resident_kib = status_number(Path(f"/proc/{pid}/status").read_text(), "VmRSS")
    except (OSError, StopIteration) as error:
        raise LabError("a daemon has died") from error
    kinds = "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"
    return Usage(
        cpu_s=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),  # utime, stime
        switches=sum(status_number(status, kind) for status in statuses for kind in kinds),
        resident_mb=resident_kib * 1024 / 1e6,
    )


# ---- what there is to measure ----


def first_line(argv: Sequence[str]) -> str:
    """Give the first line that a command prints, "" if it cannot or will not."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter((done.stdout or done.stderr).splitlines()), "")


def has_kernel_module() -> bool:
    """Tell whether the kernel makes WireGuard interfaces; loads the module if it has to."""
    probe = ["unshare", "--net", "ip", "link", "add", "wgpy-check", "type", "wireguard"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def go_version(path: str) -> str:
    """Tell the module version that a Go program was built from, "" if there is no Go to ask."""
    try:
        done = subprocess.run(
            ["go", "version", "-m", path], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    modules = (line.split() for line in done.stdout.splitlines())
    return next((words[2] for words in modules if words[:1] == ["mod"]), "")


def go_bin() -> str:
    """Tell where Go installs programs."""
    return first_line(["go", "env", "GOBIN"]) or f"{first_line(['go', 'env', 'GOPATH'])}/bin"


def find_built(name: str, program: str, directories: str) -> Implementation | None:
    """Find one that was built from Go's sources, if it is in one of the directories."""
    path = shutil.which(program, path=directories)
    if path is None:
        return None
    version = go_version(path) or "unknown version"
    return Implementation(name, (path, "-f"), f"built from source, {version}")


def find_wireguard_go() -> Implementation | None:
    """Find the newest that Go installed, else the distribution's."""
    built = find_built("wireguard-go", "wireguard", go_bin())
    if built is not None:
        return built
    packaged = shutil.which("wireguard-go")
    if packaged is None:
        return None
    version = first_line([packaged, "--version"]).removeprefix("wireguard-go ")
    package = f"the distribution's {version}"
    if "2022" in version:
        package += ", from before it batched packets"
    return Implementation("wireguard-go", (packaged, "-f"), package)


def find_tailscale() -> Implementation | None:
    """Find Tailscale's fork of wireguard-go, which scripts/bench installs, or one on PATH."""
    directories = os.pathsep.join((go_bin(), os.environ.get("PATH", os.defpath)))
    return find_built("tailscale", TAILSCALE_PROGRAM, directories)


def find_kernel() -> Implementation | None:
    """Find the kernel module."""
    if not has_kernel_module():
        return None
    return Implementation("kernel", (), f"Linux {os.uname().release}")
